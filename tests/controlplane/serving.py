"""A control plane on which KServe, a gateway and predictors are played, and what tests do with it."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.api_refusals import MODEL_DEPLOYMENT as SMALLEST
from tests.controlplane.cluster import Cluster
from tests.testbed.kube_api import Object, wait_for
from tests.testbed.operators import Operator
from tests.testbed.predictor_farm import Figures, PredictorFarm
from tests.testbed.serving_player import (
    DOMAIN,
    GATEWAY_NAME,
    GATEWAY_NAMESPACE,
    ServingPlayer,
    weights_of,
)

from tunesmith_operator.kinds import (
    EVENT,
    HTTP_ROUTE,
    INFERENCE_SERVICE,
    MODEL_DEPLOYMENT,
    POD,
    TRAINING_JOB,
)

FLAGS = (
    *("--predictor-image", "tunesmith/predictor:test"),
    *("--gateway", f"{GATEWAY_NAMESPACE}/{GATEWAY_NAME}"),
    *("--gateway-domain", DOMAIN),
)


@dataclass
class Serving:
    """A cluster in which KServe and a gateway are played, and what a test does with it."""

    cluster: Cluster
    player: ServingPlayer
    farm: PredictorFarm
    folder: Path
    operators: list[Operator]

    def operator(self) -> Operator:
        folder = self.folder / f"operator-{len(self.operators)}"
        folder.mkdir()
        self.operators.append(self.cluster.operator(folder, *FLAGS).start())
        return self.operators[-1]

    def restart(self) -> None:
        """Another operator in place of the last."""
        self.operators[-1].kill()
        self.cluster.forget_lease()
        self.operator().port()

    def train(self, namespace: str, letter: str, *, name: str = "flowers", verified: bool = True) -> None:
        """Have a TrainingJob say that it made a model."""
        if self.cluster.api.get(TRAINING_JOB, namespace, name) is None:
            self.cluster.submit(
                namespace, name, suspend=True, store={"uri": "s3://models", "secretRef": {"name": "store"}}
            )
        digest = f"sha256:{letter * 64}"
        model = {
            "uri": f"s3://models/{letter}",
            "digest": digest,
            "verified": verified,
            "revision": letter * 12,
        }
        self.cluster.api.merge(TRAINING_JOB, namespace, name, {"status": {"model": model}}, "status")

    def deploy(self, namespace: str, name: str = "flowers", **spec: Any) -> Object:
        body = deepcopy(SMALLEST)
        body["metadata"] = {"name": name, "namespace": namespace}
        body["spec"] = {"model": {"trainingJob": "flowers"}, **spec}
        return self.cluster.api.create(MODEL_DEPLOYMENT, body)

    def change(self, namespace: str, **rollout: Any) -> None:
        self.cluster.api.merge(MODEL_DEPLOYMENT, namespace, "flowers", {"spec": {"rollout": rollout}})

    def status(self, namespace: str, name: str = "flowers") -> Object:
        found = self.cluster.api.get(MODEL_DEPLOYMENT, namespace, name)
        return (found or {}).get("status") or {}

    def condition(self, namespace: str, kind: str) -> Object:
        conditions = self.status(namespace).get("conditions") or ()
        return next((one for one in conditions if one["type"] == kind), {})

    def wait_for(self, namespace: str, kind: str, seconds: float = 30, **fields: str) -> Object:
        def look() -> Object | None:
            found = self.condition(namespace, kind)
            return found if found and all(found[key] == value for key, value in fields.items()) else None

        return wait_for(look, f"{kind} with {fields}; {self.condition(namespace, kind)}", seconds)

    def stable(self, namespace: str, letter: str, seconds: float = 30) -> str:
        """The name of the stable revision, once it serves this model."""

        def look() -> str | None:
            stable = self.status(namespace).get("stable") or {}
            ready = self.condition(namespace, "Ready").get("status") == "True"
            return stable["revision"] if stable.get("digest", "")[-1:] == letter and ready else None

        return wait_for(look, f"{letter} is stable; {self.status(namespace)}", seconds)

    def canary(self, namespace: str, weight: int, seconds: float = 30) -> str:
        def look() -> str | None:
            canary = self.status(namespace).get("canary") or {}
            return canary["revision"] if canary.get("weight") == weight else None

        return wait_for(look, f"a canary with {weight} %; {self.status(namespace)}", seconds)

    def route(self, namespace: str, name: str = "flowers") -> dict[str, int]:
        """Weights by the last letters of the revisions' names."""
        found = self.cluster.api.get(HTTP_ROUTE, namespace, name)
        return {} if found is None else weights_of(found)

    def weights(self, namespace: str, name: str = "flowers") -> list[dict[str, int]]:
        return self.player.weights.get(f"{name}.{namespace}.{DOMAIN}", [])

    def figures(self, namespace: str, revision: str) -> Figures:
        return self.farm.of(namespace, revision)

    def revisions(self, namespace: str) -> list[str]:
        return [one["metadata"]["name"] for one in self.cluster.api.list(INFERENCE_SERVICE, namespace)]

    def events(self, namespace: str) -> list[Object]:
        selector = "involvedObject.kind=ModelDeployment,involvedObject.name=flowers"
        return self.cluster.api.list(EVENT, namespace, fieldSelector=selector)

    def pods(self, namespace: str, revision: str) -> list[Object]:
        return self.cluster.api.list(POD, namespace, labelSelector=f"tunesmith.dev/revision={revision}")
