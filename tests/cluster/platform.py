"""The whole platform on a node, and what a team does with it: photos in S3, two resources, requests."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.cluster.namespaces import Namespace, Object
from tests.testbed.addons import install as addons
from tests.testbed.addons import store
from tests.testbed.addons.tunesmith import DOMAIN
from tests.testbed.go_commands import cache_folder
from tests.testbed.kube_api import wait_for
from tests.testbed.node import Node

REPOSITORY = Path(__file__).parents[2]
PHOTOS = Path(os.environ.get("TUNESMITH_PHOTOS", REPOSITORY.parent / "shared" / "data")) / "hymenoptera"
EXAMPLE = REPOSITORY / "manifests" / "examples" / "insects.yaml"
WEIGHTS = "weights/mobilenet_v2.safetensors"
SECRET = "store"
REVISION = "x-tunesmith-revision"


@dataclass(frozen=True)
class Photo:
    """An image and what is on it."""

    path: Path
    label: str


def photos(split: str) -> list[Photo]:
    """The real photos of a split, those of the classes taking turns."""
    by_class = [
        [Photo(path, folder.name) for path in sorted(folder.glob("*.jpg"))]
        for folder in sorted((PHOTOS / split).iterdir())
    ]
    turns = zip(*by_class, strict=False)
    return [photo for turn in turns for photo in turn]


def mobilenet_weights() -> Path:
    """Pretrained weights, fetched once per machine."""
    folder = cache_folder().parent / "weights"
    found = folder / "mobilenet_v2.safetensors"
    if not found.exists():
        command = [sys.executable, "-m", "tunesmith", "fetch", "weights", "mobilenet_v2", "--to", str(folder)]
        subprocess.run(command, check=True)
    return found


@dataclass(frozen=True)
class Platform:
    """A node with everything on it."""

    node: Node

    @property
    def gateway(self) -> str:
        """Where predictions are asked for from this machine."""
        return f"http://{addons.GATEWAY_ADDRESS}"

    def s3(self) -> Any:
        return store.store(self.node.folder).client()

    def upload(self, prefix: str, files: Iterator[tuple[str, Path]]) -> None:
        """Put files under a prefix of the bucket of data sets."""
        client = self.s3()
        for name, path in files:
            client.put_object(Bucket="datasets", Key=f"{prefix}/{name}", Body=path.read_bytes())
        client.close()

    def fill(self) -> list[Photo]:
        """Put the weights into the bucket of data sets, and 240 photos, which are returned, as `insects`."""
        self.s3().put_object(Bucket="datasets", Key=WEIGHTS, Body=mobilenet_weights().read_bytes())
        some = [*photos("train"), *photos("val")][:240]
        self.upload("insects", ((f"{one.label}/{one.path.name}", one.path) for one in some))
        return some

    def forget(self) -> None:
        """Empty the bucket of models: a job of the same name and spec takes up the work of an earlier one."""
        client = self.s3()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket="models"):
            for one in page.get("Contents", []):
                client.delete_object(Bucket="models", Key=one["Key"])
        client.close()

    def secret(self) -> Object:
        """The credentials of the store, as a team has them in its namespace."""
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET},
            "stringData": store.store(self.node.folder).credentials,
        }


@dataclass(frozen=True)
class Team:
    """A namespace of a team, with its Secret."""

    platform: Platform
    namespace: Namespace

    def train(self, name: str, dataset: str, **spec: Any) -> None:
        """Submit a TrainingJob with a small search."""
        self.namespace.apply(training_job(name, dataset, **spec))

    def deploy(self, name: str, job: str) -> None:
        """Submit the example's ModelDeployment for a job's model."""
        _, deployment = example()
        deployment["metadata"]["name"] = name
        deployment["spec"]["model"]["trainingJob"] = job
        self.namespace.apply(deployment)

    def merge(self, kind: str, name: str, change: Object) -> None:
        """Patch an object of the team's."""
        target = ("--namespace", self.namespace.name, kind, name)
        self.namespace.kubectl("patch", *target, "--type=merge", f"--patch={json.dumps(change)}")

    @contextlib.contextmanager
    def client(self) -> Iterator[None]:
        """The Python client and commands that are started speak to this cluster."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KUBECONFIG", str(self.platform.node.kubeconfig))
            yield

    def tunesmith(self, *arguments: str) -> str:
        """What a command prints."""
        command = [sys.executable, "-m", "tunesmith", *arguments, "--namespace", self.namespace.name]
        with self.client():
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def status(self, kind: str, name: str) -> Object:
        found = self.namespace.find(kind, name) or {}
        status: Object = found.get("status") or {}
        return status

    def condition(self, kind: str, name: str, condition: str) -> Object:
        conditions = self.status(kind, name).get("conditions") or ()
        return next((one for one in conditions if one["type"] == condition), {})

    def wait_for(self, kind: str, name: str, condition: str, seconds: float, **fields: str) -> Object:
        """A condition with these fields."""

        def look() -> Object | None:
            found = self.condition(kind, name, condition)
            return found if found and all(found[key] == value for key, value in fields.items()) else None

        try:
            return wait_for(look, f"{condition} of {kind} {name} with {fields}", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.status(kind, name)}\n{self.pods()}") from error

    def trained(self, name: str, seconds: float = 400) -> Object:
        """The model of a job that succeeded."""
        self.wait_for("trainingjob", name, "Succeeded", seconds, status="True")
        model: Object = self.status("trainingjob", name)["model"]
        return model

    def pods(self) -> str:
        """The namespace's pods and events, for errors."""
        where = ("--namespace", self.namespace.name)
        kubectl = self.namespace.kubectl
        return kubectl("get", "pods", "--output=wide", *where) + kubectl("get", "events", *where)

    def host(self, name: str) -> str:
        return f"{name}.{self.namespace.name}.{DOMAIN}"

    def ask(self, name: str, photo: Photo, verb: str = "predict", **headers: str) -> httpx.Response:
        """What the deployment answers to a photo, through the gateway."""
        return httpx.post(
            f"{self.platform.gateway}/v1/models/{name}:{verb}",
            content=photo.path.read_bytes(),
            headers={"Host": self.host(name), "Content-Type": "image/jpeg", **headers},
            timeout=10,
        )


def example() -> tuple[Object, Object]:
    """The TrainingJob and the ModelDeployment of the example that this platform's data are made for."""
    job, deployment = yaml.safe_load_all(EXAMPLE.read_text())
    return job, deployment


def training_job(name: str, dataset: str, **spec: Any) -> Object:
    """The example's small search over heads on MobileNetV2's features, with another data set."""
    job, _ = example()
    job["metadata"]["name"] = name
    job["spec"] |= spec
    job["spec"]["dataset"]["uri"] = f"s3://datasets/{dataset}"
    return job
