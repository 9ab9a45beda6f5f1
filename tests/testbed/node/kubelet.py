"""What the kubelet and kube-proxy are told."""

from pathlib import Path
from typing import Any

import yaml
from tests.testbed.node.addresses import ADDRESS, DNS_SERVICE, DOMAIN, NODE, PODS
from tests.testbed.node.commands import Commands
from tests.testbed.node.containerd import SOCKET

RESOLVER, KUBELET, PROXY = "resolv.conf", "kubelet.yaml", "proxy.yaml"
EVICTION_SIGNALS = (
    *("memory.available", "nodefs.available", "nodefs.inodesFree"),
    *("imagefs.available", "imagefs.inodesFree"),
)


def configure(folder: Path, proxy_kubeconfig: Path) -> None:
    """Write the configurations of both; kube-proxy ends when its own is written again."""
    (folder / RESOLVER).write_text(f"nameserver {DNS_SERVICE}\n")
    (folder / KUBELET).write_text(yaml.safe_dump(_kubelet(folder)))
    (folder / PROXY).write_text(yaml.safe_dump(_proxy(proxy_kubeconfig)))


def kubelet_command(folder: Path, commands: Commands, kubeconfig: Path) -> list[str]:
    return [
        commands["kubelet"],
        *(f"--config={folder / KUBELET}", f"--kubeconfig={kubeconfig}"),
        *(f"--hostname-override={NODE}", f"--node-ip={ADDRESS}"),
    ]


def proxy_command(folder: Path, commands: Commands) -> list[str]:
    return [commands["kube-proxy"], f"--config={folder / PROXY}"]


def _kubelet(folder: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ADDRESS,
        "healthzBindAddress": "127.0.0.1",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(folder / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(folder / "kubelet.crt"),
        "tlsPrivateKeyFile": str(folder / "kubelet.key"),
        "clusterDomain": DOMAIN,
        "clusterDNS": [DNS_SERVICE],
        "resolvConf": str(folder / RESOLVER),
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "enforceNodeAllocatable": [],
        # Nothing can be pulled again, and a developer's disk may be as full as they like.
        "imageGCHighThresholdPercent": 100,
        "imageMaximumGCAge": "0s",
        "evictionHard": dict.fromkeys(EVICTION_SIGNALS, "0%"),
        "serializeImagePulls": False,
        "nodeStatusUpdateFrequency": "4s",
        "syncFrequency": "10s",
    }


def _proxy(kubeconfig: Path) -> dict[str, Any]:
    """In nftables mode all that it changes is in tables of its own."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "mode": "nftables",
        "hostnameOverride": NODE,
        "clusterCIDR": PODS,
        "bindAddress": ADDRESS,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "nodePortAddresses": [f"{ADDRESS}/32"],
        # The machine's limits of connections stay as they are.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
        # A Service's answer comes back by way of the node, where addresses are put back. Else pods on the
        # bridge would need br_netfilter for that, which changes every other bridge of the machine.
        "nftables": {"masqueradeAll": True, "minSyncPeriod": "0s"},
    }
