"""The tables of a verification, and what they say about its metrics in sentences."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith_trainer.verify.calibration import Calibration
from tunesmith_trainer.verify.corruptions import CorruptionResult
from tunesmith_trainer.verify.latency import Latency
from tunesmith_trainer.verify.metrics import MIN_SLICE_SUPPORT, ClassResult, SliceResult


@dataclass(frozen=True)
class Tables:
    """What lies behind the metrics of a model.

    Attributes:
        confusion: K rows of K counts: the row is the label, the column the prediction.
        classes: in the order of the labels.
        slices: the worst judged one first.
        calibration: error, its reference and the reliability bins.
        corruptions: by kind and severity, at least one.
    """

    confusion: tuple[tuple[int, ...], ...]
    classes: tuple[ClassResult, ...]
    slices: tuple[SliceResult, ...]
    calibration: Calibration
    corruptions: tuple[CorruptionResult, ...]

    @property
    def worst_class(self) -> ClassResult:
        """The class of the lowest recall among those with test images."""
        return min(self.classes, key=lambda one: 2.0 if one.recall is None else one.recall)

    @property
    def lowest_slice(self) -> SliceResult | None:
        """The slice of the lowest accuracy among those with enough images; None without such slices."""
        return next((one for one in self.slices if one.judged), None)


def remarks(tables: Tables, latency: Latency) -> dict[str, str]:
    """Per metric a sentence that helps to understand its value, for the gates."""
    worst, calibration = tables.worst_class, tables.calibration
    hardest = min(tables.corruptions, key=lambda one: one.accuracy)
    return {
        "worstClassRecall": f'The worst class is "{worst.name}" with {worst.support} test images.',
        "worstSliceAccuracy": _slice_remark(tables.lowest_slice),
        "calibrationError": (
            f"A perfectly calibrated model would show about {calibration.expected_if_calibrated:.3f} on as "
            f"many images, and at most {calibration.highest_if_calibrated:.3f} in 95 of 100 cases."
        ),
        "corruptionAccuracy": (
            f"It is lowest under {hardest.kind} at severity {hardest.severity}: {hardest.accuracy:.3f}."
        ),
        "latencyP95Milliseconds": latency.note,
    }


def _slice_remark(lowest: SliceResult | None) -> str:
    if lowest is None:
        return (
            f"No slice column has a value with at least {MIN_SLICE_SUPPORT} test images; "
            "spec.dataset.sliceColumns names the columns."
        )
    return f'The worst slice is {lowest.column}="{lowest.value}" with {lowest.support} test images.'
