"""Two runs at once on one store never mix: the same job waits its turn, different jobs pass each other by."""

from pathlib import Path

from tests.resilience.reference import Reference
from tests.testbed.tiny_job import Outcome, tiny_job
from tests.testbed.trainers import Trainers

from tunesmith_api.reasons import EXIT_CODES, Reason
from tunesmith_package.store import open_store


def test_two_jobs_at_once_share_a_store_and_a_cache_and_a_second_run_of_either_is_refused(
    reference: Reference, trainers: Trainers, photos: Path, tmp_path: Path
) -> None:
    uri, cache = f"file://{tmp_path}/store", tmp_path / "cache"
    jobs = {name: tiny_job(photos, uri, name=name, seed=seed) for name, seed in (("tiny", 0), ("other", 1))}
    runs = {name: trainers.start(tmp_path / name, job, cache=cache) for name, job in jobs.items()}
    runs["tiny"].wait_for(lambda event: event["type"] == "stage" and event["stage"] == "search")

    again = trainers.start(tmp_path / "again", jobs["tiny"], cache=cache)
    assert again.wait() == EXIT_CODES[Reason.RUN_IN_PROGRESS], again.tail()
    assert str(runs["tiny"].pid) in again.result["message"]
    assert not again.of_type("stage"), "a refused run begins nothing"

    assert {name: run.wait() for name, run in runs.items()} == {"tiny": 0, "other": 0}
    store = open_store(uri)
    tiny, other = (Outcome.read(store, name) for name in jobs)
    tiny.assert_equals(reference.outcome)
    assert other.trials.keys() == tiny.trials.keys()
    assert other.trials["t0001"] != tiny.trials["t0001"], "another seed draws other parameters"
    features = {info.key.split("/")[1] for info in store.list("features/")}
    assert len(features) == 1, "the same images, weights and preprocessing have the same features"
