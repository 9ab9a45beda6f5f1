"""What an image looks like before any model sees it: the same numbers in training and in service."""

import numpy as np

from tunesmith_package.preprocess import Float32Array, Uint8Array

PROPERTIES = ("brightness", "contrast", "sharpness", "saturation")
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32) / 255  # Rec. 709


def input_properties(pixels: Uint8Array) -> Float32Array:
    """Measure one image at the model's size, uint8 [S, S, 3] RGB -> float32 [4], named by `PROPERTIES`.

    Brightness is the mean of the luma (Rec. 709, 0 to 1), contrast its standard deviation, sharpness the
    variance of its Laplacian (Pech-Pacheco et al. 2000), saturation the mean difference between the strongest
    and the weakest channel (0 to 1).
    """
    luma: Float32Array = np.asarray(pixels @ _LUMA, np.float32)
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1]
    laplacian += luma[1:-1, :-2]
    laplacian += luma[1:-1, 2:]
    laplacian -= 4 * luma[1:-1, 1:-1]
    # Channel by channel: numpy takes thirty times as long over an axis of three.
    red, green, blue = (np.ascontiguousarray(pixels[..., channel]) for channel in range(3))
    chroma = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    contrast = np.sqrt(_variance(luma))
    return np.array([luma.mean(), contrast, _variance(laplacian), chroma.mean() / 255], np.float32)


def _variance(values: Float32Array) -> float:
    """The variance, in a quarter of numpy's time; good to the sixth digit for values around 1."""
    flat = values.ravel()
    return max(0.0, float(flat @ flat) / flat.size - float(flat.mean()) ** 2)
