"""Builds the images on a machine without a registry: Debian's debootstrap makes the base, buildah the rest.

What is built is kept under the user's cache folder by the hash of all that goes into it, as OCI archives that
containerd imports (`ctr images import FILE`). Run as ``python -m tests.testbed.image_builder [IMAGE ...]``.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal, get_args

Image = Literal["operator", "trainer", "predictor"]
IMAGES: tuple[Image, ...] = get_args(Image)
REPOSITORY = Path(__file__).parents[2]
SUITE = "bookworm"
PACKAGES = ("ca-certificates", "python3", "python3-venv")
"""Of the base image, beside Debian's smallest system: what `python:*-slim` has and the Dockerfiles use."""
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
BUILT_AT = "0"
"""Seconds since 1970 that every file says it was changed at: two builds must not differ."""
NOT_STARTED, STARTS = "sealing memfd copy: Device or resource busy", 3
"""On a busy machine buildah 1.28 now and then fails to seal the copy of itself that it is about to start."""
_COPIED = re.compile(r"^COPY (?!--from)(.+) \S+$", re.MULTILINE)


class BuilderMissing(Exception):
    """This machine cannot build images; says why, and what to do."""


def name(image: Image) -> str:
    """What an image is called: by all that goes into it."""
    return f"tunesmith.dev/{image}:{key(image)}"


def archive(image: Image, say: Callable[[str], None] = lambda line: None) -> Path:
    """An OCI archive of an image under its name, built unless an earlier run did.

    Args:
        image: whose Dockerfile.
        say: told what takes long.

    Raises:
        BuilderMissing: there is no builder, and none can be installed.
        RuntimeError: a step failed; holds the end of its output.
    """
    target = archive_path(image)
    if target.exists():
        return target
    with builder(say):
        if not target.exists():
            build(image, say=say)
            unfinished = target.with_suffix(".unfinished")
            unfinished.unlink(missing_ok=True)
            # zstd at its fastest: gzip would take minutes for CUDA, and none twice the disk.
            zstd = ("--compression-format=zstd", "--compression-level=1")
            buildah("push", "--quiet", *zstd, name(image), f"oci-archive:{unfinished}:{name(image)}")
            unfinished.rename(target)
            _forget_older(image)
    return target


def archive_path(image: Image) -> Path:
    """Where an image's archive lies, once it is built."""
    return folder() / f"{image}-{key(image)}.tar"


def _forget_older(image: Image) -> None:
    """Remove archives and images of other contents; layers that this one shares with them stay."""
    for older in folder().glob(f"{image}-*.tar"):
        if older != archive_path(image):
            older.unlink()
    repository, _, tag = name(image).partition(":")
    tags = buildah("images", "--noheading", "--format={{.Tag}}", f"--filter=reference={repository}").split()
    for other in set(tags) - {tag}:
        buildah("rmi", f"{repository}:{other}")


def folder() -> Path:
    """Where archives, and the builder's own layers, stay between runs."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "tunesmith" / "images"


@cache
def key(image: Image) -> str:
    """Twelve hexadecimal digits: the hash of an image's Dockerfile, of what it copies, and of the base."""
    dockerfile = REPOSITORY / "images" / image / "Dockerfile"
    digest = hashlib.sha256(f"{base_name()}\n{dockerfile.read_text()}".encode())
    for source in _COPIED.findall(dockerfile.read_text()):
        for file in _files(REPOSITORY / source):
            digest.update(f"{file.relative_to(REPOSITORY)} {file.stat().st_size}\n".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _files(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
        return
    for path in sorted(source.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md":
            yield path


def base_name() -> str:
    """What the base image is called: by what it is made of."""
    recipe = " ".join((SUITE, *PACKAGES))
    return f"tunesmith.dev/base:{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


@contextmanager
def builder(say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Hold the builder, with its tools installed and the base image made; one process at a time.

    Raises:
        BuilderMissing: there is none.
    """
    _install_tools(say)
    folder().mkdir(parents=True, exist_ok=True)
    with (folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not buildah("images", "--quiet", "--filter", f"reference={base_name()}"):
            _make_base(say)
        yield


def build(image: Image, *options: str, tag: str = "", say: Callable[[str], None] = lambda line: None) -> str:
    """Build an image into the builder's own storage, while `builder` is held; returns the image's ID."""
    tag = tag or name(image)
    say(f"Building {tag}")
    begun = time.monotonic()
    cache_of_uv = Path(os.environ.get("UV_CACHE_DIR") or Path.home() / ".cache" / "uv")
    cache_of_uv.mkdir(parents=True, exist_ok=True)
    dockerfile = REPOSITORY / "images" / image / "Dockerfile"
    # /mnt and /media are in the base image, so that nothing is left where something was mounted.
    mounts = [f"--volume={cache_of_uv}:/mnt"]
    if AUTHORITIES.exists():
        mounts += [f"--volume={AUTHORITIES.parent}:/media:ro"]
        mounts += [f"--build-arg=CERTIFICATES=/media/{AUTHORITIES.name}"]
    output = buildah(
        *("build", "--isolation=chroot", "--network=host", "--pull-never", "--layers", "--quiet"),
        *(f"--timestamp={BUILT_AT}", f"--build-arg=BASE_IMAGE={base_name()}"),
        *("--build-arg=UV_NO_CACHE=0", "--build-arg=UV_CACHE_DIR=/mnt", *_indexes(), *mounts, *options),
        *(f"--ignorefile={dockerfile}.dockerignore", f"--file={dockerfile}", f"--tag={tag}", str(REPOSITORY)),
    )
    say(f"Built {tag} in {time.monotonic() - begun:.0f} s")
    return output.split()[-1]


def buildah(*arguments: str) -> str:
    """What a command of buildah prints, on its standard output alone.

    Raises:
        RuntimeError: it failed; holds the end of what it said.
    """
    storage = (f"--root={folder() / 'storage'}", f"--runroot={folder() / 'run'}", "--storage-driver=overlay")
    for _ in range(STARTS - 1):
        try:
            return _run("buildah", *storage, *arguments)
        except RuntimeError as error:
            if NOT_STARTED not in str(error):
                raise
    return _run("buildah", *storage, *arguments)


def _indexes() -> list[str]:
    """The package index that this machine's own pip and uv are told to use."""
    given = [name for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX") if os.environ.get(name)]
    return [f"--build-arg={name}={os.environ[name]}" for name in given]


def _make_base(say: Callable[[str], None]) -> None:
    """Debian's smallest system with Python, as an image of one layer."""
    say(f"Making the base image: debootstrap of {SUITE}")
    with tempfile.TemporaryDirectory(dir=folder()) as place:
        root = Path(place, "root")
        _run("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(root))
        container = buildah("from", "scratch").strip()
        try:
            buildah("add", "--quiet", container, str(root), "/")
            buildah("commit", "--quiet", f"--timestamp={BUILT_AT}", container, base_name())
        finally:
            buildah("rm", container)


def _install_tools(say: Callable[[str], None]) -> None:
    """Have buildah and debootstrap from Debian where they are not.

    Raises:
        BuilderMissing: not the superuser, or not on Debian.
    """
    if os.geteuid():
        raise BuilderMissing("Images without a registry are built by the superuser: run the tests as root.")
    missing = [tool for tool in ("buildah", "debootstrap") if shutil.which(tool) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise BuilderMissing(f"There is no {' and no '.join(missing)} here: install them.")
    say(f"Installing {' and '.join(missing)}")
    try:
        _run("apt-get", "update", "-qq")
        _run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing)
    except RuntimeError as error:
        raise BuilderMissing(f"{' and '.join(missing)} cannot be installed: {error}") from error


def _run(*command: str) -> str:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:6])} ... failed:\n{(done.stdout + done.stderr)[-4_000:]}")
    return done.stdout


def main(images: list[str]) -> None:
    """Build the images and say where their archives lie, how large they are and how long it took."""
    for image in IMAGES:
        if images and image not in images:
            continue
        begun = time.monotonic()
        file = archive(image, lambda line: print(line, file=sys.stderr, flush=True))
        seconds = time.monotonic() - begun
        print(f"{name(image)}  {file.stat().st_size / 1e6:.0f} MB  {seconds:.0f} s  {file}")


if __name__ == "__main__":
    main(sys.argv[1:])
