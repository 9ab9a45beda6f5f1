"""Runs an image's commands as its pods do: its own user, a read-only root, a /tmp of their own, nothing else.

Without a cluster and without a container runtime: mounts and `chroot`, which need the superuser.
"""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.testbed.image_builder import buildah

USER = "65532"


@dataclass(frozen=True)
class Sandbox:
    """An unpacked image.

    Attributes:
        root: its file system, read-only but for /tmp.
        config: what the image says about how it is run.
    """

    root: Path
    config: dict[str, Any]

    def command(self, *arguments: str) -> list[str]:
        """How to run a command in it, for `subprocess`."""
        user = ["chroot", f"--userspec={USER}:{USER}", "--groups=", str(self.root)]
        return [*user, "/usr/bin/env", "-i", *self.config["Env"], *arguments]

    def run(self, *arguments: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command in it to its end."""
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=seconds, cwd="/"
        )

    def entrypoint(self, *arguments: str) -> list[str]:
        """How a pod without a command of its own starts, with these arguments."""
        return self.command(*self.config["Entrypoint"], *arguments)


def inspect(image: str) -> dict[str, Any]:
    """An image's configuration, in OCI's words (``config``, ``rootfs``)."""
    found: dict[str, Any] = json.loads(buildah("inspect", "--type=image", image))["OCIv1"]
    return found


@contextmanager
def unpacked(image: str, place: Path) -> Iterator[Sandbox]:
    """Mount an image of the builder's storage at an empty folder; unmounted at the end."""
    container = buildah("from", "--pull-never", image).strip()
    with ExitStack() as stack:
        stack.callback(buildah, "rm", container)
        source = buildah("mount", container).strip()
        stack.callback(buildah, "umount", container)
        _mount(stack, place, "--bind", source)
        _mount(stack, place / "proc", "--types=proc", "proc")
        _mount(stack, place / "dev", "--types=tmpfs", "--options=mode=755", "tmpfs")
        for device in ("null", "zero", "random", "urandom"):
            (place / "dev" / device).touch()
            _mount(stack, place / "dev" / device, "--bind", f"/dev/{device}")
        (place / "dev" / "shm").mkdir()
        _mount(stack, place / "dev" / "shm", "--types=tmpfs", "--options=mode=1777", "tmpfs")
        _mount(stack, place / "tmp", "--types=tmpfs", "--options=mode=1777", "tmpfs")
        _run("mount", "--options=remount,bind,ro", str(place))
        yield Sandbox(place, inspect(image)["config"])


def _mount(stack: ExitStack, target: Path, *arguments: str) -> None:
    _run("mount", *arguments, str(target))
    stack.callback(_run, "umount", "--lazy", str(target))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def layers(image: str) -> Sequence[str]:
    """The digests of an image's layers, the lowest first."""
    found: list[str] = inspect(image)["rootfs"]["diff_ids"]
    return found
