"""What the README files promise: their links lead somewhere, their commands exist, their specs are valid."""

import re
from pathlib import Path

import pytest

from tunesmith_api.validation import load_documents

REPOSITORY = Path(__file__).parents[2]
ROOTS = ("operator", "images", "tests", "manifests")
READMES = [
    REPOSITORY / "README.md",
    *(path for root in ROOTS for path in (REPOSITORY / root).rglob("README.md")),
]
EXAMPLES = sorted((REPOSITORY / "manifests" / "examples").glob("*.yaml"))


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.mark.parametrize("readme", READMES, ids=name_of)
def test_readme_links_lead_somewhere(readme: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", readme.read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (readme.parent / link).exists()] == []


@pytest.mark.parametrize("readme", READMES, ids=name_of)
def test_readme_make_targets_exist(readme: Path) -> None:
    targets = re.findall(r"^([a-z-]+%?):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
    named = re.findall(r"(?:^|`)make ([a-z][a-z-]*)", readme.read_text(), flags=re.MULTILINE)
    assert [name for name in named if name not in targets and not name.startswith("bench-")] == []


def test_readme_first_spec_is_valid() -> None:
    (spec,) = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "README.md").read_text(), flags=re.DOTALL)
    (job,) = load_documents(spec)
    assert job.kind == "TrainingJob"


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_example_is_valid(example: Path) -> None:
    assert load_documents(example.read_text())
