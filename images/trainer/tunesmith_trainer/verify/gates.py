"""The gates of the spec: pure decisions from measured values, each answered with a sentence for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic.dataclasses import dataclass

from tunesmith_api.fields import LOWER_IS_BETTER
from tunesmith_api.reasons import GateFailed
from tunesmith_api.verification_spec import Gate
from tunesmith_trainer.verify.bootstrap import Interval
from tunesmith_trainer.verify.records import CAMEL

SIGNIFICANCE = 0.05
"""A difference to the champion counts as real when the one-sided paired test has a smaller p-value."""

_UNITS = {"latencyP95Milliseconds": " ms", "modelSizeMegabytes": " MB"}

_ADVICE = {
    "accuracy": "Look at the confusion matrix and the suspected labels in the report, add images of the "
    "classes that are mixed up, or let the search try more trials and backbones.",
    "macroF1": "Look at the weakest classes in the report and add images of them.",
    "worstClassRecall": "Add images of that class and check their labels in the report.",
    "worstSliceAccuracy": "Add training images of that slice.",
    "negativeLogLikelihood": "Confident mistakes cost most: look at the worst ones in the report; often they "
    "are wrong labels.",
    "calibrationError": "More validation images make the temperature more certain.",
    "corruptionAccuracy": "Try spec.transfer.augmentation: TrivialAugment, or a larger backbone.",
    "latencyP95Milliseconds": "Choose a smaller backbone or spec.transfer.imageSize, or allow more time.",
    "modelSizeMegabytes": "Choose a smaller backbone.",
}


@dataclass(frozen=True, config=CAMEL)
class GateResult:
    """How a gate was answered.

    Attributes:
        metric: what was measured.
        limit: the limit as in ``>= 0.9``, ``<= 80`` or ``champion + 0.01``.
        value: what was measured; None when it could not be.
        passed: whether the model met the limit.
        message: the same as a sentence, with the difference.
        advice: what to do about a failure; empty when passed.
    """

    metric: str
    limit: str
    value: float | None
    passed: bool
    message: str
    advice: str = ""


@dataclass(frozen=True, config=CAMEL)
class Comparison:
    """A model beside the champion, on the same test images.

    Attributes:
        champion: the champion in words, for example ``sha256:0123456789ab``.
        value: the metric of the model.
        champion_value: the metric of the champion.
        test: the paired test in words; empty where none applies (latency, size, no resamples).
        p_short: one-sided p-value of "the model reaches the demanded margin"; small: it really falls short.
        p_gain: one-sided p-value of "the model is no better than the champion"; small: it really is better.
        images: how many different images both were compared on; 0 where no image enters (size).
    """

    champion: str
    value: float
    champion_value: float
    test: str
    p_short: float | None
    p_gain: float | None
    images: int


def decide_gates(
    gates: Sequence[Gate],
    measured: Mapping[str, Interval],
    comparisons: Mapping[tuple[str, float], Comparison],
    remarks: Mapping[str, str] | None = None,
) -> tuple[GateResult, ...]:
    """Answer every gate.

    A minimum or maximum is met by the measured value itself, not by its interval. A gate relative to the
    champion asks whether the metric improved by at least ``minimumDelta``, and lets whoever claims a
    difference prove it by a paired test. With a margin of 0 or less the model fails if it falls short of the
    margin and the test says that this is not chance. With a positive margin it must reach the margin, and the
    test must say that it is better than the champion.

    Args:
        gates: of the spec.
        measured: metric -> value with interval; a metric that could not be measured is absent.
        comparisons: (metric, minimumDelta) -> comparison with the champion; empty without a champion.
        remarks: metric -> a sentence that helps to understand its value, put behind the verdict.
    """
    said = remarks or {}
    return tuple(
        _relative(gate, comparisons.get((gate.metric, gate.delta)), measured.get(gate.metric), said)
        if gate.relative_to
        else _absolute(gate, measured.get(gate.metric), said)
        for gate in gates
    )


def require_gates(results: Sequence[GateResult]) -> None:
    """Raise if a gate failed.

    Raises:
        GateFailed: with the sentence of each gate that failed.
    """
    failed = [one for one in results if not one.passed]
    if not failed:
        return
    count = f"{len(failed)} of {len(results)} gates failed" if len(results) > 1 else "The gate failed"
    sentences = " ".join(one.message for one in failed)
    advice = " ".join(dict.fromkeys(one.advice for one in failed))
    raise GateFailed(
        f"{count}: {sentences}",
        f"{advice} The model is kept for study but marked unverified; nothing will serve it.",
    )


def _absolute(gate: Gate, measured: Interval | None, remarks: Mapping[str, str]) -> GateResult:
    lower = gate.metric in LOWER_IS_BETTER
    bound = gate.maximum if lower else gate.minimum
    if bound is None:
        raise ValueError(f"the gate on {gate.metric} has no limit")
    limit = f"{'<=' if lower else '>='} {bound:g}"
    if measured is None:
        return _unmeasured(gate.metric, limit, remarks)
    passed = measured.value <= bound if lower else measured.value >= bound
    word = "maximum" if lower else "minimum"
    value, shown_bound, gap = _shown(gate.metric, measured.value, bound)
    if passed:
        verdict = "meets" if measured.value == bound else f"is {gap} {'below' if lower else 'above'}"
    else:
        verdict = f"is {gap} {'above' if lower else 'below'}"
    sentence = f"{gate.metric} {value} {verdict} the {word} {shown_bound} of the gate."
    if not passed and _reaches(measured, bound, lower):
        low, high, _ = _shown(gate.metric, measured.low, measured.high)
        sentence += f" Its 95 % interval {low} to {high} reaches the limit: more test images would tell."
    return _result(gate.metric, limit, measured.value, passed, sentence, remarks)


def _relative(
    gate: Gate, comparison: Comparison | None, measured: Interval | None, remarks: Mapping[str, str]
) -> GateResult:
    limit = f"champion {'-' if gate.delta < 0 else '+'} {abs(gate.delta):g}" if gate.delta else "champion"
    if measured is None:
        return _unmeasured(gate.metric, limit, remarks)
    if comparison is None:
        value, _, _ = _shown(gate.metric, measured.value, measured.value)
        message = f"{gate.metric} {value} has no champion to beat: this job has no verified model yet."
        return GateResult(gate.metric, limit, measured.value, True, message)
    lower = gate.metric in LOWER_IS_BETTER
    improvement = (comparison.champion_value - comparison.value) * (1 if lower else -1)
    passed, because = _judge(improvement, gate.delta, comparison)
    value, champion_value, gap = _shown(gate.metric, comparison.value, comparison.champion_value)
    verdict = "equals" if improvement == 0 else f"is {gap} {'better' if improvement > 0 else 'worse'} than"
    same = f" on the same {comparison.images} test images" if comparison.images else ""
    sentence = (
        f"{gate.metric} {value} {verdict} the {champion_value} of the champion {comparison.champion}"
        f"{same}{because}."
    )
    return _result(gate.metric, limit, comparison.value, passed, sentence, remarks)


def _judge(improvement: float, delta: float, comparison: Comparison) -> tuple[bool, str]:
    """The verdict, and the reason as the end of a sentence."""
    reached = improvement >= delta - 1e-12
    margin = f"the margin of {delta:g}"
    if delta > 0:
        if not reached:
            return False, f", less than {margin} that the gate asks for"
        if comparison.p_gain is None:
            return True, f", and {margin} is reached"
        proven = comparison.p_gain < SIGNIFICANCE
        word = "and" if proven else "but"
        tail = "is beyond chance" if proven else "may be chance"
        return proven, f", {word} the gain {tail} ({comparison.test}, p = {comparison.p_gain:.2g})"
    if reached:
        return True, ""
    if comparison.p_short is None:
        return False, f", beyond {margin}" if delta else ""
    real = comparison.p_short < SIGNIFICANCE
    tail = "which is beyond chance" if real else "which may be chance"
    beyond = f", beyond {margin}" if delta else ""
    return not real, f"{beyond}, {tail} ({comparison.test}, p = {comparison.p_short:.2g})"


def _unmeasured(metric: str, limit: str, remarks: Mapping[str, str]) -> GateResult:
    remark = remarks.get(metric, "")
    message = f"{metric} could not be measured, so its gate {limit} is not met. {remark}".rstrip()
    return GateResult(metric, limit, None, False, message, "Make it measurable or remove the gate.")


def _result(
    metric: str, limit: str, value: float, passed: bool, sentence: str, remarks: Mapping[str, str]
) -> GateResult:
    message = f"{sentence} {remarks.get(metric, '')}".rstrip()
    return GateResult(metric, limit, value, passed, message, "" if passed else _ADVICE[metric])


def _reaches(measured: Interval, bound: float, lower: bool) -> bool:
    return measured.low <= bound if lower else measured.high >= bound


def _shown(metric: str, value: float, other: float) -> tuple[str, str, str]:
    """Both numbers and their distance, with as many digits as it takes to tell them apart."""
    unit = _UNITS.get(metric, "")
    decimals = 1 if unit else 3
    while decimals < 9 and value != other and round(value, decimals) == round(other, decimals):
        decimals += 1
    gap = abs(round(value, decimals) - round(other, decimals))
    return f"{value:.{decimals}f}{unit}", f"{other:.{decimals}f}{unit}", f"{gap:.{decimals}f}{unit}"
