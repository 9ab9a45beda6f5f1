"""Kubeflow Trainer, a peer to measure beside: its controller and JobSet's, with their webhooks.

Both come from their Go modules, with the CRDs and webhook configurations that these bring. The controllers
run on loopback as administrators, so their webhooks are called by address instead of by Service; all else,
limits of requests a second among them, is what their own default configuration says.
"""

import base64
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from tests.testbed.certificates import server_certificate
from tests.testbed.control_plane import ControlPlane, free_port
from tests.testbed.go_commands import build, sources
from tests.testbed.kube_api import Api, wait_for

from tunesmith_operator.kinds import Kind

MODULE = "kubeflow_trainer"
TRAINER, JOBSET = "github.com/kubeflow/trainer/v2", "sigs.k8s.io/jobset"
TRAIN_JOB = Kind("trainer.kubeflow.org/v1alpha1", "TrainJob", "trainjobs")
RUNTIME = Kind("trainer.kubeflow.org/v1alpha1", "TrainingRuntime", "trainingruntimes")
READY_SECONDS = 60.0


@dataclass
class KubeflowPeer:
    """Both controllers on a control plane, from `start` to `stop`."""

    plane: ControlPlane
    folder: Path
    api: Api
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, say: Callable[[str], None] = lambda line: None) -> None:
        """Install the CRDs, start the controllers, then have the API server ask their webhooks."""
        commands = build(MODULE, say=say)
        trainer, jobset = (sources(MODULE, module) for module in (TRAINER, JOBSET))
        self._apply(trainer / "manifests" / "base" / "crds", "trainer.kubeflow.org_*.yaml")
        self._apply(jobset / "config" / "components" / "crd" / "bases", "*.yaml")
        ports = {name: free_port() for name in ("trainer", "trainer status", "jobset")}
        self._run(
            "trainer",
            commands / "trainer-controller-manager",
            {
                "apiVersion": "config.trainer.kubeflow.org/v1alpha1",
                "kind": "Configuration",
                "health": {"healthProbeBindAddress": "0"},
                "metrics": {"bindAddress": "0"},
                "webhook": {"port": ports["trainer"], "host": "127.0.0.1"},
                "leaderElection": {"leaderElect": False},
                "certManagement": {"enable": False},
                # As manifests/base/manager/controller_manager_config.yaml has them.
                "controller": {
                    "groupKindConcurrency": {
                        "TrainJob.trainer.kubeflow.org": 5,
                        "TrainingRuntime.trainer.kubeflow.org": 1,
                        "ClusterTrainingRuntime.trainer.kubeflow.org": 1,
                    }
                },
                "clientConnection": {"qps": 50, "burst": 100},
                "statusServer": {"port": ports["trainer status"], "qps": 5, "burst": 10},
            },
        )
        self._run(
            "jobset",
            commands / "jobset",
            {
                "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
                "kind": "Configuration",
                "health": {"healthProbeBindAddress": "0"},
                "metrics": {"bindAddress": "0"},
                "webhook": {"port": ports["jobset"], "host": "127.0.0.1"},
                "leaderElection": {"leaderElect": False},
                "internalCertManagement": {"enable": False},
            },
        )
        self._install_webhooks(
            "trainer", trainer / "manifests" / "base" / "webhook" / "manifests.yaml", ports
        )
        self._install_webhooks(
            "jobset", jobset / "config" / "components" / "webhook" / "manifests.yaml", ports
        )

    def create_runtime(self, namespace: str, pod: dict[str, Any]) -> None:
        """A plain runtime: one Job of one pod, no machine learning policy."""
        labels = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
        template = {"metadata": {"labels": labels}, "spec": {"template": {"spec": pod}}}
        job = {"name": "node", "template": template}
        body = {
            "apiVersion": RUNTIME.api_version,
            "kind": RUNTIME.name,
            "metadata": {"name": "plain", "namespace": namespace},
            "spec": {"template": {"spec": {"replicatedJobs": [job]}}},
        }

        def created() -> bool:
            """The webhook's server is there a moment after its process."""
            self._check()
            try:
                self.api.create(RUNTIME, body)
            except httpx.HTTPStatusError as error:
                if error.response.status_code >= 500 or error.response.status_code == 404:
                    return False
                raise
            return True

        wait_for(created, "Kubeflow Trainer takes a runtime", READY_SECONDS)

    def submit(self, namespace: str, name: str) -> None:
        """Create a TrainJob of the plain runtime."""
        body = {
            "apiVersion": TRAIN_JOB.api_version,
            "kind": TRAIN_JOB.name,
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"runtimeRef": {"kind": RUNTIME.name, "name": "plain"}},
        }
        self.api.create(TRAIN_JOB, body)

    def stop(self) -> None:
        """Kill both."""
        for process in self.running.values():
            process.kill()
            process.wait()

    def log(self, name: str) -> str:
        return (self.folder / name / "log").read_text(errors="replace")[-3_000:]

    def _check(self) -> None:
        for name, process in self.running.items():
            assert process.poll() is None, f"{name} ended:\n{self.log(name)}"

    def _apply(self, folder: Path, pattern: str) -> None:
        for file in sorted(folder.glob(pattern)):
            self.plane.kubectl("apply", "--server-side", "-f", str(file))
            name = yaml.safe_load(file.read_text())["metadata"]["name"]
            self.plane.kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=30s")

    def _run(self, name: str, command: Path, configuration: dict[str, Any]) -> None:
        own = self.folder / name
        served = own / "k8s-webhook-server" / "serving-certs"  # where controller-runtime looks, below TMPDIR
        served.mkdir(parents=True)
        pair = server_certificate(own, "webhook", ("127.0.0.1",), ("localhost",))
        shutil.copy(pair.certificate, served / "tls.crt")
        shutil.copy(pair.key, served / "tls.key")
        file = own / "configuration.yaml"
        file.write_text(yaml.safe_dump(configuration))
        environment = {**os.environ, "KUBECONFIG": str(self.plane.kubeconfig), "TMPDIR": str(own)}
        with (own / "log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                [str(command), f"--config={file}"],
                env=environment,
                cwd=own,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _install_webhooks(self, name: str, manifest: Path, ports: dict[str, int]) -> None:
        authority = base64.b64encode((self.folder / name / "ca.crt").read_bytes()).decode()
        for document in _documents(manifest):
            document["metadata"]["name"] = f"{name}-{document['kind'].lower()}"
            for webhook in document["webhooks"]:
                path = webhook["clientConfig"]["service"]["path"]
                url = f"https://127.0.0.1:{ports[name]}{path}"
                webhook["clientConfig"] = {"url": url, "caBundle": authority}
                if path.endswith("-pod"):  # as JobSet's own patches have it: only its own pods
                    mark = {"key": "jobset.sigs.k8s.io/jobset-name", "operator": "Exists"}
                    webhook["objectSelector"] = {"matchExpressions": [mark]}
            self.plane.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(document))


def _documents(manifest: Path) -> Iterator[dict[str, Any]]:
    return (one for one in yaml.safe_load_all(manifest.read_text()) if one)
