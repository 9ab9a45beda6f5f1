"""One control plane for all tests here: KUBECONFIG's, or one that is started for them on loopback."""

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.controlplane.cluster import Cluster
from tests.controlplane.serving import Serving
from tests.testbed.control_plane import ControlPlane, binaries
from tests.testbed.operators import Operator
from tests.testbed.predictor_farm import PredictorFarm
from tests.testbed.serving_player import ServingPlayer, gateway_crds, kserve_crds, wait_for_kinds

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def control_plane(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[ControlPlane]:
    """A control plane of our own: real etcd, API server and controllers."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n{line}", file=sys.stderr, flush=True)

    plane = ControlPlane(tmp_path_factory.mktemp("control-plane"), binaries(say))
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()


@pytest.fixture(scope="session")
def kubeconfig(request: pytest.FixtureRequest) -> Path:
    """The administrator's way in."""
    if given := os.environ.get("KUBECONFIG"):
        return Path(given)
    plane: ControlPlane = request.getfixturevalue("control_plane")
    return plane.kubeconfig


@pytest.fixture(scope="session")
def cluster(control_plane: ControlPlane) -> Iterator[Cluster]:
    """The control plane with the CRDs, the operator's roles and a node."""
    cluster = Cluster(control_plane)
    cluster.install()
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def operator(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator that watches all namespaces while the module's tests run."""
    running = cluster.operator(tmp_path_factory.mktemp("operator")).start()
    running.port()
    yield running
    running.kill()
    cluster.forget_lease()


@pytest.fixture(scope="module")
def serving(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """With an operator that began before KServe and the gateway were installed."""
    folder = tmp_path_factory.mktemp("serving")
    player, farm = ServingPlayer(cluster.api), PredictorFarm()
    found = Serving(cluster, player, farm, folder, [])
    cluster.kubelet.address = farm.address
    try:
        found.operator().port()
        for file in (*kserve_crds(), *gateway_crds()):
            cluster.plane.kubectl("apply", "--server-side", "-f", file)
        wait_for_kinds(cluster.api)
        player.start()
        yield found
    finally:
        for one in found.operators:
            one.kill()
        cluster.forget_lease()
        player.stop()
        farm.stop()
        cluster.kubelet.address = lambda pod: ""


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of its own, removed afterwards."""
    name = f"test-{next(_NUMBERS)}"
    cluster.create_namespace(name)
    yield name
    cluster.delete_namespace(name)
