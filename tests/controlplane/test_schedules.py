"""Random schedules of everything that users, nodes and networks do; `make chaos` plays thousands."""

import os
import random
from pathlib import Path

import pytest
from tests.controlplane.cluster import Cluster
from tests.controlplane.schedules import Play, Step, schedule
from tests.controlplane.stage import stage_of

SEEDS = int(os.environ.get("TUNESMITH_SCHEDULES", "4"))
FIRST = int(os.environ.get("TUNESMITH_FIRST_SEED", "1"))
LENGTH = 40


def play(cluster: Cluster, folder: Path, seed: int, steps: list[Step], name: str) -> list[str]:
    cluster.create_namespace(name)
    folder.mkdir(parents=True, exist_ok=True)
    stage = stage_of(cluster, folder)
    try:
        return Play(stage, name, seed).run(steps)
    finally:
        stage.end()
        cluster.delete_namespace(name)


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_schedule_of_seed_ends_well_with_one_trainer_at_a_time_and_leaves_nothing(
    cluster: Cluster, tmp_path: Path, seed: int
) -> None:
    steps = schedule(seed, LENGTH)
    wrong = play(cluster, tmp_path / "whole", seed, steps, f"seed-{seed}")
    if wrong and os.environ.get("TUNESMITH_SHRINK"):
        steps = shrunk(cluster, tmp_path, seed, steps)
    lines = [f"seed {seed}: {len(wrong)} things are wrong", *wrong, "after these steps:", *map(str, steps)]
    assert not wrong, "\n".join(lines)


def shrunk(cluster: Cluster, folder: Path, seed: int, steps: list[Step]) -> list[Step]:
    """Fewer steps that still go wrong: pieces are left out while it does."""
    size, attempt = len(steps) // 2, 0
    while size:
        for begin in range(0, len(steps), size):
            fewer = steps[:begin] + steps[begin + size :]
            attempt += 1
            name = f"seed-{seed}-{attempt}-{random.randrange(10**6)}"
            if fewer and play(cluster, folder / name, seed, fewer, name):
                steps = fewer
                break
        else:
            size //= 2
    return steps
