"""Numbers and names as people read them."""

from collections.abc import Sequence
from difflib import get_close_matches

SHORT_METRICS = {
    "negativeLogLikelihood": "NLL",
    "calibrationError": "cal. error",
    "latencyP95Milliseconds": "p95 ms",
    "modelSizeMegabytes": "MB",
}


def short_metric(name: str) -> str:
    """A metric's name for a narrow column."""
    return SHORT_METRICS.get(name, name)


def duration(seconds: float) -> str:
    """A time span: ``0.4 s``, ``12 s``, ``3:05`` or ``1:02:03``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def rate(per_second: float, unit: str) -> str:
    """A speed, per minute where a second sees less than one: ``240 images/s``, ``12 epochs/min``."""
    if per_second >= 10:
        return f"{per_second:.0f} {unit}/s"
    if per_second >= 1:
        return f"{per_second:.1f} {unit}/s"
    return f"{per_second * 60:.1f} {unit}/min"


def metric(value: float | None) -> str:
    """A metric with four significant places, or a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"


def size(count: float) -> str:
    """Bytes as kB or MB (powers of ten)."""
    if count >= 1e6:
        return f"{count / 1e6:.1f} MB"
    return f"{count / 1e3:.1f} kB"


def parameters(values: object) -> str:
    """Hyper-parameters in one line, floats shortened."""
    if not isinstance(values, dict):
        return ""
    return "  ".join(f"{name}={_short(value)}" for name, value in values.items())


def suggestion(word: str, known: Sequence[str]) -> str:
    """What to write instead of an unknown word: those like it, or all there are."""
    close = get_close_matches(word, known, n=5, cutoff=0.5)
    return f"Did you mean {', '.join(close)}?" if close else f"Take one of: {', '.join(known)}."


def file_name(label: str) -> str:
    """A label as a part of a file's name: ``T-shirt/top`` becomes ``t-shirt-top``."""
    return "-".join("".join(sign if sign.isalnum() else " " for sign in label.lower()).split()) or "class"


def _short(value: object) -> str:
    try:
        return f"{float(str(value)):.3g}"
    except ValueError:
        return str(value)
