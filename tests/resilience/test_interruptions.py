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
from tests.testbed.tiny_job import Outcome, tiny_job
from tests.testbed.trainers import Trainers

MOMENTS = int(os.environ.get("TUNESMITH_TEST_MOMENTS", "20"))
SEED = int(os.environ.get("TUNESMITH_TEST_SEED", "0"))
CHAINS = 2
"""Jobs whose runs go on side by side; each goes once from the first stage to the last."""


def test_a_run_disturbed_at_moments_over_all_stages_ends_like_an_undisturbed_one(
    reference: Reference, trainers: Trainers, photos: Path, tmp_path: Path
) -> None:
    course = Course.of(reference.trainer)
    chains = [
        Chain(trainers, course, tmp_path / str(number), tiny_job(photos, f"file://{tmp_path}/{number}/store"))
        for number in range(CHAINS)
    ]
    with ThreadPoolExecutor(CHAINS) as pool:
        list(pool.map(_disturb, chains, range(CHAINS)))

    for chain in chains:
        Outcome.read(chain.store).assert_equals(reference.outcome)
        assert not list((chain.folder / "cache").glob("run-*")), "the last run swept up after the killed ones"
        assert not [left for run in chain.runs for left in ray_folders(run)]
    hit = [each for chain in chains for each in chain.hit]
    # A stage's last landmark may come when the process is already on its way out.
    assert len(hit) >= MOMENTS - CHAINS, hit


def _disturb(chain: Chain, number: int) -> None:
    count = MOMENTS // CHAINS + (number < MOMENTS % CHAINS)
    moments: list[Moment] = chain.course.moments(count, 1_000 * SEED + number)
    signals = [signal.SIGKILL, signal.SIGTERM] * (count // 2 + 1)
    signals = signals[:count]
    random.Random(1_000 * SEED + number).shuffle(signals)
    chain.run(moments, signals)
