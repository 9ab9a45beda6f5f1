"""What is read before a Job is created: nothing that is over may begin again."""

import asyncio
import json
from typing import Any, cast

from tests.operator_samples import NOW, SETTINGS, after, observed, with_pod, with_run

from tunesmith_operator.cache import Cache
from tunesmith_operator.kinds import CONFIG_MAP, JOB, TRAINING_JOB, Key, Kind, Object
from tunesmith_operator.kube import AlreadyExists, Kube
from tunesmith_operator.training_job.children import config_map
from tunesmith_operator.training_job.decide import POD_SECONDS, decide
from tunesmith_operator.training_job.observed import Observed
from tunesmith_operator.training_job.reconcile import OUTDATED_SECONDS, Reconciler


class Server:
    """Keeps what is created, and remembers what was asked for."""

    def __init__(self, *present: tuple[Kind, Object]) -> None:
        self.objects = {kind: stored(body) for kind, body in present}
        self.reads: list[Kind] = []

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        self.reads.append(kind)
        return self.objects.get(kind)

    async def create(self, kind: Kind, body: Object) -> Object:
        if kind in self.objects:
            raise AlreadyExists(409, "AlreadyExists", "it is there", {})
        self.objects[kind] = stored(body)
        return self.objects[kind]


def stored(body: Object) -> Object:
    return {**body, "metadata": {"resourceVersion": "100", "uid": "uid", **body["metadata"]}}


def resource(seen: Observed) -> Object:
    metadata = seen.job.metadata.model_dump(by_alias=True, exclude_none=True)
    return stored(seen.job.to_dict() | {"metadata": metadata})


def reconciled(server: Server, seen: Observed, *known: Object) -> float | None:
    """Reconcile with a cache that knows the job as it was observed, and these objects."""
    cache = Cache()
    cache.put(TRAINING_JOB, resource(seen))
    for one in known:
        cache.put(CONFIG_MAP, stored(one))
    kube = cast("Kube", cast("Any", server))
    reconciler = Reconciler(kube, cache, SETTINGS, "operator-1", lambda: NOW, lambda: True)
    return asyncio.run(reconciler.reconcile(Key("team", "flowers")))


def test_record_that_was_created_just_before_the_job_is_not_read_again() -> None:
    seen = observed()
    server = Server((TRAINING_JOB, resource(seen)))
    assert reconciled(server, seen) == POD_SECONDS
    assert JOB in server.objects
    assert server.reads == [TRAINING_JOB]


def test_record_that_no_watch_has_told_of_keeps_a_job_from_beginning_again() -> None:
    seen = observed()
    over = with_pod(with_run(seen, outcome="Complete"), "Succeeded")
    record = json.dumps(after(over, decide(over, SETTINGS, NOW)).status)
    server = Server((TRAINING_JOB, resource(seen)), (CONFIG_MAP, config_map(seen.job, record)))
    assert reconciled(server, seen) == OUTDATED_SECONDS
    assert JOB not in server.objects


def test_record_that_is_known_is_read_again_before_a_job_is_created() -> None:
    seen = observed()
    server = Server((TRAINING_JOB, resource(seen)), (CONFIG_MAP, config_map(seen.job)))
    reconciled(server, seen, config_map(seen.job))
    assert JOB in server.objects
    assert server.reads == [TRAINING_JOB, CONFIG_MAP]


def test_job_that_changed_since_it_was_observed_does_not_begin() -> None:
    seen = observed()
    changed = resource(seen)
    changed["metadata"]["resourceVersion"] = "101"
    server = Server((TRAINING_JOB, changed))
    assert reconciled(server, seen) == OUTDATED_SECONDS
    assert JOB not in server.objects
