"""kill -9 and SIGTERM at seeded moments over all stages: the same command goes on, to the same result.

More moments: ``TUNESMITH_TEST_MOMENTS=200 TUNESMITH_TEST_SEED=7 pytest tests/resilience``.
On a slow machine: ``TUNESMITH_TEST_PATIENCE=600`` (seconds for what takes seconds elsewhere).
"""

import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.resilience.chain import Chain, Course, Moment, ray_folders
from tests.resilience.reference import Reference
from tests.testbed.s3 import S3Server
from tests.testbed.tiny_job import Outcome, tiny_job
from tests.testbed.trainers import Trainers

MOMENTS = int(os.environ.get("TUNESMITH_TEST_MOMENTS", "20"))
SEED = int(os.environ.get("TUNESMITH_TEST_SEED", "0"))
IN_A_BUCKET = 3
"""One moment in so many is that of a run whose store is a bucket: a run that was killed there holds its lease
for half a minute more."""


def test_a_run_disturbed_at_moments_over_all_stages_ends_like_an_undisturbed_one(
    reference: Reference,
    trainers: Trainers,
    photos: Path,
    s3_server: S3Server,
    s3_bucket: str,
    tmp_path: Path,
) -> None:
    course = Course.of(reference.trainer)
    stores = (f"file://{tmp_path}/store", f"s3://{s3_bucket}/jobs")
    chains = [
        Chain(trainers, course, tmp_path / f"{number}", tiny_job(photos, store), s3_server.credentials)
        for number, store in enumerate(stores)
    ]
    counts = (MOMENTS - MOMENTS // IN_A_BUCKET, MOMENTS // IN_A_BUCKET)
    with ThreadPoolExecutor(len(chains)) as pool:
        list(pool.map(_disturb, chains, counts, range(len(chains))))

    for chain in chains:
        Outcome.read(chain.store).assert_equals(reference.outcome)
        assert not list((chain.folder / "cache").glob("run-*")), "the last run swept up after the killed ones"
        assert not [left for run in chain.runs for left in ray_folders(run)]
    hit = [each for chain in chains for each in chain.hit]
    assert len(hit) >= MOMENTS, hit


def _disturb(chain: Chain, count: int, number: int) -> None:
    # One to spare: a stage's last landmark may come when the process is already on its way out.
    count += 1
    moments: list[Moment] = chain.course.moments(count, 1_000 * SEED + number)
    signals = [signal.SIGKILL, signal.SIGTERM] * (count // 2 + 1)
    signals = signals[:count]
    random.Random(1_000 * SEED + number).shuffle(signals)
    chain.run(moments, signals)
