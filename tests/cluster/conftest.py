"""A real cluster for these tests: KUBECONFIG's, the one of `make cluster-up`, or one for this run alone."""

import itertools
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cluster.namespaces import Namespace
from tests.cluster.platform import PHOTOS, Photo, Platform, Team
from tests.testbed import cluster as testbed_cluster
from tests.testbed.control_plane import binaries
from tests.testbed.kubectl import Kubectl
from tests.testbed.node import CannotRun, Node, requirements, take_down

# So that a scenario that fails says what it saw.
pytest.register_assert_rewrite("tests.cluster.scenarios")

HERE = Path(__file__).parent
_NUMBERS = itertools.count(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave these tests out unless they are asked for: they change the machine for as long as they run.

    Those that bring nodes up and take them down come first: a machine carries one, and the others share it.
    """
    named = [Path(argument.partition("::")[0]).absolute() for argument in config.args]
    if any(path.is_relative_to(HERE) for path in named):
        items.sort(key=lambda item: item.path != HERE / "test_lifecycle.py")
        return
    left_out = pytest.mark.skip(reason="A cluster changes the machine while it runs: `make test-cluster`.")
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(left_out)


@pytest.fixture(scope="session")
def say(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Tells whoever waits what takes long."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n{line}", file=sys.stderr, flush=True)

    return say


@pytest.fixture(scope="session")
def capable() -> None:
    """Skips where a node of our own cannot run, or is not wanted."""
    if os.environ.get("KUBECONFIG"):
        pytest.skip("Needs a node of its own, and KUBECONFIG names another cluster.")
    try:
        requirements.check()
    except CannotRun as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def node(capable: None, say: Callable[[str], None]) -> Iterator[Node]:
    """A node that is ready; one that was there before stays."""
    before = Node.find()
    yield Node.up(before.folder if before else testbed_cluster.default_folder(), say)
    if before is None:
        take_down()


@pytest.fixture(scope="session")
def kubectl(request: pytest.FixtureRequest, say: Callable[[str], None]) -> Kubectl:
    """The administrator's way into the cluster."""
    if given := os.environ.get("KUBECONFIG"):
        return Kubectl(shutil.which("kubectl") or str(binaries(say)["kubectl"]), Path(given))
    node: Node = request.getfixturevalue("node")
    return node.kubectl


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[Namespace]:
    """A namespace of its own with Pod Security "restricted" enforced, removed afterwards."""
    created = Namespace.create(kubectl, f"test-{os.getpid()}-{next(_NUMBERS)}")
    yield created
    created.delete()


@pytest.fixture(scope="session")
def platform(node: Node, say: Callable[[str], None]) -> Platform:
    """The node with everything on it, and photos and weights in S3."""
    if not PHOTOS.is_dir():
        pytest.skip(
            f"There are no photos in {PHOTOS}; TUNESMITH_PHOTOS names the folder above another place."
        )
    for step in testbed_cluster.STEPS:
        step.up(node, say)
    found = Platform(node)
    every = found.fill()
    labels = sorted({one.label for one in every})

    def muddled(number: int, photo: Photo) -> str:
        """Two of five photos of each class lie in the wrong folder."""
        wrong = number // 2 % 5 < 2
        return next(label for label in labels if (label != photo.label) == wrong)

    files = ((f"{muddled(number, one)}/{one.path.name}", one.path) for number, one in enumerate(every))
    found.upload("muddled", files)
    return found


@pytest.fixture(scope="module")
def team(platform: Platform) -> Iterator[Team]:
    """A team with a namespace under Pod Security "restricted", and no models yet."""
    platform.forget()
    namespace = Namespace.create(platform.node.kubectl, f"insects-{int(time.time()) % 100_000}")
    namespace.apply(platform.secret())
    yield Team(platform, namespace)
    namespace.delete()
