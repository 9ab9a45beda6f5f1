"""When a search is over, and what may still come to its end."""

from typing import Any

import pytest
from tests.unit.test_search_study import spec_with

from tunesmith_package.store import open_store
from tunesmith_trainer.search.context import Budget
from tunesmith_trainer.search.ledger import Ledger, State, Trial


class Context:
    """What a budget needs of a search's context: the spec, and a clock that a test can set."""

    def __init__(self, **search: Any) -> None:
        self.spec = spec_with(**search)
        self.seconds = 0.0

    def clock(self) -> float:
        return self.seconds


def budget(folder: Any, context: Context, *rows: Trial) -> Budget:
    ledger = Ledger(open_store(f"file://{folder}"), "ledger")
    made = Budget(context, ledger)  # type: ignore[arg-type]
    for row in rows:
        ledger.record(row)
    return made


def tuned(name: str, score: float | None, state: State = "Running", **metrics: float) -> Trial:
    return Trial(name, "FineTune", "resnet18", state=state, score=score, metrics=metrics)


POPULATION = (tuned("t1", 0.5), tuned("t2", 0.3), tuned("t3", None))
ALIVE = ("t1", "t2", "t3")


@pytest.mark.parametrize(
    ("seconds", "ending"),
    [pytest.param(9, (), id="in time"), pytest.param(11, ("t1", "t3"), id="the best one may go on")],
)
def test_of_a_population_the_best_one_alone_goes_on_when_the_time_is_up(
    tmp_path: Any, seconds: float, ending: tuple[str, ...]
) -> None:
    context = Context(timeBudgetSeconds=10)
    made = budget(tmp_path, context, *POPULATION)
    context.seconds = seconds
    assert made.ending(ALIVE) == ending
    assert bool(made.ended) is bool(ending)


def test_population_ends_whole_when_one_of_it_is_done(tmp_path: Any) -> None:
    context = Context(timeBudgetSeconds=10)
    made = budget(tmp_path, context, *POPULATION[:2], tuned("t3", 0.9, "Succeeded"))
    context.seconds = 11
    assert made.ending(("t1", "t2")) == ("t1", "t2")
