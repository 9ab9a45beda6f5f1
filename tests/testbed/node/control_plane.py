"""The node's control plane: who may speak to it, and with what flags it runs.

It is that of `tests.testbed.control_plane`, but where pods can reach it, and it speaks to a kubelet.
"""

import json
import ssl
import urllib.request
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import yaml
from tests.testbed.certificates import Authority, new_key
from tests.testbed.control_plane import (
    ADMIN,
    CONTROLLERS,
    apiserver_flags,
    controllers_flags,
    etcd_flags,
    free_port,
    new_tokens,
    write_kubeconfig,
)
from tests.testbed.node.addresses import ADDRESS, APISERVER_PORT, KUBERNETES_SERVICE, NODE
from tests.testbed.node.commands import Commands

SCHEDULER, PROXY, KUBELET = "system:kube-scheduler", "system:kube-proxy", f"system:node:{NODE}"
GROUPS = {ADMIN: "system:masters", CONTROLLERS: "", SCHEDULER: "", PROXY: "", KUBELET: "system:nodes"}
SERVER = f"https://{ADDRESS}:{APISERVER_PORT}"
LIFETIME = timedelta(days=365)
PORTS = "etcd-ports.json"


def kubeconfig_of(folder: Path, user: str) -> Path:
    return folder / f"{user.replace(':', '-')}.kubeconfig"


def write_identities(folder: Path) -> None:
    """Certificates, a token and a kubeconfig for each user, and ports for etcd that are free now."""
    authority = Authority(folder, LIFETIME)
    hosts = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
    authority.server("apiserver", ("127.0.0.1", ADDRESS, KUBERNETES_SERVICE), hosts)
    authority.server("kubelet", (ADDRESS,), (NODE,))
    authority.client("kubelet-client", "apiserver-kubelet-client", "system:masters")
    new_key(folder / "service-accounts.key")
    (folder / PORTS).write_text(json.dumps([free_port(), free_port()]))
    for user, token in new_tokens(folder, GROUPS).items():
        write_kubeconfig(kubeconfig_of(folder, user), SERVER, authority.certificate, user, token)


def answer(folder: Path, path: str) -> bytes | None:
    """What the API server answers to the administrator; nothing while it is not there or has no answer.

    kubectl would ask for the same, at a tenth of a second of a processor each time.
    """
    content = yaml.safe_load(kubeconfig_of(folder, ADMIN).read_text())
    request = urllib.request.Request(
        f"{SERVER}{path}", headers={"Authorization": f"Bearer {content['users'][0]['user']['token']}"}
    )
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    try:
        with urllib.request.urlopen(request, context=context, timeout=5) as reply:
            found: bytes = reply.read()
            return found
    except OSError:  # urllib's errors are of this kind
        return None


@dataclass(frozen=True)
class ControlPlaneCommands:
    """The command line of each process."""

    etcd: list[str]
    apiserver: list[str]
    controllers: list[str]
    scheduler: list[str]


def command_lines(folder: Path, commands: Commands) -> ControlPlaneCommands:
    """The same ones whenever it is asked for the same folder."""
    etcd_port, peer_port = json.loads((folder / PORTS).read_text())
    kubelet_client = folder / "kubelet-client"
    return ControlPlaneCommands(
        etcd=[commands["etcd"], *etcd_flags(folder, etcd_port, peer_port)],
        apiserver=[
            commands["kube-apiserver"],
            *apiserver_flags(folder, etcd_port),
            *(f"--bind-address={ADDRESS}", f"--secure-port={APISERVER_PORT}"),
            f"--advertise-address={ADDRESS}",
            *("--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"),
            f"--client-ca-file={folder / 'ca.crt'}",
            f"--kubelet-client-certificate={kubelet_client}.crt",
            f"--kubelet-client-key={kubelet_client}.key",
            "--kubelet-preferred-address-types=InternalIP",
        ],
        controllers=[
            commands["kube-controller-manager"],
            *controllers_flags(folder, kubeconfig_of(folder, CONTROLLERS)),
        ],
        scheduler=[
            commands["kube-scheduler"],
            f"--kubeconfig={kubeconfig_of(folder, SCHEDULER)}",
            *("--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=0"),
        ],
    )
