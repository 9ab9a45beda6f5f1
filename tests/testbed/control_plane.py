"""A real Kubernetes control plane on loopback: etcd, kube-apiserver, kube-controller-manager.

There is no kubelet: `tests.testbed.kubelet` moves pods as the tests say. All data lies in one folder and is
thrown away; processes are killed by their own process ids, the API server before etcd (without etcd it would
hold on to its port).
"""

import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from tests.testbed.certificates import new_key, server_certificate
from tests.testbed.go_commands import build

VERSION = "v1.36.3"
_MAJOR, _MINOR, _ = VERSION.removeprefix("v").split(".")
_VERSION_OF = "k8s.io/component-base/version"
STAMPS = {
    f"{_VERSION_OF}.gitVersion": VERSION,
    f"{_VERSION_OF}.gitMajor": _MAJOR,
    f"{_VERSION_OF}.gitMinor": _MINOR,
}
"""What the commands of Kubernetes say of themselves."""
READY_SECONDS = 60.0
SERVICE_ADDRESSES = "10.96.0.0/16"
ADMIN = "admin"
CONTROLLERS = "system:kube-controller-manager"


def binaries(say: Callable[[str], None] = lambda line: None) -> dict[str, Path]:
    """The commands, built on the first call on a machine (some six minutes on two cores)."""
    folders = {"etcd": build("etcd", say=say), "kubernetes": build("kubernetes", STAMPS, say)}
    found = {path.name: path for folder in folders.values() for path in folder.iterdir()}
    return {**found, "etcd": found["server"]}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def etcd_flags(folder: Path, port: int, peer_port: int) -> tuple[str, ...]:
    """One member on loopback, without the care for a power cut that costs time."""
    client, peer = (f"http://127.0.0.1:{one}" for one in (port, peer_port))
    return (
        f"--data-dir={folder / 'etcd'}",
        *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
        *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
    )


def apiserver_flags(folder: Path, etcd_port: int) -> tuple[str, ...]:
    """Where it keeps its data and whom it believes; where it listens and what else it does is not here."""
    key = folder / "service-accounts.key"
    return (
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        f"--tls-cert-file={folder / 'apiserver.crt'}",
        f"--tls-private-key-file={folder / 'apiserver.key'}",
        f"--token-auth-file={folder / 'tokens.csv'}",
        *(f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"),
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-cluster-ip-range={SERVICE_ADDRESSES}",
        f"--cert-dir={folder / 'own-certificates'}",
    )


def controllers_flags(folder: Path, kubeconfig: Path) -> tuple[str, ...]:
    """A single one that need not save requests, and listens nowhere."""
    return (
        f"--kubeconfig={kubeconfig}",
        "--leader-elect=false",
        f"--service-account-private-key-file={folder / 'service-accounts.key'}",
        f"--root-ca-file={folder / 'ca.crt'}",
        *("--kube-api-qps=300", "--kube-api-burst=400"),
        "--use-service-account-credentials=true",
        *("--bind-address=127.0.0.1", "--secure-port=0"),
    )


def new_tokens(folder: Path, groups: Mapping[str, str]) -> dict[str, str]:
    """A token for each user and its group (where it has one), told to the API server by `tokens.csv`."""
    tokens = {user: secrets.token_hex(16) for user in groups}
    file = folder / "tokens.csv"
    file.touch(mode=0o600)
    file.write_text("".join(f'{tokens[user]},{user},{user},"{groups[user]}"\n' for user in groups))
    return tokens


def write_kubeconfig(path: Path, server: str, authority: Path, user: str, token: str) -> Path:
    """A user's way in, by a token."""
    content: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "testbed",
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": user}}],
        "clusters": [
            {"name": "testbed", "cluster": {"server": server, "certificate-authority": str(authority)}}
        ],
        "users": [{"name": user, "user": {"token": token}}],
    }
    # In one step: another thread may be reading it.
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    unfinished.touch(mode=0o600)
    unfinished.write_text(yaml.safe_dump(content))
    return unfinished.replace(path)


@dataclass
class ControlPlane:
    """The three processes and what they keep; each can be killed and started again to play an outage."""

    folder: Path
    commands: dict[str, Path]
    tokens: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.ports['apiserver']}"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.kubeconfig_of(ADMIN)

    def start(self) -> None:
        """Start everything; returns when the API server is ready and the controllers have begun."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ports = {name: free_port() for name in ("apiserver", "etcd", "peers")}
        server_certificate(
            self.folder,
            "apiserver",
            ("127.0.0.1", "10.96.0.1"),
            ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"),
        )
        new_key(self.folder / "service-accounts.key")
        self.tokens = new_tokens(self.folder, {ADMIN: "system:masters", CONTROLLERS: ""})
        self.start_etcd()
        self.start_apiserver()
        self.wait_ready()
        self.start_controllers()

    def start_etcd(self) -> None:
        flags = etcd_flags(self.folder, self.ports["etcd"], self.ports["peers"])
        self._start("etcd", self.commands["etcd"], *flags)

    def start_apiserver(self) -> None:
        self._start(
            "apiserver",
            self.commands["kube-apiserver"],
            *apiserver_flags(self.folder, self.ports["etcd"]),
            *("--bind-address=127.0.0.1", f"--secure-port={self.ports['apiserver']}"),
            "--authorization-mode=RBAC",
            "--endpoint-reconciler-type=none",
        )

    def start_controllers(self) -> None:
        flags = controllers_flags(self.folder, self.kubeconfig_of(CONTROLLERS))
        self._start("controllers", self.commands["kube-controller-manager"], *flags)

    def stop(self) -> None:
        """Kill what is running, the API server first."""
        for name in ("controllers", "apiserver", "etcd"):
            self.kill(name)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to one of `etcd`, `apiserver`, `controllers` and wait for its end."""
        process = self.running.pop(name, None)
        if process is not None:
            process.send_signal(number)
            process.wait(timeout=60)

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until the API server says that it is ready."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if self.get("/readyz") == b"ok":
                    return
            except (OSError, urllib.error.URLError):
                pass
            for name, process in self.running.items():
                assert process.poll() is None, f"{name} ended with {process.returncode}:\n{self.log(name)}"
            assert time.monotonic() < deadline, f"not ready after {seconds} s:\n{self.log('apiserver')}"
            time.sleep(0.05)

    def get(self, path: str) -> bytes:
        """What the API server answers to the administrator."""
        request = urllib.request.Request(
            f"{self.address}{path}", headers={"Authorization": f"Bearer {self.tokens[ADMIN]}"}
        )
        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        with urllib.request.urlopen(request, context=context, timeout=5) as answer:
            content: bytes = answer.read()
            return content

    def kubeconfig_of(self, user: str, token: str | None = None, server: str | None = None) -> Path:
        """A kubeconfig for a user of the token file, or for a token, at the server or a proxy before it."""
        path = self.folder / f"{user.replace(':', '-').replace('/', '-')}.kubeconfig"
        return write_kubeconfig(
            path, server or self.address, self.folder / "ca.crt", user, token or self.tokens[user]
        )

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints; an error carries what it complained about."""
        done = subprocess.run(
            [str(self.commands["kubectl"]), *arguments],
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def kubectl_json(self, *arguments: str) -> Any:
        return json.loads(self.kubectl(*arguments, "-o", "json"))

    def log(self, name: str) -> str:
        """The end of a process's log."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-3_000:]

    def _start(self, name: str, command: Path, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [str(command), *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )


if __name__ == "__main__":
    tell = partial(print, flush=True)  # a log is read while it is written
    binaries(tell)
    build("kuberay", say=tell)  # the tests of RayJobs have its controller beside the control plane
