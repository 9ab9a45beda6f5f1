"""Runs the exported model over images of a dataset in batches whose size does not depend on their number."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tunesmith_package.inference import Predictor, softmax
from tunesmith_package.preprocess import decode
from tunesmith_trainer.events import Events, Progress
from tunesmith_trainer.prepare.dataset import Dataset
from tunesmith_trainer.verify.corruptions import CorruptionPlan, corrupt

# Larger batches are slower on a CPU: the activations leave its caches.
_BATCH_PIXELS = 16 * 224 * 224
_MOST_IMAGES = 32
EMBEDDING_ROWS = 1_000
"""Embeddings that are kept for the reference of drift."""

IntArray = npt.NDArray[np.int64]
Uint8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]
T = TypeVar("T")


@dataclass(frozen=True)
class Evaluation:
    """What a model says of the test images.

    Attributes:
        probabilities: float32 [n, K] over the classes of the dataset; the rows of a model that knows further
            classes sum to less than one.
        embeddings: float16 [r, D] of the images that were asked for.
    """

    probabilities: Float32Array
    embeddings: npt.NDArray[np.float16]


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    rows: IntArray,
    events: Events,
    *,
    task: str,
    workers: int = 1,
    keep_embeddings: IntArray | None = None,
) -> Evaluation:
    """Predict rows of the dataset, with a progress bar named ``task``.

    Args:
        predictor: the model; its preprocessing and classes may differ from the dataset's.
        dataset: where the images are.
        rows: int64 [n].
        events: told the progress.
        task: the name of the bar.
        workers: batches in work at the same time; best with a predictor of one thread.
        keep_embeddings: indices into rows, ascending, whose embeddings are returned; none unless given.
    """
    columns = class_columns(predictor.labels, dataset.classes)
    kept = np.empty(0, np.int64) if keep_embeddings is None else keep_embeddings

    def predict(span: slice) -> tuple[Float32Array, npt.NDArray[np.float16]]:
        pixels = read_pixels(predictor, dataset, rows[span])
        outputs = predictor.run(predictor.preprocess.normalise(pixels))
        within = kept[(kept >= span.start) & (kept < span.stop)] - span.start
        return _select(outputs.logits, columns), outputs.embedding[within].astype(np.float16)

    spans = list(batches(len(rows), predictor.preprocess.image_size))
    with events.progress(task, total=len(rows), unit="images") as bar:
        parts = _in_order(predict, spans, workers, bar)
    return Evaluation(np.concatenate([one for one, _ in parts]), np.concatenate([one for _, one in parts]))


def evaluate_corrupted(
    predictor: Predictor,
    dataset: Dataset,
    rows: IntArray,
    plan: CorruptionPlan,
    events: Events,
    *,
    task: str,
    workers: int = 1,
) -> npt.NDArray[np.bool_]:
    """Whether the model is right on each corrupted image of the plan, bool [m].

    Args:
        predictor: the model.
        dataset: where the images are.
        rows: int64 [n], the test images that the plan's positions point into.
        plan: what to corrupt how.
        events: told the progress.
        task: the name of the bar.
        workers: batches in work at the same time.
    """
    columns = class_columns(predictor.labels, dataset.classes)

    def judge(span: slice) -> npt.NDArray[np.bool_]:
        chosen = rows[plan.position[span]]
        kind, severity = plan.cells[plan.cell[span.start]]
        pixels = corrupt(read_pixels(predictor, dataset, chosen), kind, severity, chosen.tolist())
        logits = predictor.logits(predictor.preprocess.normalise(pixels))
        right: npt.NDArray[np.bool_] = _select(logits, columns).argmax(axis=1) == dataset.labels[chosen]
        return right

    edges = np.flatnonzero(np.r_[True, plan.cell[1:] != plan.cell[:-1], True])
    spans = [
        slice(int(start) + span.start, int(start) + span.stop)
        for start, end in itertools.pairwise(edges)
        for span in batches(int(end - start), predictor.preprocess.image_size)
    ]
    with events.progress(task, total=len(plan.cell), unit="images") as bar:
        return np.concatenate(_in_order(judge, spans, workers, bar))


def _in_order(work: Callable[[slice], T], spans: list[slice], workers: int, bar: Progress) -> list[T]:
    """Do the work for every span, a few at the same time, and return the results in the spans' order.

    One inference per processor is faster than several processors per inference, and the images of other
    batches are read and corrupted meanwhile.
    """
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="verify")
    try:
        results = []
        for span, result in zip(spans, pool.map(work, spans), strict=True):
            results.append(result)
            bar.advance(span.stop - span.start)
        return results
    finally:
        # Without this an interrupt would wait for every batch that has not begun yet.
        pool.shutdown(cancel_futures=True)


def batches(n: int, image_size: int) -> Iterator[slice]:
    """Cut n images of this size into batches that fit the processor's caches."""
    size = max(1, min(_MOST_IMAGES, _BATCH_PIXELS // (image_size * image_size)))
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def class_columns(known: tuple[str, ...], wanted: tuple[str, ...]) -> IntArray:
    """For each wanted class its column in the model's output, or -1 where the model does not know it."""
    index = {name: i for i, name in enumerate(known)}
    return np.asarray([index.get(name, -1) for name in wanted], dtype=np.int64)


def read_pixels(predictor: Predictor, dataset: Dataset, rows: IntArray) -> Uint8Array:
    """The images as this model wants them, uint8 [n, S, S, 3].

    They come from the dataset's pixels where the preprocessing is the same, else from the original files.
    """
    wanted = predictor.preprocess
    own = dataset.preprocess
    same = (wanted.image_size, wanted.resize, wanted.interpolation)
    if same == (own.image_size, own.resize, own.interpolation):
        pixels: Uint8Array = dataset.pixels.read(rows)
        return pixels
    return np.stack([decode(dataset.source_bytes(int(row)), wanted).pixels for row in rows])


def _select(logits: Float32Array, columns: IntArray) -> Float32Array:
    """Probabilities [n, K] of the wanted classes; 0 for those that the model does not know."""
    return np.where(columns >= 0, softmax(logits)[:, columns], np.float32(0))


def even_rows(n: int, most: int) -> npt.NDArray[np.int64]:
    """At most ``most`` of n indices, evenly spaced and ascending."""
    return np.linspace(0, n - 1, num=min(n, most)).astype(np.int64)
