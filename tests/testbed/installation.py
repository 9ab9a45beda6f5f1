"""What Helm makes of the chart and kubectl of the kustomizations, as plain objects."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from tests.testbed.kube_api import Object
from tests.testbed.tools import helm, kubectl

REPOSITORY = Path(__file__).parents[2]
CHART = REPOSITORY / "charts" / "tunesmith"
MANIFESTS = REPOSITORY / "manifests"
RELEASE, NAMESPACE = "tunesmith", "tunesmith-system"
Key = tuple[str, str, str]


class Refused(Exception):
    """What Helm complained about."""


def run_helm(*arguments: str, home: Path | None = None, kubeconfig: Path | None = None) -> str:
    """What Helm prints.

    Args:
        arguments: its own.
        home: where it keeps what it keeps; for commands that talk to a cluster.
        kubeconfig: of that cluster.

    Raises:
        Refused: it failed.
    """
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig or os.devnull)}
    if home is not None:
        environment |= {f"HELM_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
    done = subprocess.run(
        [str(helm()), *arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout


def set_values(values: Mapping[str, Any]) -> list[str]:
    """Helm's flags for values by their paths."""
    return [part for path, value in values.items() for part in ("--set-json", f"{path}={json.dumps(value)}")]


def rendered(
    values: Mapping[str, Any] | None = None,
    *flags: str,
    release: str = RELEASE,
    namespace: str = NAMESPACE,
) -> dict[Key, Object]:
    """The chart's objects by kind, namespace and name; values by their paths, like `operator.replicas`."""
    text = run_helm(
        "template", release, str(CHART), "--namespace", namespace, *set_values(values or {}), *flags
    )
    return by_key(text)


def kustomized(folder: Path) -> dict[Key, Object]:
    """A kustomization's objects by kind, namespace and name."""
    done = subprocess.run(
        [str(kubectl()), "kustomize", str(folder)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return by_key(done.stdout)


def by_key(text: str) -> dict[Key, Object]:
    objects = [one for one in yaml.load_all(text, yaml.CSafeLoader) if one]
    found = {
        (one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]): one for one in objects
    }
    assert len(found) == len(objects), "an object is there twice"
    return found


def comparable(one: Object) -> Object:
    """An object, rendered or stored, without what only says how and when it was installed."""
    content = {key: value for key, value in one.items() if key not in ("metadata", "status")}
    if one["kind"] == "Service":
        content["spec"] = {key: value for key, value in one["spec"].items() if "clusterIP" not in key}
    metadata = {key: value for key, value in one["metadata"].items() if key in ("name", "namespace")}
    ours = ("app.kubernetes.io/", "helm.sh/")
    labels = {
        key: value for key, value in one["metadata"].get("labels", {}).items() if not key.startswith(ours)
    }
    return {**content, "metadata": {**metadata, "labels": labels}}


def container(objects: Mapping[Key, Object]) -> Object:
    """The operator's container."""
    (deployment,) = [one for one in objects.values() if one["kind"] == "Deployment"]
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    found: Object = only
    return found
