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
    luma = pixels @ _LUMA
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * luma[1:-1, 1:-1]
    chroma = pixels.max(axis=2) - pixels.min(axis=2)
    return np.array([luma.mean(), luma.std(), laplacian.var(), chroma.mean() / 255], np.float32)
