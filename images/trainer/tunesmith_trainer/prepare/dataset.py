"""The prepared dataset: its rows, their labels and splits, and where their pixels and bytes are.

Rows are in the order of their content (sha256, then label and the rest), so that the same images give the
same rows on every machine, in whatever form and order they arrive: features that one job kept in the store
fit the rows of the next. On disk it is ``index.parquet`` (one line per row), ``dataset.json`` (the rest) and
the pixel file in the cache beside it; the first two also lie in the store.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tunesmith_api.reasons import DatasetInvalid
from tunesmith_package.preprocess import Preprocess
from tunesmith_package.store import PATIENCE_SECONDS
from tunesmith_trainer.prepare.findings import Evidence, Finding
from tunesmith_trainer.prepare.pixels import PixelStore

if TYPE_CHECKING:
    from tunesmith_trainer.prepare.observed import Draft
    from tunesmith_trainer.prepare.source import Source

__all__ = [
    "DROPPED",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "Dataset",
    "DatasetUnusable",
    "Evidence",
    "Finding",
    "TestSealed",
]

TRAIN, VALIDATION, TEST, DROPPED = 0, 1, 2, 255
SPLIT_NAMES = {TRAIN: "train", VALIDATION: "validation", TEST: "test", DROPPED: "dropped"}

INDEX_FILE = "index.parquet"
FACTS_FILE = "dataset.json"
PIXELS_FILE = "pixels.u8"
SLICE_PREFIX = "slice:"
_FORMAT = 2


class DatasetUnusable(DatasetInvalid):
    """The checks leave no dataset that can be trained on.

    Attributes:
        status: what status.dataset says of what was found until then, in the API's spelling.
    """

    def __init__(self, cause: DatasetInvalid, status: Mapping[str, Any]) -> None:
        """Say what ``cause`` says."""
        super().__init__(cause.message, cause.next_step)
        self.status = status


class TestSealed(RuntimeError):
    """A stage that must not see the test split asked for it."""

    __test__ = False  # pytest would take it for a test class


@dataclass(frozen=True)
class Dataset:
    """N images, some of them dropped by the checks.

    Attributes:
        directory: local folder with ``index.parquet`` and ``dataset.json``.
        digest: ``sha256:...`` over the images, labels, splits, weights and slices in use.
        classes: K names, sorted; labels are positions in it.
        image_size: S, side of the decoded images.
        preprocess: how they were decoded.
        labels: int32 ``[N]``; -1 for an image whose class is not used.
        split: uint8 ``[N]``: `TRAIN`, `VALIDATION`, `TEST` or `DROPPED`.
        weights: float32 ``[N]``, the manifest's weights or ones.
        groups: int64 ``[N]``; near duplicates share a number, and with it their side of the split.
        paths: N names, relative to the root.
        areas: int64 ``[N]``, width times height of the sources.
        slices: for each slice column N strings.
        findings: what the checks found.
        imbalance: the strategy in force: ``None``, ``Loss`` or ``Sampling``.
        pixels: row i is image i of this dataset.
        skipped: images of the source that are not used, for whatever reason.
        uri: where the images come from.
        format: Folder, Manifest, WebDataset or the name of torchvision's class.
        given_splits: names of the splits that the source has of its own; None where nobody wrote it down.
        sealed: whether the test rows are out of reach.
        credentials: for reading the source again; never written down.
        patience_seconds: how long the source's store may stay away then.
    """

    directory: Path
    digest: str
    classes: tuple[str, ...]
    image_size: int
    preprocess: Preprocess
    labels: npt.NDArray[np.int32]
    split: npt.NDArray[np.uint8]
    weights: npt.NDArray[np.float32]
    groups: npt.NDArray[np.int64]
    paths: pa.StringArray
    areas: npt.NDArray[np.int64]
    slices: dict[str, npt.NDArray[np.str_]]
    findings: tuple[Finding, ...]
    imbalance: str
    pixels: PixelStore
    skipped: int
    uri: str
    format: str
    given_splits: tuple[str, ...] | None = None
    sealed: bool = False
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    patience_seconds: float = PATIENCE_SECONDS

    def __len__(self) -> int:
        """N, the dropped images included."""
        return len(self.labels)

    def rows(self, *splits: int) -> npt.NDArray[np.int64]:
        """Rows of the given splits in ascending order, int64.

        Raises:
            TestSealed: the test rows, on a dataset made by `without_test`.
        """
        if self.sealed and TEST in splits:
            raise TestSealed("The test split is read by the verification alone.")
        return np.flatnonzero(np.isin(self.split, splits)).astype(np.int64)

    def without_test(self) -> Dataset:
        """The same dataset, which refuses to name its test rows."""
        return replace(self, sealed=True)

    def source_bytes(self, row: int) -> bytes:
        """The original encoded image of a row, read again from the source.

        Raises:
            DatasetInvalid: the source has changed since it was indexed.
            StoreError: the source cannot be read.
        """
        index = self._index
        path = str(self.paths[row])
        data = self._source.read(path, int(index["offset"][row].as_py()), int(index["size"][row].as_py()))
        if self._source.content_digest(path, data) != index["sha256"][row].as_py():
            raise DatasetInvalid(
                f"{path} is no longer the image that was indexed.",
                "Leave the dataset as it is while a job runs, and run it again for the new images.",
            )
        return data

    def counts(self) -> dict[str, int]:
        """Images in each split by its name in status.dataset.splits."""
        return {SPLIT_NAMES[each]: int((self.split == each).sum()) for each in (TRAIN, VALIDATION, TEST)}

    def class_counts(self) -> npt.NDArray[np.int64]:
        """Images by class and split, int64 ``[K, 3]``."""
        table = np.zeros((len(self.classes), 3), np.int64)
        used = self.split != DROPPED
        np.add.at(table, (self.labels[used], self.split[used]), 1)
        return table

    def status(self) -> dict[str, Any]:
        """What status.dataset says, in the API's spelling."""
        return {
            "digest": self.digest,
            "images": int((self.split != DROPPED).sum()),
            "classes": len(self.classes),
            "skipped": self.skipped,
            "splits": self.counts(),
            "findings": finding_counts(self.findings),
        }

    @cached_property
    def _source(self) -> Source:
        from tunesmith_trainer.prepare.sources import open_source

        return open_source(self.uri, self.format, self.credentials, self.patience_seconds)

    @cached_property
    def _index(self) -> pa.Table:
        return pq.read_table(self.directory / INDEX_FILE, columns=["offset", "size", "sha256"])

    def __getstate__(self) -> dict[str, Any]:
        """Leave open connections behind on the way to another process."""
        state = dict(self.__dict__)
        state.pop("_source", None)
        state.pop("_index", None)
        return state

    @classmethod
    def load(
        cls,
        directory: Path,
        credentials: Mapping[str, str] | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Dataset:
        """Read a dataset that this machine has prepared or fetched.

        Args:
            directory: a folder that `prepare_dataset` returned as ``Dataset.directory``.
            credentials: for `source_bytes`, where the source needs some.
            patience_seconds: how long the source's store may stay away then.

        Raises:
            DatasetInvalid: the folder holds no whole dataset, or its pixels are gone.
        """
        try:
            facts = json.loads((directory / FACTS_FILE).read_bytes())
            table = pq.read_table(directory / INDEX_FILE)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DatasetInvalid(
                f"{directory} holds no prepared dataset ({error}).", "Run the same command again."
            ) from error
        if facts.get("format") != _FORMAT:
            raise DatasetInvalid(
                f"{directory} was written by another version of Tunesmith.", "Delete it and run it again."
            )
        dataset = _assemble(directory, facts, table)
        return replace(dataset, credentials=credentials or {}, patience_seconds=patience_seconds)


def finding_counts(findings: Iterable[Finding | Draft]) -> list[dict[str, Any]]:
    """What status.dataset.findings says."""
    return [{"check": each.check, "count": each.count, "policy": each.policy} for each in findings]


def _assemble(directory: Path, facts: dict[str, Any], table: pa.Table) -> Dataset:
    preprocess = Preprocess.from_json(json.dumps(facts["preprocess"]))
    pixels = PixelStore.open(directory / PIXELS_FILE, preprocess.image_size)
    slices = {
        name.removeprefix(SLICE_PREFIX): table[name].to_numpy().astype(np.str_)
        for name in table.column_names
        if name.startswith(SLICE_PREFIX)
    }
    return Dataset(
        directory=directory,
        digest=facts["digest"],
        classes=tuple(facts["classes"]),
        image_size=preprocess.image_size,
        preprocess=preprocess,
        labels=table["label"].to_numpy().astype(np.int32),
        split=table["split"].to_numpy().astype(np.uint8),
        weights=table["weight"].to_numpy().astype(np.float32),
        groups=table["group"].to_numpy().astype(np.int64),
        paths=table["path"].combine_chunks(),
        areas=table["area"].to_numpy().astype(np.int64),
        slices=slices,
        findings=tuple(Finding.from_json(each) for each in facts["findings"]),
        imbalance=facts["imbalance"],
        pixels=pixels,
        skipped=facts["skipped"],
        uri=facts["uri"],
        format=facts["sourceFormat"],
        given_splits=None if facts.get("givenSplits") is None else tuple(facts["givenSplits"]),
    )


def facts_json(
    *,
    digest: str,
    classes: tuple[str, ...],
    preprocess: Preprocess,
    findings: tuple[Finding, ...],
    imbalance: str,
    skipped: int,
    uri: str,
    source_format: str,
    given_splits: tuple[str, ...],
) -> bytes:
    """The text of ``dataset.json``."""
    facts = {
        "format": _FORMAT,
        "digest": digest,
        "classes": list(classes),
        "preprocess": json.loads(preprocess.to_json()),
        "findings": [each.to_json() for each in findings],
        "imbalance": imbalance,
        "skipped": skipped,
        "uri": uri,
        "sourceFormat": source_format,
        "givenSplits": list(given_splits),
    }
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
