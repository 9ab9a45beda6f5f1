"""Operators behind a faulty proxy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from tests.controlplane.cluster import Cluster
from tests.testbed.faulty_proxy import FaultyProxy
from tests.testbed.operators import Operator


@dataclass
class Stage:
    """A proxy before the API server, and the operators that know nothing of it."""

    cluster: Cluster
    proxy: FaultyProxy
    folder: Path
    operators: list[Operator] = field(default_factory=list)

    def start(self, *flags: str, environment: Mapping[str, str] | None = None) -> Operator:
        """One more operator; with variables of its own, where given."""
        folder = self.folder / f"{self.folder.name}-{len(self.operators)}"
        folder.mkdir()
        operator = self.cluster.operator(folder, *flags)
        (user,) = yaml.safe_load(operator.kubeconfig.read_text())["users"]
        operator.kubeconfig = self.cluster.plane.kubeconfig_of(
            f"proxied-{folder.name}", user["user"]["token"], self.proxy.address
        )
        operator.environment |= environment or {}
        self.operators.append(operator.start())
        return operator

    def end(self) -> None:
        """Kill what runs."""
        for one in self.operators:
            one.kill()
        self.proxy.stop()
        self.free_lease()

    def free_lease(self) -> None:
        """The lease of a killed operator, as if its seconds had passed."""
        self.cluster.forget_lease()


def stage_of(cluster: Cluster, folder: Path) -> Stage:
    """A stage whose proxy runs; no operator yet."""
    return Stage(cluster, FaultyProxy(cluster.plane.address, cluster.plane.folder).start(), folder)
