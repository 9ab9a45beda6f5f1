"""The stage: list, look at each image once, judge, split, write the index; or take over what is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tunesmith_api.reasons import DatasetInvalid, ObjectMissing
from tunesmith_api.training_job import TrainingJobSpec
from tunesmith_package.preprocess import Preprocess
from tunesmith_package.store import PATIENCE_SECONDS
from tunesmith_trainer.events import Events
from tunesmith_trainer.prepare import checks, duplicates, split
from tunesmith_trainer.prepare.dataset import (
    DROPPED,
    FACTS_FILE,
    INDEX_FILE,
    PIXELS_FILE,
    SLICE_PREFIX,
    TRAIN,
    Dataset,
    DatasetUnusable,
    facts_json,
    finding_counts,
)
from tunesmith_trainer.prepare.findings import MOST_EVIDENCE, Evidence, Finding, thumbnail
from tunesmith_trainer.prepare.observed import Draft, Observed, observe
from tunesmith_trainer.prepare.perceptual import SMALL_SIDE, confirmed
from tunesmith_trainer.prepare.pixels import PixelStore, translated
from tunesmith_trainer.prepare.scan import SMALL_FILE, scan, scan_key
from tunesmith_trainer.prepare.selection import within_cap
from tunesmith_trainer.prepare.source import INCOMPLETE, Ignored, Listing
from tunesmith_trainer.prepare.sources import list_source
from tunesmith_trainer.workspace import Workspace

STAGE = "prepare"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def prepare_dataset(
    spec: TrainingJobSpec,
    workspace: Workspace,
    events: Events,
    credentials: Mapping[str, str] | None = None,
    *,
    patience_seconds: float = PATIENCE_SECONDS,
    listing: Listing | None = None,
) -> Dataset:
    """Prepare the dataset of a spec, or take over what an earlier process of the same run prepared.

    Args:
        spec: the job.
        workspace: of this run; the marker ``prepare.json``, the index and the facts go to its store.
        events: is told the progress and each finding.
        credentials: for the dataset, boto3's names.
        patience_seconds: how long the dataset's store may stay away.
        listing: what `list_source` returned, where the caller has listed the source already.

    Raises:
        DatasetMissing: nothing lies at the address.
        DatasetUnusable: a policy says Fail, or too little is left; the message names files and the policy,
            and the findings until then are told.
        DatasetInvalid: the images are no longer those that this run prepared.
        DiskFull: the cache has no room; what is decoded is kept.
        StoreError: the dataset or the store cannot be read or written.
    """
    listing = listing or list_source(
        spec, credentials, patience_seconds=patience_seconds, on_wait=events.note
    )
    marker = workspace.read_marker(STAGE)
    directory = workspace.cache("datasets", hashlib.sha256(workspace.key("").encode()).hexdigest()[:32])
    if marker is not None:
        if marker["fingerprint"] != listing.fingerprint:
            raise DatasetInvalid(
                "The dataset has changed since this run began.",
                "Start the job anew, so that it gets a run of its own.",
            )
        _restore(spec, listing, marker, workspace, directory, events)
    else:
        _prepare(spec, listing, workspace, directory, events)
    dataset = Dataset.load(directory, credentials, patience_seconds)
    _tell(dataset.findings, events)
    return dataset


def _tell(findings: Iterable[Finding | Draft], events: Events) -> None:
    for each in findings:
        events.emit("finding", check=each.check, count=each.count, policy=each.policy, sentence=each.sentence)


def preprocess_of(spec: TrainingJobSpec) -> Preprocess:
    """How a job's images are decoded; mean and standard deviation are those of most weights (ImageNet)."""
    return Preprocess(
        image_size=spec.transfer.image_size,
        resize=spec.transfer.resize,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        max_pixels=spec.dataset.checks.max_pixels,
    )


@dataclass(frozen=True)
class _Looked:
    """What was seen of the images that are candidates for the dataset.

    Attributes:
        table: one line each, as `scan.SCHEMA` says.
        folder: with their pixels.
        listing: with the samples that proved incomplete among what is ignored.
        left_out: images beyond maxImagesPerClass.
    """

    table: pa.Table
    folder: Path
    listing: Listing
    left_out: int


def _look(spec: TrainingJobSpec, listing: Listing, workspace: Workspace, events: Events) -> _Looked:
    """Choose the images where the listing names them, look at them, choose afterwards where it does not."""
    most, left_out, choice = spec.dataset.max_images_per_class, 0, "all"
    if most is not None and listing.entries is not None:
        entries = listing.entries.take(within_cap(listing.entries.table, "split", most))
        left_out = len(listing.entries) - len(entries)
        listing = replace(listing, entries=entries, total=len(entries))
        choice = f"{most} of each class"
    preprocess = preprocess_of(spec)
    folder = workspace.cache("pixels", scan_key(listing, preprocess, choice))
    table, listing = _without_incomplete(scan(listing, preprocess, folder, events).table, listing)
    if most is not None and listing.entries is None:
        chosen = table.filter(pa.array(within_cap(table, "given_split", most)))
        left_out, table = table.num_rows - chosen.num_rows, chosen
    return _Looked(table, folder, listing, left_out)


def _without_incomplete(table: pa.Table, listing: Listing) -> tuple[pa.Table, Listing]:
    """Move samples of shards that lack an image or a label from the images to what is ignored."""
    lacking = pc.equal(table["fault"], INCOMPLETE)
    count = int(pc.sum(lacking).as_py() or 0)
    if count == 0:
        return table, listing
    if count == table.num_rows:
        raise DatasetInvalid(
            f"None of the {count:,} samples in {listing.source.uri} has both an image and a label.",
            "Write members like 001.jpg and 001.cls (or 001.json with a label, or 001.txt) for each sample.",
        )
    paths = table.filter(lacking)["path"].slice(0, MOST_EVIDENCE).to_pylist()
    listing = replace(
        listing,
        ignored=(*listing.ignored, *(Ignored(path, INCOMPLETE) for path in paths)),
        ignored_counts={**listing.ignored_counts, INCOMPLETE: count},
    )
    return table.filter(pc.invert(lacking)), listing


@dataclass(frozen=True)
class _Judged:
    """What the checks and the split made of the images."""

    observed: Observed
    sides: split.Sides
    imbalance: str


def judge(
    observed: Observed,
    table: pa.Table,
    listing: Listing,
    spec: TrainingJobSpec,
    confirm: duplicates.Confirm,
) -> _Judged:
    """Apply the checks in order, then split. Reads nothing but what ``confirm`` reads.

    Raises:
        DatasetInvalid: a policy says Fail, or too little is left.
    """
    policies = spec.dataset.checks
    observed.given = split.settle(observed.given)
    checks.check_ignored(observed, listing)
    checks.check_slices(observed, listing)
    checks.check_faults(observed, table, policies)
    checks.check_observations(observed, table, policies)
    checks.check_class_names(observed, policies)
    checks.add_empty_classes(observed, listing)
    twins = duplicates.find_twins(observed, policies.near_duplicate_distance, confirm)
    duplicates.check_conflicts(observed, twins, policies)
    duplicates.check_leakage(observed, twins, policies)
    duplicates.check_duplicates(observed, twins, policies)
    duplicates.check_near_duplicates(observed, twins, policies)
    sides = split.assign(observed, twins, spec.dataset)
    checks.check_small_classes(observed, policies)
    sides.split[~observed.alive] = DROPPED
    split.check_empty_sides(observed, sides, spec.dataset)
    imbalance = checks.check_imbalance(observed, np.flatnonzero(sides.split == TRAIN), policies)
    return _Judged(observed, sides, imbalance)


def _prepare(
    spec: TrainingJobSpec, listing: Listing, workspace: Workspace, directory: Path, events: Events
) -> None:
    looked = _look(spec, listing, workspace, events)
    small = PixelStore.open(looked.folder / SMALL_FILE, SMALL_SIDE)
    observed = observe(looked.table, looked.listing.slice_names)
    if looked.left_out:
        most = spec.dataset.max_images_per_class
        number = checks.number(looked.left_out, "image")
        sentence = f"{number} beyond the first {most} of each class are not used."
        observed.drafts.append(Draft("max-images-per-class", str(most), looked.left_out, sentence))
    try:
        judged = judge(observed, looked.table, looked.listing, spec, lambda pairs: confirmed(small, pairs))
    except DatasetInvalid as error:
        _tell(observed.drafts, events)
        raise DatasetUnusable(error, _status(observed, looked.left_out)) from error
    preprocess = preprocess_of(spec)
    pixels = PixelStore.open(looked.folder / PIXELS_FILE, preprocess.image_size)
    findings = tuple(_with_thumbnails(draft, observed, pixels) for draft in observed.drafts)
    index, classes, digest = build_index(judged, looked.table)
    used = int((judged.sides.split != DROPPED).sum())
    facts = facts_json(
        digest=digest,
        classes=classes,
        preprocess=preprocess,
        findings=findings,
        imbalance=judged.imbalance,
        skipped=looked.table.num_rows - used + looked.left_out,
        uri=spec.dataset.uri,
        source_format=listing.format,
        given_splits=split.given_splits(judged.observed),
    )
    _write_local(directory, index, facts, looked.folder)
    workspace.store.put(workspace.key(INDEX_FILE), directory / INDEX_FILE)
    workspace.store.put(workspace.key(FACTS_FILE), facts)
    workspace.write_marker(STAGE, {"digest": digest, "fingerprint": listing.fingerprint})


def _status(observed: Observed, left_out: int) -> dict[str, Any]:
    """What status.dataset says of images that make no dataset."""
    images = len(observed.living())
    return {
        "images": images,
        "classes": len(np.unique(observed.label[observed.alive])),
        "skipped": len(observed) - images + left_out,
        "findings": finding_counts(observed.drafts),
    }


def _restore(
    spec: TrainingJobSpec,
    listing: Listing,
    marker: Mapping[str, Any],
    workspace: Workspace,
    directory: Path,
    events: Events,
) -> None:
    """Take the decisions from the store; decode again only what this machine has lost."""
    try:
        facts = workspace.store.get(workspace.key(FACTS_FILE))
        fetched = workspace.cache("datasets", directory.name, f"{INDEX_FILE}.fetched")
        workspace.store.download(workspace.key(INDEX_FILE), fetched)
    except ObjectMissing as error:
        raise DatasetInvalid(
            f"The prepared dataset of this run is not whole: {error.message}",
            f"Delete {workspace.store.url(workspace.key('prepare.json'))} to prepare it anew.",
        ) from error
    if json.loads(facts)["digest"] != marker["digest"]:
        raise DatasetInvalid(
            "The prepared dataset of this run is not the one its marker names.",
            f"Delete {workspace.store.url(workspace.key('prepare.json'))} to prepare it anew.",
        )
    looked = _look(spec, listing, workspace, events)
    index = pq.read_table(fetched)
    fetched.unlink()
    _write_local(directory, _relocated(index, looked.table), facts, looked.folder)


def _relocated(index: pa.Table, table: pa.Table) -> pa.Table:
    """The index with its pixels where this machine's scan has them."""
    where = {place: row for row, place in enumerate(_places(table))}
    rows = np.asarray([where.get(place, -1) for place in _places(index)], np.int64)
    if not ((rows >= 0).all() and table["sha256"].take(pa.array(rows)).equals(index["sha256"])):
        raise DatasetInvalid(
            "Images have changed since this run prepared the dataset.",
            "Start the job anew, so that it gets a run of its own.",
        )
    pixel = table["pixel"].take(pa.array(rows)).combine_chunks()
    return index.set_column(index.column_names.index("pixel"), "pixel", pixel)


def _places(table: pa.Table) -> Iterator[tuple[str, int]]:
    """Path and offset of each image: a shard may hold several images of one name."""
    return zip(table["path"].to_pylist(), table["offset"].to_pylist(), strict=True)


def build_index(judged: _Judged, table: pa.Table) -> tuple[pa.Table, tuple[str, ...], str]:
    """The lines of the index in the order of their content, the classes and the digest."""
    observed, sides = judged.observed, judged.sides
    living = np.unique(observed.label[sides.split != DROPPED])
    classes = tuple(sorted(observed.names[code] for code in living))
    code_of = np.full(len(observed.names), -1, np.int32)
    for code in living:
        code_of[code] = classes.index(observed.names[code])
    rows = np.flatnonzero(observed.pixel >= 0)
    labels = code_of[observed.label[rows]]
    lines = [_line(observed, int(row), classes, labels[at], sides.split[row]) for at, row in enumerate(rows)]
    order = np.asarray(
        sorted(range(len(rows)), key=lambda at: (lines[at], observed.path(int(rows[at])))), np.int64
    )
    digest = hashlib.sha256()
    for at in order:
        if sides.split[rows[at]] != DROPPED:
            digest.update(lines[at] + b"\n")
    rows = rows[order]
    place = np.full(len(observed), -1, np.int64)
    place[rows] = np.arange(len(rows))
    columns = {
        "path": observed.paths.take(pa.array(rows)).combine_chunks(),
        "label": labels[order],
        "split": sides.split[rows],
        "weight": observed.weight[rows],
        "group": place[sides.groups[rows]],
        "offset": table["offset"].to_numpy()[rows],
        "size": table["size"].to_numpy()[rows],
        "area": table["area"].to_numpy()[rows],
        "sha256": pa.array([row.tobytes() for row in observed.sha256[rows]], pa.binary()),
        "pixel": observed.pixel[rows],
        **{f"{SLICE_PREFIX}{name}": values[rows].tolist() for name, values in observed.slices.items()},
    }
    return pa.table(columns), classes, f"sha256:{digest.hexdigest()}"


def _line(observed: Observed, row: int, classes: tuple[str, ...], label: int, side: int) -> bytes:
    """What the digest takes of one image, as canonical JSON."""
    name = classes[label] if label >= 0 else ""
    slices = [str(observed.slices[column][row]) for column in sorted(observed.slices)]
    fields = [
        observed.sha256[row].tobytes().hex(),
        name,
        int(side),
        float(observed.weight[row]).hex(),
        *slices,
    ]
    return json.dumps(fields, ensure_ascii=True, separators=(",", ":")).encode()


def _write_local(directory: Path, index: pa.Table, facts: bytes, folder: Path) -> None:
    with translated(directory):
        directory.mkdir(parents=True, exist_ok=True)
        partial = directory / f"{INDEX_FILE}.partial"
        pq.write_table(index, partial, compression="zstd")
        partial.replace(directory / INDEX_FILE)
        PixelStore.view(directory / PIXELS_FILE, folder / PIXELS_FILE, index["pixel"].to_numpy())
        partial = directory / f"{FACTS_FILE}.partial"
        partial.write_bytes(facts)
        partial.replace(directory / FACTS_FILE)


def _with_thumbnails(draft: Draft, observed: Observed, pixels: PixelStore) -> Finding:
    def picture(row: int) -> bytes | None:
        if row < 0 or observed.pixel[row] < 0:
            return None
        image: npt.NDArray[np.uint8] = pixels.read(observed.pixel[row : row + 1])[0]
        return thumbnail(image)

    some = tuple(Evidence(path, detail, picture(row)) for row, path, detail in draft.rows)
    return Finding(draft.check, draft.policy, draft.count, draft.sentence, some)
