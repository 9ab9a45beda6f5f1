"""What the Dockerfiles promise, as far as it can be read."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DOCKERFILES = sorted((REPOSITORY / "images").glob("*/Dockerfile"))


def test_every_image_has_a_dockerfile() -> None:
    assert [path.parent.name for path in DOCKERFILES] == ["operator", "predictor", "trainer"]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: str(path.parent.name))
def test_dockerfile_breaks_no_rule_of_hadolint(dockerfile: Path) -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed: make environment")
    done = subprocess.run([hadolint, "--no-color", str(dockerfile)], capture_output=True, text=True)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: str(path.parent.name))
def test_builder_is_sent_whatever_a_dockerfile_copies(dockerfile: Path) -> None:
    copied = {
        line.split()[1]
        for line in dockerfile.read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
    }
    sent = {
        line.removeprefix("!")
        for line in dockerfile.with_name("Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert copied == sent
    assert all((REPOSITORY / path).exists() for path in copied)


def test_first_stage_is_the_same_in_all_so_that_they_share_a_layer() -> None:
    stages = {path.read_text().partition("ARG BASE_IMAGE")[2].partition("\n\n# ")[0] for path in DOCKERFILES}
    assert len(stages) == 1
