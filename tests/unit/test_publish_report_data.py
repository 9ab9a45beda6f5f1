"""What the report is told of a run: where the split comes from, and its mistakes with their explanations."""

import io
import json
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from tunesmith_package.activation import ActivationMap
from tunesmith_package.inference import Predictor
from tunesmith_trainer.events import Events
from tunesmith_trainer.prepare.dataset import Dataset
from tunesmith_trainer.publish.report_data import MOST_MISTAKES, explained_mistakes, split_sentence
from tunesmith_trainer.verify.verification import TestPredictions


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        pytest.param((), "fixed by the images' content", id="a source without splits"),
        pytest.param(("train",), "fixed by the images' content", id="training images alone say nothing"),
        pytest.param(("train", "validation", "test"), "is the source's own.", id="a source with all three"),
        pytest.param(("train", "test"), "validation part is cut by", id="a source without validation"),
        pytest.param(("validation",), "test part is cut by", id="a source that names validation only"),
    ],
)
def test_split_sentence_says_what_the_source_decides_and_what_the_content(
    given: tuple[str, ...], sentence: str
) -> None:
    assert sentence in split_sentence(given)


def test_split_sentence_of_a_dataset_that_did_not_write_it_down_is_empty() -> None:
    assert split_sentence(None) == ""


def test_explaining_mistakes_reports_progress_on_each_and_the_surest_come_first() -> None:
    n = MOST_MISTAKES + 6
    certainty = np.linspace(0.6, 0.9, n, dtype=np.float32)
    tested = TestPredictions(
        rows=np.arange(n),
        labels=np.ones(n, np.int64),
        probabilities=np.stack([certainty, 1 - certainty], axis=1),
        embeddings=np.empty((0, 0), np.float16),
    )
    dataset = SimpleNamespace(
        classes=("ant", "bee"),
        paths=[f"{row}.jpg" for row in range(n)],
        pixels=SimpleNamespace(read=lambda rows: np.zeros((len(rows), 8, 8, 3), np.uint8)),
    )
    predictor = SimpleNamespace(
        preprocess=SimpleNamespace(normalise=lambda pixels: pixels),
        activation_map_of=lambda tensor, k: ActivationMap(np.zeros((2, 2), np.float32), "occlusion", k),
    )
    stream, seconds = io.StringIO(), iter(range(10_000))
    events = Events(stream, clock=lambda: float(next(seconds)))
    mistakes = explained_mistakes(tested, cast(Dataset, dataset), cast(Predictor, predictor), events)
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [each["done"] for each in told] == list(range(MOST_MISTAKES + 1))
    assert {(each["task"], each["total"], each["unit"]) for each in told} == {
        ("explain", MOST_MISTAKES, "mistakes")
    }
    assert [each.path for each in mistakes[:2]] == [f"{n - 1}.jpg", f"{n - 2}.jpg"]


def test_explaining_no_mistakes_shows_no_bar() -> None:
    flawless = TestPredictions(
        np.arange(2), np.arange(2), np.eye(2, dtype=np.float32), np.empty((0, 0), np.float16)
    )
    stream = io.StringIO()
    nothing = SimpleNamespace()
    mistakes = explained_mistakes(flawless, cast(Dataset, nothing), cast(Predictor, nothing), Events(stream))
    assert (mistakes, stream.getvalue()) == ((), "")
