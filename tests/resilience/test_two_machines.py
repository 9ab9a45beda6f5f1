"""A search over two nodes of a Ray cluster: fine-tunings on either, files of the first through the store."""

from pathlib import Path

from tests.testbed.ray_nodes import two_nodes
from tests.testbed.s3 import S3Server
from tests.testbed.tiny_job import COLOURS, PER_CLASS, SIDE, Outcome, ledger, tiny_job
from tests.testbed.trainers import Trainers

from tunesmith_package.store import open_store

IMAGES = len(COLOURS) * PER_CLASS


def test_search_over_two_nodes_trains_on_both_and_ends_with_a_model(
    trainers: Trainers, photos: Path, s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    job = tiny_job(photos, f"s3://{s3_bucket}/jobs")
    job["spec"]["compute"] = {"workers": 1}
    job["spec"]["search"]["parallelTrials"] = 2
    with two_nodes(s3_server.credentials) as nodes:
        environment = {**s3_server.credentials, **nodes.environment}
        trainer = trainers.start(tmp_path, job, cache=nodes.head.cache, environment=environment)
        assert trainer.wait() == 0, trainer.tail()

        # Whoever trains there takes the weights, the lists of images and the pixels from the store.
        shelf = list((nodes.worker.cache / "shelf").iterdir())
        taken = [one for one in shelf if len(one.name) == 64]
        assert len(taken) >= 3, shelf
        assert all(one.is_file() and not one.is_symlink() for one in taken)
        assert IMAGES * 3 * SIDE * SIDE in {one.stat().st_size for one in taken}
        assert not [one for one in shelf if "safetensors" in one.name], "checkpoints are in the store"

    store = open_store(job["spec"]["store"]["uri"], credentials=s3_server.credentials)
    outcome = Outcome.read(store)
    assert {row["state"] for row in outcome.trials.values()} <= {"Succeeded", "Stopped"}
    (run,) = {info.key.rpartition("/")[0] for info in store.list("jobs/tiny/") if "publish" in info.key}
    tuned = [row for row in ledger(store, run).values() if row["strategy"] == "FineTune"]
    assert len(tuned) == 3, "two fine-tunings and the last one on all images"
    assert not list(store.list(f"{run}/shelf/")), "what only the other node needed is gone"
