"""Random schedules of what users, nodes and networks do; `make chaos` plays thousands."""

import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from tests.controlplane.cluster import Cluster
from tests.controlplane.schedules import Play, Step, play_all, schedule
from tests.controlplane.stage import stage_of

SEEDS = int(os.environ.get("TUNESMITH_SCHEDULES", "200"))
FIRST = int(os.environ.get("TUNESMITH_FIRST_SEED", "1"))
AT_ONCE = 40
LENGTH = 40


def steps_of(seed: int) -> list[Step]:
    """The schedule of a seed; of two times 40 seeds, the second draw from the slow faults too."""
    return schedule(seed, LENGTH, slow=bool((seed - 1) // AT_ONCE % 2))


def play(
    cluster: Cluster, folder: Path, schedules: Mapping[int, Sequence[Step]], name: str
) -> dict[int, list[str]]:
    """Play schedules at once; what was wrong, by seed."""
    folder.mkdir(parents=True, exist_ok=True)
    stage = stage_of(cluster, folder)
    plays = [
        Play(stage, f"{name}-{seed}", seed, steps, len(schedules), conducts=not number)
        for number, (seed, steps) in enumerate(schedules.items())
    ]
    for one in plays:
        cluster.create_namespace(one.namespace)
    try:
        return play_all(stage, plays)
    finally:
        stage.end()
        for one in plays:
            cluster.delete_namespace(one.namespace)


@pytest.mark.parametrize("first", range(FIRST, FIRST + SEEDS, AT_ONCE))
def test_schedules_end_well_with_one_trainer_at_a_time_and_leave_nothing(
    cluster: Cluster, tmp_path: Path, first: int
) -> None:
    seeds = range(first, min(first + AT_ONCE, FIRST + SEEDS))
    schedules = {seed: steps_of(seed) for seed in seeds}
    lines = []
    for seed, wrong in play(cluster, tmp_path / "all", schedules, "seeds").items():
        if not wrong:
            continue
        steps: Sequence[Step] = schedules[seed]
        if os.environ.get("TUNESMITH_SHRINK"):
            steps = shrunk(cluster, tmp_path, seed, steps)
        lines += [
            f"seed {seed}: {len(wrong)} things are wrong",
            *wrong,
            "after these steps:",
            *map(str, steps),
        ]
    assert not lines, "\n".join([f"operators and network: seed {first}", *lines])


def shrunk(cluster: Cluster, folder: Path, seed: int, steps: Sequence[Step]) -> Sequence[Step]:
    """Fewer steps that still go wrong by themselves: pieces are left out while they do."""

    def goes_wrong(fewer: Sequence[Step]) -> bool:
        name = f"again-{random.randrange(10**9)}"
        return bool(play(cluster, folder / name, {seed: fewer}, name)[seed])

    if not goes_wrong(steps):
        return steps  # what went wrong needs the others
    size = len(steps) // 2
    while size:
        for begin in range(0, len(steps), size):
            fewer = [*steps[:begin], *steps[begin + size :]]
            if fewer and goes_wrong(fewer):
                steps = fewer
                break
        else:
            size //= 2
    return steps
