"""The champion: the newest verified model of the same job, and a paired comparison with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr

from tunesmith_api.fields import LOWER_IS_BETTER
from tunesmith_api.reasons import ObjectMissing, PackageError, PackageInvalid
from tunesmith_package.manifest import MANIFEST, digest_of, parse_manifest
from tunesmith_package.package import open_package
from tunesmith_package.store import Store
from tunesmith_trainer.verify.bootstrap import FloatArray
from tunesmith_trainer.verify.gates import Comparison
from tunesmith_trainer.verify.verification import METRICS_FILE

MCNEMAR = "exact McNemar test"
BOOTSTRAP = "paired bootstrap"


@dataclass(frozen=True)
class Measured:
    """What was measured of one model, in a form that can be compared image by image.

    Attributes:
        values: metric -> value.
        resampled: metric -> values on bootstrap resamples [B], the same resamples for every model.
        correct: bool [n], whether the model is right on each test image.
        images: metric -> how many different test images it rests on, where these are not all n.
    """

    values: dict[str, float]
    resampled: dict[str, FloatArray] = field(default_factory=dict)
    correct: npt.NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))
    images: dict[str, int] = field(default_factory=dict)


def compare(metric: str, delta: float, model: Measured, champion: Measured, name: str) -> Comparison:
    """Compare a model with the champion on the same images.

    Accuracy without a margin is compared by McNemar's test in its exact form (McNemar 1947): among the images
    that only one of the two gets right, each side is as likely under equality. Everything else with resamples
    is compared by the paired bootstrap: the share of resamples on which the difference is on the other side.
    Latency and size have no test.

    Args:
        metric: one that both models have.
        delta: the improvement that the gate asks for; negative allows the model to be that much worse.
        model: measured.
        champion: measured.
        name: the champion in words.
    """
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    test, p_short, p_gain = "", None, None
    if metric in model.resampled and metric in champion.resampled:
        differences = sign * (model.resampled[metric] - champion.resampled[metric])
        test = BOOTSTRAP
        p_short = _share(differences >= delta - 1e-12, differences)
        p_gain = _share(differences <= 1e-12, differences)
    if metric == "accuracy" and delta >= 0:
        only_model, only_champion = _discordant(model.correct, champion.correct)
        test = MCNEMAR
        p_short = mcnemar_p(only_model, only_champion)
        p_gain = mcnemar_p(only_champion, only_model)
    return Comparison(
        champion=name,
        value=model.values[metric],
        champion_value=champion.values[metric],
        test=test,
        p_short=p_short,
        p_gain=p_gain,
        images=model.images.get(metric, len(model.correct)),
    )


def mcnemar_p(fewer: int, more: int) -> float:
    """One-sided exact p-value: ``fewer`` or less of ``fewer + more`` fair coin tosses; 1.0 for no tosses."""
    return float(bdtr(fewer, fewer + more, 0.5)) if fewer + more else 1.0


def _discordant(model: npt.NDArray[np.bool_], champion: npt.NDArray[np.bool_]) -> tuple[int, int]:
    return int((model & ~champion).sum()), int((champion & ~model).sum())


def _share(hits: npt.NDArray[np.bool_], values: FloatArray) -> float:
    """The share of the defined resamples, never 0: a finite number of resamples cannot show impossibility."""
    defined = np.isfinite(values)
    return float((1 + (hits & defined).sum()) / (1 + defined.sum()))


@dataclass(frozen=True)
class Champion:
    """The model to beat, on this machine and with every byte checked.

    Attributes:
        digest: ``sha256:...`` of its package.
        dataset_digest: of the dataset it was trained on.
        directory: holds the package's files.
    """

    digest: str
    dataset_digest: str
    directory: Path

    @property
    def name(self) -> str:
        """The digest as people recognise it."""
        return self.digest[: len("sha256:") + 12]


def find_champion(
    store: Store,
    job: str,
    *,
    cache: Path | None = None,
    credentials: Mapping[str, str] | None = None,
    on_skip: Callable[[str], None] | None = None,
) -> Champion | None:
    """Fetch the newest verified model of a job; None when it has none yet.

    Newest by the time in ``metrics.json``. A package that is damaged is passed over in favour of the next
    one, with a sentence to ``on_skip``; if all are, the error of the newest is raised, because a comparison
    with nothing must not pass for one with a champion.

    Args:
        store: the model store.
        job: name of the TrainingJob.
        cache: keeps fetched packages; see `open_package`.
        credentials: of the store.
        on_skip: told what was passed over.

    Raises:
        PackageError: every verified package is damaged.
        StoreError: the store cannot be read.
    """
    first: PackageError | None = None
    for verified_at, digest in sorted(_verified(store, job, on_skip), reverse=True):
        address = store.url(f"models/{job}/{digest.removeprefix('sha256:')}")
        try:
            package = open_package(
                address, credentials=credentials, digest=digest, cache=cache, require_verified=True
            )
        except PackageError as error:
            first = first or error
            if on_skip is not None:
                on_skip(f"The verified model of {verified_at} is passed over as champion. {error}")
            continue
        return Champion(digest, package.manifest.header.dataset_digest, package.directory)
    if first is not None:
        raise first
    return None


def _verified(store: Store, job: str, on_skip: Callable[[str], None] | None) -> Iterator[tuple[str, str]]:
    """Yield time and digest of the job's verified packages; without a readable time they count as oldest."""
    for info in store.list(f"models/{job}/"):
        folder, _, file = info.key.rpartition("/")
        if file != MANIFEST:
            continue
        data = store.get(info.key)
        try:
            verified = parse_manifest(data).header.verified
        except PackageInvalid as error:
            if on_skip is not None:
                on_skip(f"{store.url(info.key)} is passed over as champion. {error}")
            continue
        if verified:
            yield _verified_at(store, folder), digest_of(data)


def _verified_at(store: Store, folder: str) -> str:
    try:
        found = json.loads(store.get(f"{folder}/{METRICS_FILE}"))
    except (ObjectMissing, ValueError):
        return ""
    return str(found.get("verifiedAt", "")) if isinstance(found, dict) else ""
