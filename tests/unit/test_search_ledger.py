"""The ledger: what it keeps, in which order, and what it says of a row that it cannot read."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith_api.reasons import SearchFailed
from tunesmith_package.store import Store, open_store
from tunesmith_trainer.search.ledger import CurvePoint, Ledger, Trial, trial_id, trial_number, trial_to_json


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"file://{tmp_path / 'store'}")


def test_trial_read_again_is_the_one_recorded(store: Store) -> None:
    trial = Trial(
        "t0007",
        "FineTune",
        "resnet18",
        {"learningRate": 0.1 + 0.2, "epochs": 3, "augmentation": "Flip", "mixup": 1.0},
        state="Stopped",
        score=1e-300,
        reason="EarlyStopped",
        metrics={"accuracy": 1 / 3},
        curve=(CurvePoint(1, 0.7, 0.6, 0.5, 1e-3), CurvePoint(2, 0.6, 0.5, 0.75, 5e-4)),
        epochs=2,
        max_epochs=3,
        parent="t0001",
        checkpoint="runs/t0007-0002.safetensors",
    )
    Ledger(store, "run/ledger/").record(trial)
    read = Ledger(store, "run/ledger").get("t0007")
    assert read == trial
    assert read is not None
    assert {name: type(value) for name, value in read.parameters.items()} == {
        "learningRate": float,
        "epochs": int,
        "augmentation": str,
        "mixup": float,
    }


def test_trial_without_held_out_images_can_be_read_again(store: Store) -> None:
    trial = Trial("refit", "FineTune", "resnet18", curve=(CurvePoint(1, 0.7, None, None, 1e-3),))
    Ledger(store, "ledger").record(trial)
    assert Ledger(store, "ledger").trials == (trial,)


def test_trials_come_in_the_order_of_their_numbers_and_the_refit_last(store: Store) -> None:
    ledger = Ledger(store, "ledger")
    numbers = [10_000, 2, 1_001, 9_999, 1]
    for name in ["refit", *map(trial_id, numbers)]:
        ledger.record(Trial(name, "LinearProbe", "resnet18"))
    expected = [*map(trial_id, sorted(numbers)), "refit"]
    assert [row.id for row in ledger.trials] == expected
    assert [row.id for row in Ledger(store, "ledger").trials] == expected


@given(number=st.integers(1, 10_000_000))
def test_trial_number_reads_what_trial_id_wrote(number: int) -> None:
    assert trial_number(trial_id(number)) == number


def test_record_replaces_the_earlier_row(store: Store) -> None:
    ledger = Ledger(store, "ledger")
    ledger.record(Trial("t0001", "LinearProbe", "resnet18"))
    ledger.record(Trial("t0001", "LinearProbe", "resnet18", state="Failed", reason="Diverged"))
    assert [row.state for row in Ledger(store, "ledger").trials] == ["Failed"]


def test_ledgers_of_two_runs_do_not_mix(store: Store) -> None:
    Ledger(store, "a/ledger").record(Trial("t0001", "LinearProbe", "resnet18"))
    Ledger(store, "a/ledger2").record(Trial("t0002", "LinearProbe", "resnet18"))
    assert [row.id for row in Ledger(store, "a/ledger").trials] == ["t0001"]


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{not json", id="no JSON"),
        pytest.param(b'{"id": "t0001"}', id="half a row"),
        pytest.param(
            b'{"id":"t0001","strategy":"FineTune","backbone":"r","later":1}', id="a field of a later version"
        ),
    ],
)
def test_row_that_cannot_be_read_is_named(store: Store, row: bytes) -> None:
    store.put("ledger/t0001.json", row)
    with pytest.raises(SearchFailed, match=r"t0001\.json cannot be read.*Delete that object"):
        Ledger(store, "ledger")


def test_trial_as_json_is_in_camel_case() -> None:
    row = trial_to_json(Trial("t0001", "LinearProbe", "resnet18", duration_seconds=1.5))
    assert row["durationSeconds"] == 1.5
    assert row["state"] == "Running"
