"""The bridge that pods hang on, its routes, and the guards that keep their packets on this machine."""

import contextlib
import json
from pathlib import Path

from tests.testbed.node import machine
from tests.testbed.node.addresses import ADDRESS, BRIDGE, PODS, SERVICES
from tests.testbed.node.tools import ToolFailed, output

GUARD = "tunesmith_testbed"
PROXY_TABLES = (("ip", "kube-proxy"), ("ip6", "kube-proxy"))
"""What kube-proxy makes, and leaves when it is killed."""
WANTED = {
    "net.ipv4.ip_forward": 1,
    # Debian's limits of watches and keyrings are for a few users, not for dozens of pods.
    "fs.inotify.max_user_instances": 1024,
    "fs.inotify.max_user_watches": 262144,
    "kernel.keys.maxkeys": 2000,
}
SET_BY_KUBELET = ("kernel.panic", "kernel.panic_on_oops", "vm.overcommit_memory")


def up() -> None:
    """Make it so; what is so already stays."""
    machine.raise_sysctls(WANTED, SET_BY_KUBELET)
    if not exists():
        output("ip", "link", "add", BRIDGE, "type", "bridge")
    output("ip", "address", "replace", f"{ADDRESS}/{PODS.partition('/')[2]}", "dev", BRIDGE)
    output("ip", "link", "set", BRIDGE, "up")
    output("ip", "route", "replace", SERVICES, "dev", BRIDGE)
    output("nft", "-f", "-", stdin=guards(forwards=machine.saved_sysctls()["net.ipv4.ip_forward"] == "1"))


def guards(*, forwards: bool) -> str:
    """Rules for nft: pods reach each other and the node's address, nobody outside, and nobody outside them.

    Args:
        forwards: whether the machine forwarded packets before; if not, it begins to for the bridge alone.
    """
    rest = "accept" if forwards else "drop"
    return f"""
        table inet {GUARD}
        delete table inet {GUARD}
        table inet {GUARD} {{
          chain forwarded {{
            type filter hook forward priority filter - 10; policy {rest};
            iifname "{BRIDGE}" oifname "{BRIDGE}" accept
            iifname "{BRIDGE}" counter drop
            oifname "{BRIDGE}" counter drop
          }}
          chain arriving {{
            type filter hook input priority filter - 10; policy accept;
            iifname "{BRIDGE}" ip daddr != {ADDRESS} counter drop
            iifname "{BRIDGE}" meta nfproto ipv6 drop
          }}
          chain leaving {{
            type filter hook output priority filter - 10; policy accept;
            ip daddr {{ {PODS}, {SERVICES} }} oifname != {{ "{BRIDGE}", "lo" }} counter drop
          }}
        }}
    """


def down() -> None:
    """Remove links, routes and rules, and put the sysctls back; what is not there is no error."""
    for family, table in (("inet", GUARD), *PROXY_TABLES):
        if (family, table) in tables():
            output("nft", "delete", "table", family, table)
    for link in (*_links("master", BRIDGE), *([BRIDGE] if exists() else [])):
        with contextlib.suppress(ToolFailed):  # a pod's goes by itself, with its namespace
            output("ip", "link", "delete", link)
    if exists():
        raise RuntimeError(f"The bridge {BRIDGE} cannot be removed.")
    machine.restore_sysctls()


def exists() -> bool:
    return Path("/sys/class/net", BRIDGE).exists()


def tables() -> set[tuple[str, str]]:
    """All of nft on this machine, by family and name."""
    listed = json.loads(output("nft", "--json", "list", "tables"))["nftables"]
    return {(one["table"]["family"], one["table"]["name"]) for one in listed if "table" in one}


def _links(*selection: str) -> list[str]:
    if not exists():
        return []
    return [one["ifname"] for one in json.loads(output("ip", "-json", "link", "show", *selection) or "[]")]
