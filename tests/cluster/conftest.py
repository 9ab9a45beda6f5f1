"""A real cluster for these tests: KUBECONFIG's, the one of `make cluster-up`, or one for this run alone."""

import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cluster.namespaces import Namespace
from tests.testbed import cluster as testbed_cluster
from tests.testbed.control_plane import binaries
from tests.testbed.kubectl import Kubectl
from tests.testbed.node import CannotRun, Node, requirements, take_down

HERE = Path(__file__).parent
_NUMBERS = itertools.count(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave these tests out unless they are asked for: they change the machine for as long as they run."""
    named = [Path(argument.partition("::")[0]).absolute() for argument in config.args]
    if any(path.is_relative_to(HERE) for path in named):
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
