"""The one distribution: it holds every package, and declares what each of them imports."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tunesmith_api import __version__

REPOSITORY = Path(__file__).parents[2]
PACKAGES = {
    "tunesmith": REPOSITORY / "operator" / "tunesmith",
    "tunesmith_api": REPOSITORY / "operator" / "tunesmith_api",
    "tunesmith_operator": REPOSITORY / "operator" / "tunesmith_operator",
    "tunesmith_package": REPOSITORY / "operator" / "tunesmith_package",
    "tunesmith_predictor": REPOSITORY / "images" / "predictor" / "tunesmith_predictor",
    "tunesmith_trainer": REPOSITORY / "images" / "trainer" / "tunesmith_trainer",
}


def declared(*extras: str) -> set[str]:
    """The names of the distributions that the base and the extras ask for, normalised."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"]]
    for extra in extras:
        requirements += project["optional-dependencies"][extra]
    return {normalised(re.split(r"[\[<>=~! ;]", requirement)[0]) for requirement in requirements}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(files: list[Path]) -> set[str]:
    """The top-level modules that files import, but for Python's own and ours."""
    names: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names.add(node.module.partition(".")[0])
    return {name for name in names if name not in sys.stdlib_module_names and name not in PACKAGES}


@pytest.mark.parametrize(
    ("package", "part", "extras"),
    [
        pytest.param("tunesmith_api", "**/*.py", (), id="the resources need no extra"),
        pytest.param("tunesmith_operator", "**/*.py", ("operator",), id="the operator needs its own"),
        pytest.param("tunesmith_package", "**/*.py", ("package",), id="the package needs its own"),
        pytest.param("tunesmith", "*.py", ("cluster", "package"), id="the command line needs the package's"),
        pytest.param("tunesmith", "fetch/*.py", ("package", "trainer"), id="fetching may use torch"),
        pytest.param("tunesmith_trainer", "**/*.py", ("package", "trainer"), id="the trainer needs both"),
        pytest.param("tunesmith_predictor", "**/*.py", ("package", "predictor"), id="the predictor too"),
    ],
)
def test_package_imports_only_what_is_declared(package: str, part: str, extras: tuple[str, ...]) -> None:
    files = sorted(PACKAGES[package].glob(part))
    assert files
    providers = packages_distributions()
    missing = {
        name
        for name in imported(files)
        if not declared(*extras) & {normalised(one) for one in providers.get(name, [])}
        # part of pydantic, which pins it
        and name != "pydantic_core"
    }
    assert missing == set()


def test_wheel_holds_every_module_at_the_top(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if not name.startswith("tunesmith-")}
    expected = {
        f"{package}/{file.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert inside == expected


def test_version_in_the_code_is_the_distributions() -> None:
    assert __version__ == tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]


def test_operator_folder_never_shadows_pythons_own_module() -> None:
    program = "import operator, sys; print(operator.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert not (REPOSITORY / "operator" / "__init__.py").exists()
    assert str(REPOSITORY) not in done.stdout
