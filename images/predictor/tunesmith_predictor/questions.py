"""What a request asks, whatever protocol it came by; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tunesmith_package.preprocess import Float32Array, Preprocess
from tunesmith_predictor.refusals import BadRequest, TooLarge

MOST_IMAGES = 64
"""Images in one request at most: it is answered as a whole, and must not starve the others."""


@dataclass(frozen=True)
class Options:
    """What to say of each image.

    Attributes:
        top: the most probable classes only, best first; all when None.
        explain: add an activation map.
        class_name: the class to explain; the most probable one when None.
    """

    top: int | None = None
    explain: bool = False
    class_name: str | None = None


@dataclass(frozen=True)
class Request:
    """Images, each an encoding or a normalised tensor float32 [3, S, S], and what to say of them."""

    images: Sequence[bytes | Float32Array]
    options: Options


def options(raw: dict[str, object], labels: Sequence[str], *, explain: bool = False) -> Options:
    """Read options from a query string or a JSON object: ``top``, ``explain`` and ``class``.

    Raises:
        BadRequest: an unknown name, or a value that none can have.
    """
    unknown = sorted(set(raw) - {"top", "explain", "class"})
    if unknown:
        raise BadRequest(f"There is no option {unknown[0][:60]!r}; there are top, explain and class.")
    top, name = raw.get("top"), raw.get("class")
    if name is not None and name not in labels:
        raise BadRequest(f"There is no class {str(name)[:60]!r}; {_some(labels)}.")
    return Options(
        None if top is None else _whole(top, len(labels)),
        explain or _truth(raw.get("explain", False)),
        None if name is None else str(name),
    )


def tensors(values: npt.NDArray[np.generic], preprocess: Preprocess) -> list[Float32Array]:
    """Split ready input into one tensor for each image.

    Args:
        values: float [n, 3, S, S], already normalised, or uint8 [n, S, S, 3], RGB.
        preprocess: of the model.

    Raises:
        BadRequest: another shape or type, or values that are not finite.
    """
    side = preprocess.image_size
    if values.dtype == np.uint8:
        if values.ndim != 4 or values.shape[1:] != (side, side, 3):
            raise BadRequest(f"UINT8 pixels must be [n, {side}, {side}, 3], not {_shape(values)}.")
        few(len(values))
        return list(preprocess.normalise(np.asarray(values, np.uint8)))
    if values.ndim != 4 or values.shape[1:] != (3, side, side):
        raise BadRequest(f"A tensor must be [n, 3, {side}, {side}], not {_shape(values)}.")
    few(len(values))
    ready = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(ready).all():
        raise BadRequest("The tensor holds values that are not finite (NaN or infinite).")
    return list(ready)


def few(images: int) -> None:
    """Refuse requests of no image and of too many.

    Raises:
        BadRequest: there is none.
        TooLarge: there are more than `MOST_IMAGES`.
    """
    if images == 0:
        raise BadRequest("The request holds no image.")
    if images > MOST_IMAGES:
        raise TooLarge(f"The request holds {images} images; send at most {MOST_IMAGES} at once.")


def _whole(value: object, most: int) -> int:
    try:
        number = int(value) if isinstance(value, int | str) and not isinstance(value, bool) else 0
    except ValueError:
        number = 0
    if number < 1:
        raise BadRequest(f"top must be a whole number from 1 to {most}, not {str(value)[:60]!r}.")
    return min(number, most)


def _truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    known = {"true": True, "1": True, "": True, "false": False, "0": False}
    if str(value).lower() not in known:
        raise BadRequest(f"explain must be true or false, not {str(value)[:60]!r}.")
    return known[str(value).lower()]


def _some(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:10])
    return f"the classes are {shown}" + (f" and {len(labels) - 10} more" if len(labels) > 10 else "")


def _shape(values: npt.NDArray[np.generic]) -> str:
    return f"{values.dtype} {list(values.shape)}"
