"""The images that nodes have: kept in the cache folder from one node to the next.

The container runtime's root folder lies there: unpacking an image can take minutes, and a new node finds it
done.
"""

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.testbed.go_commands import cache_folder
from tests.testbed.node import machine
from tests.testbed.node.commands import Commands

IMPORT_SECONDS = 900
START_SECONDS = 60
UNUSED_PLUGINS = (
    # Where mkfs.erofs is missing the erofs differ fails, and with it, unsaid, all of the CRI.
    *("differ.v1.erofs", "mount-handler.v1.erofs", "snapshotter.v1.erofs"),
    *("snapshotter.v1.blockfile", "snapshotter.v1.btrfs", "snapshotter.v1.devmapper", "snapshotter.v1.zfs"),
    "nri.v1.nri",
)
KUBERNETES_PLUGINS = ("grpc.v1.cri", "cri.v1.images", "cri.v1.runtime", "sandbox.controller.v1.podsandbox")
"""For pods, which nothing starts without a node."""


def root() -> Path:
    """Where the container runtime keeps images, unpacked and ready for containers."""
    return cache_folder() / "containerd"


def brought(archive_name: str) -> bool:
    """Whether an archive of this name was imported on this machine."""
    return _mark(archive_name).exists()


def _mark(archive_name: str) -> Path:
    return root().with_name("imported") / archive_name


@dataclass(frozen=True)
class ImageStore:
    """The images, through a container runtime that runs.

    Attributes:
        commands: of the node.
        socket: where the container runtime listens.
    """

    commands: Commands
    socket: Path

    def answers(self) -> bool:
        if not self.socket.exists():
            return False
        with contextlib.suppress(RuntimeError):
            self._ctr("version")
            return True
        return False

    def bring(self, name: str, archive: Path) -> None:
        """Import an archive (OCI or docker layout) unless that was done before, by an earlier node too.

        Args:
            name: of the image in it.
            archive: a file whose name is another one for each content.
        """
        if brought(archive.name) and self.has(name):
            return
        self.bring_anew(archive)
        mark = _mark(archive.name)
        mark.parent.mkdir(exist_ok=True)
        mark.touch()

    def bring_anew(self, archive: Path) -> None:
        """Import an archive, whatever is there."""
        self._ctr("images", "import", str(archive))

    def has(self, name: str) -> bool:
        """Whether a container of this image would start without pulling it."""
        return name in self._names(f"name=={name}")

    def forget_others(self, name: str) -> None:
        """Remove the images of the same repository that have another tag; containers of theirs go on."""
        others = self._names(f"name~=^{name.rpartition(':')[0]}:")
        for other in others:
            if other != name:
                self._ctr("images", "delete", other)

    def _names(self, those: str) -> list[str]:
        return self._ctr("images", "list", "--quiet", those).split()

    def _ctr(self, *arguments: str) -> str:
        command = [self.commands["ctr"], "--address", str(self.socket), "--namespace", "k8s.io", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_SECONDS)
        if done.returncode:
            raise RuntimeError(f"ctr {' '.join(arguments)}: {done.stderr.strip()[-1_000:]}")
        return done.stdout


@contextlib.contextmanager
def without_node(commands: Commands) -> Iterator[ImageStore]:
    """The images while no node runs, through a container runtime that can do nothing else.

    Raises:
        RuntimeError: where a node runs, which has them already.
    """
    with machine.lock(), tempfile.TemporaryDirectory(prefix="images-", dir="/tmp") as place:
        if machine.node_folder() is not None:
            raise RuntimeError("A node runs, and with it the container runtime that has the images.")
        folder = Path(place)
        store = ImageStore(commands, folder / "socket")
        unused = (*UNUSED_PLUGINS, *KUBERNETES_PLUGINS)
        (folder / "containerd.toml").write_text(configuration(store.socket, unused, folder / "state"))
        # In mounts of its own, as what it unpacks is mounted for a moment. However this process ends, it does
        # too: otherwise it would keep the next node's from the images.
        command = [*("setpriv", "--pdeathsig", "TERM", "unshare", "--mount"), commands["containerd"]]
        command += ["--config", str(folder / "containerd.toml")]
        with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as runs:
            try:
                deadline = time.monotonic() + START_SECONDS
                while not store.answers():
                    if runs.poll() is not None or time.monotonic() > deadline:
                        said = (folder / "log").read_text()[-2_000:]
                        raise RuntimeError(f"The container runtime does not start:\n{said}")
                    time.sleep(0.05)
                yield store
            finally:
                runs.terminate()


def configuration(socket: Path, unused: Iterable[str], state: Path | None = None) -> str:
    """The beginning of the configuration of every container runtime that has these images.

    Args:
        socket: where it listens.
        unused: plugins, without the part of their names that is always the same.
        state: the folder of what runs, where it is not the fixed one.
    """
    disabled = ", ".join(f"'io.containerd.{one}'" for one in unused)
    place = f"state = '{state}'\n" if state else ""
    return f"""version = 4
root = '{root()}'
{place}disabled_plugins = [{disabled}]

[plugins.'io.containerd.server.v1.grpc']
  address = '{socket}'
[plugins.'io.containerd.server.v1.ttrpc']
  address = '{socket}.ttrpc'
"""
