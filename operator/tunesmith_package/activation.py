"""Where in an image a class's evidence lies, and how to draw it.

For models whose head is linear in an averaged feature map this is the class activation map of Zhou et al.,
"Learning Deep Features for Discriminative Localization" (2016), https://arxiv.org/abs/1512.04150. For the
others it is the occlusion sensitivity of Zeiler and Fergus, "Visualizing and Understanding Convolutional
Networks" (2014), https://arxiv.org/abs/1311.2901.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image

from tunesmith_package.preprocess import Float32Array, Uint8Array

Method: TypeAlias = Literal["cam", "occlusion"]

OCCLUSION_GRID = 7
_OCCLUSION_BATCH = 16  # bounds memory at large image sizes

# 17 points of matplotlib's perceptually uniform "inferno", dark to light; straight lines between them are
# at most 7 of 255 away from it.
_INFERNO = np.array(
    [
        (0, 0, 4), (11, 7, 36), (33, 12, 74), (61, 9, 101), (87, 16, 110), (113, 25, 110), (138, 34, 106),
        (163, 44, 97), (188, 55, 84), (210, 70, 68), (228, 90, 49), (241, 115, 29), (249, 142, 9),
        (252, 172, 17), (249, 203, 53), (242, 234, 105), (252, 255, 164),
    ],
    dtype=np.float32,
)  # fmt: skip
_STEPS = 1024
"""Shades that a map is drawn in; more than a picture's 256 can tell apart."""
_COLOURS = np.stack(
    [
        np.interp(np.linspace(0.0, 1.0, _STEPS), np.linspace(0.0, 1.0, len(_INFERNO)), _INFERNO[:, channel])
        for channel in range(3)
    ],
    axis=-1,
).astype(np.float32)


@dataclass(frozen=True)
class ActivationMap:
    """How much each part of the square that the model saw speaks for one class.

    Attributes:
        values: float32 [h, w], rows from the top; the higher, the more evidence. With ``cam`` their mean
            plus the head's bias is the class's logit; with ``occlusion`` each is the fall of the class's
            log odds when that cell is hidden.
        method: how they were found.
        class_index: the class that they speak for.
    """

    values: Float32Array
    method: Method
    class_index: int


def class_activation(feature_map: Float32Array, head_weight: Float32Array, class_index: int) -> ActivationMap:
    """Return the class activation map of one image.

    Args:
        feature_map: float32 [D, h, w].
        head_weight: float32 [K, D].
        class_index: row of the head.
    """
    values = np.tensordot(head_weight[class_index], feature_map, axes=([0], [0]))
    return ActivationMap(np.asarray(values, dtype=np.float32), "cam", class_index)


def occlusion(
    tensor: Float32Array, class_index: int, logits_of: Callable[[Float32Array], Float32Array]
) -> ActivationMap:
    """Hide each cell of a 7 x 7 grid in turn behind the mean colour and see what the class loses.

    Args:
        tensor: float32 [1, 3, S, S], normalised, so that 0 is the mean colour.
        class_index: the class to explain.
        logits_of: the model, float32 [n, 3, S, S] -> [n, K].
    """
    side = tensor.shape[-1]
    grid = min(OCCLUSION_GRID, side)
    edges = np.linspace(0, side, grid + 1).round().astype(int)
    cells = [(row, column) for row in range(grid) for column in range(grid)]
    whole = _log_odds(logits_of(tensor), class_index)[0]
    values = np.empty(len(cells), dtype=np.float32)
    for start in range(0, len(cells), _OCCLUSION_BATCH):
        batch = cells[start : start + _OCCLUSION_BATCH]
        hidden = np.repeat(tensor, len(batch), axis=0)
        for image, (row, column) in zip(hidden, batch, strict=True):
            image[:, edges[row] : edges[row + 1], edges[column] : edges[column + 1]] = 0.0
        values[start : start + len(batch)] = whole - _log_odds(logits_of(hidden), class_index)
    return ActivationMap(values.reshape(grid, grid), "occlusion", class_index)


def overlay_png(pixels: Uint8Array, activation: ActivationMap, *, opacity: float = 0.7) -> bytes:
    """Draw an activation map over the square that the model saw; return a PNG.

    The least evidence leaves the picture as it is, the most is covered by ``opacity`` of the brightest
    colour; a map without differences leaves the picture unchanged.

    Args:
        pixels: uint8 [S, S, 3], as `decode` returns them.
        activation: the map, of any resolution.
        opacity: 0 to 1.
    """
    height, width = pixels.shape[:2]
    values = np.asarray(activation.values, dtype=np.float32)
    span = float(values.max() - values.min())
    scaled = (values - values.min()) / span if span > 0 else np.zeros_like(values)
    smooth = Image.fromarray(scaled).resize((width, height), Image.Resampling.BICUBIC)
    step = (np.clip(np.asarray(smooth), 0.0, 1.0) * (_STEPS - 1) + 0.5).astype(np.int32)
    cover = opacity * np.linspace(0.0, 1.0, _STEPS, dtype=np.float32)[:, np.newaxis]
    mixed = pixels * (1.0 - cover)[step] + (_COLOURS * cover)[step]
    png = io.BytesIO()
    # A third of the time of Pillow's usual level 6, for 6 % more bytes.
    Image.fromarray((mixed + 0.5).astype(np.uint8)).save(png, "PNG", compress_level=1)
    return png.getvalue()


def _log_odds(logits: Float32Array, class_index: int) -> Float32Array:
    """Return log p / (1 - p) of a class, [n]; unlike p itself it does not saturate."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    others = np.delete(logits, class_index, axis=1)
    highest = others.max(axis=1)
    rest = highest + np.log(np.exp(others - highest[:, np.newaxis]).sum(axis=1))
    odds: Float32Array = (logits[:, class_index] - rest).astype(np.float32)
    return odds
