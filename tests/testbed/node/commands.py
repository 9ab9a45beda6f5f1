"""What a node runs, built from pinned Go modules once per machine; only runc is Debian's."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.testbed import debian, go_commands
from tests.testbed.control_plane import STAMPS, binaries

MODULES = ("node_commands", "cni", "containerd", "coredns")


@dataclass(frozen=True)
class Commands:
    """Where each command lies, by its name."""

    found: dict[str, Path]
    plugins: Path
    """The folder of the CNI plugins."""

    def __getitem__(self, name: str) -> str:
        return str(self.found[name])


def build(say: Callable[[str], None] = lambda line: None) -> Commands:
    """Everything a node needs; the first call on a machine takes some ten minutes on two cores."""
    found = binaries(say)
    folders = {name: go_commands.build(name, say=say) for name in MODULES}
    folders["kubernetes_node"] = go_commands.build("kubernetes_node", STAMPS, say)
    for folder in folders.values():
        found |= {path.name: path for path in folder.iterdir()}
    return Commands({**found, "runc": runc(say)}, folders["cni"])


def runc(say: Callable[[str], None] = lambda line: None) -> Path:
    """The machine's own, or Debian's package unpacked into the cache."""
    on_path = shutil.which("runc")
    if on_path is not None:
        return Path(on_path)
    return debian.unpacked("runc", say) / "usr" / "sbin" / "runc"
