"""Checks that look at one image, one class or one name at a time. Each leaves a draft, or fails the job."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from tunesmith_api.dataset_spec import Checks
from tunesmith_api.reasons import DatasetInvalid
from tunesmith_trainer.prepare.findings import MOST_EVIDENCE
from tunesmith_trainer.prepare.observed import Draft, EvidenceRows, IntArray, Observed
from tunesmith_trainer.prepare.source import Ignored, Listing

_FAULTS = {
    "zero-byte": "empty",
    "not-an-image": "no images",
    "truncated": "incomplete",
    "unreadable": "damaged or cannot be read",
    "pixel-bomb": "larger than maxPixels allows",
}
_CONVERSIONS = {
    "exif-orientation": "are turned upright as their EXIF orientation says",
    "cmyk": "are converted from CMYK to RGB",
    "16-bit": "are scaled from 16 to 8 bits per sample",
    "palette": "are converted from a palette to RGB",
    "alpha": "have transparency and are laid on white",
    "grey": "are grey and get three equal channels",
}
_IGNORED = {
    "clutter": ("clutter", "Ignore", "lie beside the images and are ignored (hidden, text or system files)"),
    "outside-root": ("path-outside-root", "Refuse", "link out of the dataset's root and are refused"),
    "folder-link": (
        "folder-link",
        "Ignore",
        "link to a folder of the dataset, which counts under its own name only, and are ignored",
    ),
    "odd-name": ("odd-name", "Ignore", "have names that are not UTF-8 and are left out: rename them"),
    "outside-splits": ("outside-splits", "Ignore", "lie beside the train and test folders and are ignored"),
    "outside-classes": ("outside-classes", "Ignore", "lie in no class folder and are ignored"),
    "incomplete-sample": ("incomplete-sample", "Ignore", "lack an image or a label and are ignored"),
}
_LEAVES_OUT = ("Drop", "Skip", "Refuse", "Ignore")
_MOST_CAUSES = 3
IMBALANCE_RATIO = 10.0
"""With imbalance: Auto, training balances classes whose sizes differ by more than this factor."""
_REPORTED_RATIO = 3.0


def number(count: int, one: str, many: str = "") -> str:
    """``1 image`` or ``2,000 images``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def named(names: Iterable[str], most: int = 3) -> str:
    """The first few names of many, for a sentence."""
    listed = list(names)
    rest = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(repr(each) for each in listed[:most]) + rest


def evidence(observed: Observed, rows: IntArray, details: Sequence[str] = ()) -> EvidenceRows:
    """The first few rows as evidence."""
    some = [int(row) for row in rows[:MOST_EVIDENCE]]
    return tuple(
        (row, observed.path(row), details[at] if at < len(details) else "") for at, row in enumerate(some)
    )


def check_ignored(observed: Observed, listing: Listing) -> None:
    """Report the files that are no images of the dataset."""
    observed.drafts.extend(ignored(listing.ignored_counts, listing.ignored))


def ignored(counts: Mapping[str, int], some: Iterable[Ignored]) -> Iterator[Draft]:
    """Findings on files that are no images of the dataset.

    Args:
        counts: how many of each kind.
        some: files to name as evidence.
    """
    files = list(some)
    for kind, count in sorted(counts.items()):
        check, policy, words = _IGNORED[kind]
        rows = tuple((-1, each.path, "") for each in files if each.kind == kind)[:MOST_EVIDENCE]
        yield Draft(check, policy, count, f"{number(count, 'file')} {_agree(words, count)}.", rows)


def left_out(drafts: Iterable[Draft]) -> str:
    """Why too little is left: the findings that left most out, to stand behind a sentence; else nothing."""
    causes = [each for each in drafts if each.policy in _LEAVES_OUT or each.check == "max-images-per-class"]
    causes.sort(key=lambda each: (each.check == "clutter", -each.count))
    return "".join(f" {each.sentence}" for each in causes[:_MOST_CAUSES])


def check_slices(observed: Observed, listing: Listing) -> None:
    """Refuse slice columns that no sample of a shard has; those of a table are looked for by its header.

    Raises:
        DatasetInvalid: there are some.
    """
    if listing.entries is not None:
        return
    missing = [name for name, values in observed.slices.items() if not (values != "").any()]
    if missing:
        raise DatasetInvalid(
            f"No sample in {listing.source.uri} has a field {named(missing, 5)} in its .json.",
            "Write it there, or take it out of spec.dataset.sliceColumns.",
        )


def check_faults(observed: Observed, table: pa.Table, checks: Checks) -> None:
    """Judge the images that could not be decoded.

    Raises:
        DatasetInvalid: there are any and onCorrupt is Fail, or too many and it is Skip.
    """
    faults = np.asarray(table["fault"].to_pylist(), dtype=np.str_)
    bad = np.flatnonzero(faults != "")
    for kind, words in _FAULTS.items():
        rows = np.flatnonzero(faults == kind)
        if len(rows):
            messages = [str(table["message"][int(row)].as_py()) for row in rows[:MOST_EVIDENCE]]
            sentence = (
                f"{number(len(rows), 'file')} {'is' if len(rows) == 1 else 'are'} {words} and left out."
            )
            some = evidence(observed, rows, messages)
            observed.drafts.append(Draft(kind, checks.on_corrupt, len(rows), sentence, some))
    if len(bad) == 0:
        return
    examples = named(observed.path(row) for row in bad)
    if checks.on_corrupt == "Fail":
        raise DatasetInvalid(
            f"{number(len(bad), 'image')} cannot be used: {examples}; "
            f"the first: {table['message'][int(bad[0])].as_py()}",
            "Repair or remove them, or set spec.dataset.checks.onCorrupt: Skip.",
        )
    fraction = len(bad) / len(observed)
    if fraction > checks.max_corrupt_fraction:
        raise DatasetInvalid(
            f"{number(len(bad), 'image')} of {len(observed):,} ({fraction:.1%}) cannot be used, more than "
            f"maxCorruptFraction allows ({checks.max_corrupt_fraction:.1%}): {examples}; "
            f"the first: {table['message'][int(bad[0])].as_py()}",
            "Repair or remove them, or raise spec.dataset.checks.maxCorruptFraction.",
        )


def check_observations(observed: Observed, table: pa.Table, checks: Checks) -> None:
    """Report what the decoder converted, and judge animations and formats that the extension denies.

    Raises:
        DatasetInvalid: the policy for one of these is Fail.
    """
    found: defaultdict[str, list[int]] = defaultdict(list)
    row = 0
    for chunk in table["observations"].chunks:
        for observations in chunk.to_pylist():
            for each in observations:
                found[each].append(row)
            row += 1
    for kind, words in _CONVERSIONS.items():
        if rows := np.asarray(found[kind], np.int64).tolist():
            sentence = f"{number(len(rows), 'image')} {_agree(words, len(rows))}."
            some = evidence(observed, np.asarray(rows, np.int64))
            observed.drafts.append(Draft(kind, "Convert", len(rows), sentence, some))
    _judge(
        observed,
        found["animated"],
        ("animated", "onAnimated", checks.on_animated, "FirstFrame"),
        {"FirstFrame": "the first frame is used", "Skip": "left out"},
        "more than one frame",
    )
    _judge(
        observed,
        found["format-mismatch"],
        ("format-mismatch", "onFormatMismatch", checks.on_format_mismatch, "Accept"),
        {"Accept": "used all the same", "Skip": "left out"},
        "another format than the extension says",
    )


def _judge(
    observed: Observed,
    found: list[int],
    names: tuple[str, str, str, str],
    outcomes: dict[str, str],
    words: str,
) -> None:
    check, field, policy, lenient = names
    if not found:
        return
    rows = np.asarray(found, np.int64)
    has = "has" if len(rows) == 1 else "have"
    if policy == "Fail":
        raise DatasetInvalid(
            f"{number(len(rows), 'image')} {has} {words}: {named(observed.path(row) for row in rows)}.",
            f"Convert or remove them, or set spec.dataset.checks.{field}: {lenient}.",
        )
    if policy == "Skip":
        observed.drop(rows)
    sentence = f"{number(len(rows), 'image')} {has} {words}; {outcomes[policy]}."
    observed.drafts.append(Draft(check, policy, len(rows), sentence, evidence(observed, rows)))


_SINGULAR = {"are": "is", "have": "has", "get": "gets", "their": "its"} | {
    verb: f"{verb}s" for verb in ("lie", "lack", "link")
}


def _agree(words: str, count: int) -> str:
    """The words after one thing or several."""
    if count != 1:
        return words
    return " ".join(_SINGULAR.get(word, word) for word in words.split(" "))


def name_key(name: str) -> str:
    """What stays of a class name without case and spaces."""
    return "".join(unicodedata.normalize("NFC", name).casefold().split())


def check_class_names(observed: Observed, checks: Checks) -> None:
    """Judge class names that differ only by case or spaces.

    Merge takes the spelling that most images have.

    Raises:
        DatasetInvalid: there are such names and onClassNameCollision is Fail.
    """
    counts = Counter({name: int((observed.label == at).sum()) for at, name in enumerate(observed.names)})
    spellings: defaultdict[str, list[str]] = defaultdict(list)
    for name in observed.names:
        spellings[name_key(name)].append(name)
    collisions = [sorted(each) for each in spellings.values() if len(each) > 1]
    if not collisions:
        return
    collisions.sort()
    listed = "; ".join(" and ".join(repr(name) for name in each) for each in collisions[:5])
    policy = checks.on_class_name_collision
    if policy == "Fail":
        raise DatasetInvalid(
            f"Class names differ only by case or spaces: {listed}.",
            "Rename them, or set spec.dataset.checks.onClassNameCollision: Merge to make one class of each.",
        )
    if policy == "Merge":
        for each in collisions:
            _merge(observed, each, max(each, key=lambda name: (counts[name], name)))
    count = sum(len(each) for each in collisions)
    done = "merged" if policy == "Merge" else "kept as different classes"
    sentence = f"{number(count, 'class name')} differ only by case or spaces and are {done}: {listed}."
    rows = tuple((-1, name, number(counts[name], "image")) for each in collisions for name in each)
    observed.drafts.append(Draft("class-name-collision", policy, count, sentence, rows[:MOST_EVIDENCE]))


def _merge(observed: Observed, names: list[str], kept: str) -> None:
    target = observed.names.index(kept)
    codes = [observed.names.index(name) for name in names]
    observed.label[np.isin(observed.label, codes)] = target


def add_empty_classes(observed: Observed, listing: Listing) -> None:
    """Count folders without any image as classes, unless they are another spelling of one with images."""
    spelled = set(map(name_key, observed.names))
    names = [name for name in listing.empty_classes if name_key(name) not in spelled]
    observed.empty = np.arange(len(observed.names), len(observed.names) + len(names))
    observed.names = [*observed.names, *names]


def check_small_classes(observed: Observed, checks: Checks) -> None:
    """Judge classes with fewer usable images than minImagesPerClass.

    Raises:
        DatasetInvalid: there are some and onSmallClass is Fail, or fewer than two classes remain.
    """
    counts = np.bincount(observed.label[observed.alive], minlength=len(observed.names))
    used = np.union1d(observed.label, observed.empty)
    small = [int(code) for code in used if counts[code] < checks.min_images_per_class]
    policy = checks.on_small_class
    if small:
        small.sort(key=lambda code: (counts[code], observed.names[code]))
        listed = ", ".join(f"{observed.names[code]!r} ({counts[code]})" for code in small[:5])
        listed += f" and {len(small) - 5} more" if len(small) > 5 else ""
        if policy == "Fail":
            causes = left_out(observed.drafts)
            first = "See to what was left out, add" if causes else "Add"
            raise DatasetInvalid(
                f"{number(len(small), 'class', 'classes')} {'has' if len(small) == 1 else 'have'} fewer than "
                f"{checks.min_images_per_class} usable images: {listed}.{causes}",
                f"{first} images, lower spec.dataset.checks.minImagesPerClass, "
                "or set onSmallClass: Drop or Keep.",
            )
        gone = [code for code in small if policy == "Drop" or counts[code] == 0]
        observed.drop(np.isin(observed.label, gone))
        done = "left out" if policy == "Drop" else "kept where there is any image" if gone else "kept"
        sentence = (
            f"{number(len(small), 'class', 'classes')} {'has' if len(small) == 1 else 'have'} fewer than "
            f"{checks.min_images_per_class} images and {'is' if len(small) == 1 else 'are'} {done}: {listed}."
        )
        rows = tuple((-1, observed.names[code], number(int(counts[code]), "image")) for code in small)
        observed.drafts.append(Draft("small-class", policy, len(small), sentence, rows[:MOST_EVIDENCE]))
    remaining = [observed.names[code] for code in np.unique(observed.label[observed.alive])]
    if len(remaining) < 2:
        raise DatasetInvalid(
            f"A classifier needs two classes with images at least; usable are {named(remaining) or 'none'}."
            f"{left_out(observed.drafts)}",
            "Check the folders or the label column, and what was left out.",
        )


def check_imbalance(observed: Observed, split_train: IntArray, checks: Checks) -> str:
    """Report classes of very different size; return the strategy in force: None, Loss or Sampling.

    Args:
        observed: the images.
        split_train: rows that train.
        checks: the policies.
    """
    labels = observed.label[split_train]
    counts = np.bincount(labels, minlength=len(observed.names))
    codes = np.unique(labels)
    if len(codes) < 2:
        return "None"
    largest, smallest = max(codes, key=lambda c: counts[c]), min(codes, key=lambda c: counts[c])
    ratio = float(counts[largest] / counts[smallest])
    strategy = checks.imbalance
    in_force = ("Loss" if ratio > IMBALANCE_RATIO else "None") if strategy == "Auto" else strategy
    if ratio > _REPORTED_RATIO:
        done = {
            "None": "nothing makes up for it; set spec.dataset.checks.imbalance: Loss or Sampling to do so",
            "Loss": "the loss weighs small classes more",
            "Sampling": "images of small classes are drawn more often",
        }[in_force]
        sentence = (
            f"The largest class, {observed.names[largest]!r}, has {ratio:.1f} times the training images of "
            f"the smallest, {observed.names[smallest]!r} ({counts[largest]:,} and {counts[smallest]:,}); "
            f"{done}."
        )
        observed.drafts.append(Draft("imbalance", strategy, 1, sentence))
    return in_force
