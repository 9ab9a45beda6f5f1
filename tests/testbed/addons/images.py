"""Images of what stands on the node: FROM scratch, a command and what it needs, nothing else.

Archives lie in the cache folder by what they are made of, so that they are written once.
"""

import hashlib
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.testbed import go_commands, tools
from tests.testbed.node.images import REGISTRY
from tests.testbed.oci_image import Content, Image


@dataclass(frozen=True)
class Named:
    """An image by its repository and tag."""

    repository: str
    tag: str

    @property
    def name(self) -> str:
        return f"{self.repository}:{self.tag}"


KSERVE = Named(f"{REGISTRY}/kserve-controller", "v0.20.0")
KUBERAY = Named(f"{REGISTRY}/kuberay-operator", "v1.6.0")
ENVOY_GATEWAY = Named(f"{REGISTRY}/envoy-gateway", "v1.9.1")
ENVOY = Named(f"{REGISTRY}/envoy", tools.ENVOY.version)
HELLO = Named(f"{REGISTRY}/hello", "1")

_SCRATCH_SPACE = {"/tmp": Content(None, 0o1777)}


def archives(say: Callable[[str], None] = lambda line: None) -> dict[Named, Path]:
    """An archive of each image, made on the first call on a machine; other content has another file name."""
    commands = {
        name: go_commands.build(name, say=say) / command
        for name, command in (("kserve", "manager"), ("envoy_gateway", "envoy-gateway"), ("hello", "hello"))
    }
    proxy = tools.envoy()
    proxy_files = {"/usr/local/bin/envoy": proxy, **shared_libraries(proxy)}
    return {
        KSERVE: _archive(KSERVE, "/manager", {"/manager": commands["kserve"]}),
        ENVOY_GATEWAY: _archive(ENVOY_GATEWAY, *_in_path(commands["envoy_gateway"])),
        ENVOY: _archive(ENVOY, "/usr/local/bin/envoy", proxy_files),
        HELLO: _archive(HELLO, *_in_path(commands["hello"])),
    }


def kuberay(say: Callable[[str], None] = lambda line: None) -> Path:
    """The archive of KubeRay's image, which not every cluster needs."""
    return _archive(KUBERAY, "/manager", {"/manager": go_commands.build("kuberay", say=say) / "ray-operator"})


def _in_path(command: Path) -> tuple[str, Mapping[str, Path]]:
    place = f"/usr/local/bin/{command.name}"
    return place, {place: command}


def _archive(image: Named, entrypoint: str, files: Mapping[str, Path]) -> Path:
    key = hashlib.sha256(f"{image.name} {entrypoint}".encode())
    for place, path in sorted(files.items()):
        with path.open("rb") as file:
            key.update(f" {place} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    name = f"{Path(image.repository).name}-{key.hexdigest()[:12]}.tar"
    archive = go_commands.cache_folder() / "images" / name
    if not archive.exists():
        archive.parent.mkdir(exist_ok=True)
        contents = {place: Content(path) for place, path in files.items()} | _SCRATCH_SPACE
        Image(image.name, contents, [entrypoint]).write(archive)
    return archive


def shared_libraries(command: Path) -> dict[str, Path]:
    """The libraries that a command is linked against and the loader, by their places in an image."""
    listed = subprocess.run(["ldd", command], capture_output=True, text=True, check=True).stdout
    found = {}
    for line in listed.splitlines():
        # "libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x...)", or for the loader "/lib64/ld... (0x...)".
        place = line.partition("=>")[2].split() or line.split()
        if place[0].startswith("/"):
            found[place[0]] = Path(place[0])
    return found
