"""The images, built from their Dockerfiles and run as pods run them, without a cluster."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.testbed.image_builder import (
    IMAGES,
    REPOSITORY,
    BuilderMissing,
    Image,
    build,
    buildah,
    builder,
    name,
)
from tests.testbed.image_sandbox import USER, Sandbox, layers, unpacked
from tests.testbed.tiny_job import tiny_job, write_photos
from tests.testbed.tiny_package import HEADER, write_golden, write_tiny_package, write_tiny_reference

from tunesmith_api.reasons import EXIT_CODES, Reason
from tunesmith_package.package import open_package, publish_package
from tunesmith_package.store import open_store

BUILD_TOOLS = re.compile(
    r"(.+-linux-gnu-)?(gcc|g\+\+|cc|c\+\+|cpp|ld|as|clang|make)(-[0-9.]+)?"
    r"|apt|apt-.+|dpkg|dpkg-.+|rpm|dnf|yum|apk|pip[0-9.]*|uv|uvx|easy_install.*"
)
PACKAGES = {
    "operator": {"tunesmith_api", "tunesmith_operator"},
    "trainer": {"tunesmith_api", "tunesmith_package", "tunesmith_trainer"},
    "predictor": {"tunesmith_api", "tunesmith_package", "tunesmith_predictor"},
}

Unpack = Callable[[Image], Sandbox]


@pytest.fixture(scope="module")
def unpack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Unpack]:
    """Gives an image as an unpacked file system, built unless it is there."""
    found: dict[Image, Sandbox] = {}
    with ExitStack() as stack:

        def sandbox(image: Image) -> Sandbox:
            if image not in found:
                try:
                    with builder():
                        if not buildah("images", "--quiet", "--filter", f"reference={name(image)}"):
                            build(image)
                except BuilderMissing as missing:
                    pytest.skip(str(missing))
                place = tmp_path_factory.mktemp(image)
                found[image] = stack.enter_context(unpacked(name(image), place))
            return found[image]

        yield sandbox


@pytest.fixture(params=IMAGES)
def image(request: pytest.FixtureRequest, unpack: Unpack) -> Sandbox:
    """Each image."""
    return unpack(request.param)


def programs(sandbox: Sandbox) -> list[Path]:
    folders = ("usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin", "opt/venv/bin")
    return [path for folder in folders for path in (sandbox.root / folder).glob("*")]


def site_packages(sandbox: Sandbox) -> Path:
    (folder,) = (sandbox.root / "opt/venv/lib").glob("python3.*/site-packages")
    return folder


def test_image_holds_no_compiler_and_no_package_manager(image: Sandbox) -> None:
    found = programs(image)
    assert "python3" in {path.name for path in found}
    assert [path.name for path in found if BUILD_TOOLS.fullmatch(path.name)] == []
    modules = [
        path for name in ("pip", "ensurepip", "setuptools") for path in image.root.glob(f"usr/**/{name}")
    ]
    assert modules == []


def test_image_gives_nobody_another_users_rights(image: Sandbox) -> None:
    privileged = [
        path
        for path in programs(image)
        if not path.is_symlink() and path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID)
    ]
    assert privileged == []


@pytest.mark.parametrize("which", IMAGES)
def test_image_holds_the_packages_it_runs_and_no_others(which: Image, unpack: Unpack) -> None:
    sandbox = unpack(which)
    assert {path.name for path in (sandbox.root / "opt/tunesmith").iterdir()} == PACKAGES[which]


@pytest.mark.parametrize("which", ["operator", "predictor"])
def test_image_that_does_not_train_holds_no_torch(which: Image, unpack: Unpack) -> None:
    held = {path.name for path in site_packages(unpack(which)).iterdir()}
    assert len(held) > 20
    assert held & {"torch", "torchvision", "nvidia", "ray", "triton"} == set()


@pytest.mark.parametrize("which", IMAGES)
def test_image_holds_exactly_what_is_locked(which: Image, unpack: Unpack) -> None:
    held = {
        path.name.removesuffix(".dist-info").rpartition("-")[0].replace("_", "-").replace(".", "-").lower()
        for path in site_packages(unpack(which)).glob("*.dist-info")
    }
    locked = re.findall(
        r"^([a-z0-9._-]+)==", (REPOSITORY / "images" / which / "requirements.txt").read_text(), re.MULTILINE
    )
    assert held <= {one.replace("_", "-").replace(".", "-") for one in locked}


def test_image_says_who_runs_it_and_what_it_is(image: Sandbox) -> None:
    assert re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", image.config["User"])
    labels = image.config["Labels"]
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert labels["org.opencontainers.image.version"] == version
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.title"].startswith("Tunesmith ")
    assert labels["org.opencontainers.image.description"]


def test_entrypoint_starts_on_a_read_only_root(image: Sandbox) -> None:
    done = subprocess.run(image.entrypoint("--help"), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: python -m tunesmith_")
    assert image.run("touch", "/opt/tunesmith/changed").returncode != 0
    assert image.run("id", "-un").stdout.strip() == "tunesmith"


def test_imports_read_compiled_modules_only(image: Sandbox) -> None:
    """A read-only root keeps what is compiled at the start nowhere: each start would compile again."""
    sources = [path for path in site_packages(image).rglob("*.py") if "__pycache__" not in path.parts]
    tag = image.run("python", "-c", "import sys; print(sys.implementation.cache_tag)").stdout.strip()
    without = [
        path for path in sources if not (path.parent / "__pycache__" / f"{path.stem}.{tag}.pyc").exists()
    ]
    assert len(without) < len(sources) / 100


@pytest.mark.parametrize("which", IMAGES)
def test_two_builds_have_the_same_layers(which: Image, unpack: Unpack) -> None:
    unpack(which)
    again = f"tunesmith.dev/{which}:again"
    with builder():
        build(which, "--no-cache", tag=again)
        try:
            assert layers(again) == layers(name(which))
        finally:
            buildah("rmi", again)


def test_images_share_their_lowest_layer(unpack: Unpack) -> None:
    for which in IMAGES:
        unpack(which)
    assert len({layers(name(which))[0] for which in IMAGES}) == 1


def test_predictor_image_fetches_a_package_and_refuses_an_altered_one(unpack: Unpack) -> None:
    sandbox = unpack("predictor")
    inside = sandbox.root / "tmp" / "store"
    built = write_tiny_package(sandbox.root / "tmp" / "built")
    write_golden(built)
    write_tiny_reference(built)
    package = publish_package(built, open_store(inside.as_uri()), "colours", HEADER)
    uri = package.uri.replace(sandbox.root.as_uri(), "file://")
    where = ("--uri", uri, "--digest", package.digest, "--to")

    done = subprocess.run(sandbox.entrypoint("fetch", *where, "/tmp/models"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fetched = open_package((sandbox.root / "tmp" / "models").as_uri(), digest=package.digest)
    assert fetched.digest == package.digest

    (Path(package.uri.removeprefix("file://")) / "labels.json").write_text('["other"]')
    done = subprocess.run(sandbox.entrypoint("fetch", *where, "/tmp/others"), capture_output=True, text=True)
    assert done.returncode == EXIT_CODES[Reason.DIGEST_MISMATCH]
    assert done.stderr.startswith("DigestMismatch: ")


def test_trainer_image_turns_photos_into_a_package_on_a_read_only_root(unpack: Unpack) -> None:
    sandbox = unpack("trainer")
    inside = sandbox.root / "tmp" / "job"
    write_photos(inside / "photos")
    job = tiny_job(Path("/tmp/job/photos"), "file:///tmp/job/store")
    (inside / "job.json").write_text(json.dumps(job))
    for path in (inside, *inside.rglob("*")):
        os.chown(path, int(USER), int(USER))
    arguments = ("--spec", "/tmp/job/job.json", "--cache-dir", "/tmp/job/cache", "--device", "cpu")
    done = subprocess.run(
        sandbox.entrypoint(*arguments), capture_output=True, text=True, timeout=600, cwd="/"
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["reason"] == "Completed", (result, done.stderr[-3_000:])
    uri = result["status"]["model"]["uri"].replace("file:///tmp", f"{(sandbox.root / 'tmp').as_uri()}")
    assert open_package(uri).manifest.header.verified
