"""How numbers, names and strangers' strings are written, the same everywhere in the report and the card."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeGuard

from tunesmith_trainer.publish.report.data import Estimate, Setting

NARROW_SPACE = "\u202f"
WORD_JOINER = "\u2060"
"""Keeps an interval on one line."""
UNKNOWN = "–"
LONGEST_TEXT = 600
"""Characters of a stranger's string that are shown; the rest is cut off and said so by an ellipsis."""
LONGEST_NAME = 80

# Characters that cannot be stored as UTF-8, that XML forbids or that turn the direction of the text around
# them:
# a file name must not be able to rearrange the sentence it stands in (Trojan Source, CVE-2021-42574).
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff￾￿]"
)


def printable(text: str, limit: int = LONGEST_TEXT) -> str:
    """Return `text` with at most `limit` characters and without any that cannot or should not be shown."""
    clipped = text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
    return _UNPRINTABLE.sub("�", clipped)


def name(text: str) -> str:
    """The name of a class or a slice, cut where it is absurdly long."""
    return printable(text, LONGEST_NAME)


def clip_middle(text: str, limit: int) -> str:
    """Shorten a path to `limit` characters, keeping its beginning and, most of all, its end."""
    if len(text) <= limit:
        return text
    head = limit // 3
    return f"{text[:head]}…{text[len(text) - (limit - head - 1) :]}"


@dataclass(frozen=True)
class MetricStyle:
    """How a metric is called and written, and which direction is good."""

    label: str
    kind: Literal["percent", "number", "milliseconds", "megabytes"]
    higher_is_better: bool


METRICS: dict[str, MetricStyle] = {
    "accuracy": MetricStyle("Accuracy", "percent", True),
    "macroF1": MetricStyle("Macro F1", "percent", True),
    "worstClassRecall": MetricStyle("Worst class recall", "percent", True),
    "worstSliceAccuracy": MetricStyle("Worst slice accuracy", "percent", True),
    "negativeLogLikelihood": MetricStyle("Negative log likelihood", "number", False),
    "calibrationError": MetricStyle("Calibration error", "number", False),
    "corruptionAccuracy": MetricStyle("Accuracy under corruption", "percent", True),
    "latencyP95Milliseconds": MetricStyle("Latency, 95th percentile", "milliseconds", False),
    "modelSizeMegabytes": MetricStyle("Model size", "megabytes", False),
}


def known(value: float | None) -> TypeGuard[float]:
    """Whether there is a number to write."""
    return value is not None and math.isfinite(value)


def count(value: int) -> str:
    """1234 -> 1,234."""
    return f"{value:,}"


def plural(number: int, singular: str, many: str = "") -> str:
    """(1, "photo") -> 1 photo; (2, "class", "classes") -> 2 classes."""
    return f"{count(number)} {singular if number == 1 else many or singular + 's'}"


def percent(value: float | None, digits: int = 1) -> str:
    """0.967 -> 96.7 %."""
    return f"{100 * value:.{digits}f}{NARROW_SPACE}%" if known(value) else UNKNOWN


def number(value: float | None, digits: int = 3) -> str:
    """0.12345 -> 0.123."""
    return f"{value:,.{digits}f}" if known(value) else UNKNOWN


def seconds(value: float | None) -> str:
    """Seconds as a person says them: 0.42 s, 12 s, 3 min 20 s, 1 h 05 min."""
    if not known(value):
        return UNKNOWN
    if value < 10:
        return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(byte_count: int) -> str:
    """Bytes in decimal units: 9.2 MB."""
    if byte_count < 1_000_000:
        return f"{byte_count / 1000:,.0f} kB"
    return f"{byte_count / 1_000_000:,.1f} MB"


def setting(value: Setting | None) -> str:
    """A trial's parameter with three significant digits: 0.00316 -> 3.16e-3."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return printable(value, 60)
    if not math.isfinite(value):
        return UNKNOWN
    if value != 0 and (abs(value) < 0.01 or abs(value) >= 100_000):
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.3g}"


_ACRONYMS = {word.lower(): word for word in ("EXIF", "CMYK", "JPEG", "ICC", "F1", "TPE", "EMA", "Gaussian")}


def words(identifier: str) -> str:
    """An identifier as words: learningRate -> learning rate, near-duplicate -> near duplicate."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", identifier)
    spaced = re.sub(r"[-_]+", " ", spaced)
    return " ".join(_ACRONYMS.get(word.lower(), word.lower()) for word in spaced.split())


def title(identifier: str) -> str:
    """The same, beginning with a capital letter."""
    text = words(identifier)
    return text[:1].upper() + text[1:]


def metric_label(metric: str) -> str:
    """What people call the metric."""
    return METRICS[metric].label if metric in METRICS else title(printable(metric, 60))


def higher_is_better(metric: str) -> bool:
    """Whether more of the metric is good; an unknown metric counts as good."""
    return METRICS[metric].higher_is_better if metric in METRICS else True


def metric_value(metric: str, value: float | None) -> str:
    """The metric's value with its unit."""
    if not known(value):
        return UNKNOWN
    match METRICS[metric].kind if metric in METRICS else "number":
        case "percent":
            return percent(value)
        case "milliseconds":
            return f"{value:,.1f} ms"
        case "megabytes":
            return f"{value:,.1f} MB"
        case _:
            return number(value)


def metric_interval(estimate: Estimate) -> str:
    """The 95 % interval of an estimate, "95.0–98.1 %", or nothing when there is none."""
    low, high = estimate.low, estimate.high
    if not (known(low) and known(high)) or low == high:
        return ""
    upper = metric_value(estimate.metric, high)
    figure = metric_value(estimate.metric, low).replace(NARROW_SPACE, " ").partition(" ")[0]
    return f"{figure}–{WORD_JOINER}{upper}"


def intervals_note(estimates: Sequence[Estimate]) -> str:
    """What kind of intervals these have, a sentence or two."""
    exact = [metric_label(one.metric) for one in estimates if one.method == "wilson" and metric_interval(one)]
    if not exact:
        return f"Ranges are 95{NARROW_SPACE}% bootstrap intervals."
    named = " and ".join([*([", ".join(exact[:-1])] if exact[:-1] else []), exact[-1]])
    few = "it" if len(exact) == 1 else "them"
    return (
        f"Ranges are 95{NARROW_SPACE}% intervals: bootstrap, and Wilson's score interval for {named}, as all "
        f"resamples agree on {few}."
    )


def strategy_label(strategy: str) -> str:
    """What people call a transfer strategy."""
    return {"LinearProbe": "linear probe", "FineTune": "fine-tune"}.get(
        strategy, words(printable(strategy, 40))
    )


def timing_label(task: str) -> str:
    """What people call a part of the search's work."""
    known_tasks = {"decode": "decode", "features": "features", "heads": "heads", "finetune": "fine-tuning"}
    return known_tasks.get(task, words(printable(task, 40)))
