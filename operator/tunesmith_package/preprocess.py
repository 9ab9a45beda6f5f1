"""From encoded bytes to the square RGB pixels and the normalised tensor that every model here takes.

Trainer and predictor call the same two functions, so they cannot differ. All steps are integer
arithmetic inside one pinned Pillow, hence equal on all machines. ICC profiles are ignored, as
torchvision's training recipes do.
"""

import json
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops
from PIL.ImageFile import ImageFile

from tunesmith_api.reasons import Reason, TunesmithError
from tunesmith_package import image_formats
from tunesmith_package.image_formats import FORMATS, JPEG, TIFF, ImageFormat
from tunesmith_package.jpeg_damage import find_damage

ImageFault: TypeAlias = Literal["zero-byte", "not-an-image", "truncated", "unreadable", "pixel-bomb"]
Uint8Array: TypeAlias = npt.NDArray[np.uint8]
Float32Array: TypeAlias = npt.NDArray[np.float32]

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_RESIZES = ("CenterCrop", "Squash")
_ORIENTATION_TAG = 0x0112
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# libjpeg's inverse DCT can produce 1/2, 1/4 or 1/8 of the size directly. It is used only while the result
# is still at least twice as large as wanted: the filter that follows then changes pixels by at most 3 of
# 255 (0.2 on average) against the full decode, for a third of the time on a 12 megapixel photo.
_DRAFT_RESERVE = 2


class ImageInvalid(TunesmithError):
    """Bytes that are no image that can be used.

    Attributes:
        kind: ``zero-byte``, ``not-an-image``, ``truncated``, ``unreadable`` or ``pixel-bomb``.
    """

    reason = Reason.IMAGE_INVALID

    def __init__(self, kind: ImageFault, message: str, next_step: str) -> None:
        """Keep the kind beside the two sentences."""
        super().__init__(message, next_step)
        self.kind = kind

    def __reduce__(self) -> tuple[type[Self], tuple[ImageFault, str, str]]:
        """Cross process borders whole: images are decoded in worker processes."""
        return type(self), (self.kind, self.message, self.next_step)


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes a model's input; stored as ``preprocess.json`` in every package.

    Attributes:
        image_size: side of the square input in pixels.
        resize: ``CenterCrop`` scales the short side to ``image_size`` and keeps the centre square;
            ``Squash`` scales both sides, without regard to the aspect ratio.
        mean: per channel mean of the pixels divided by 255, in RGB order.
        std: per channel standard deviation of the same.
        max_pixels: images with more pixels than this are refused from their header.
        interpolation: ``bilinear`` or ``bicubic``, both antialiased.

    Raises:
        ValueError: a value outside these bounds.
    """

    image_size: int
    resize: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    max_pixels: int = 50_000_000
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        """Refuse what no image could be prepared with."""
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if not 1 <= self.image_size <= 4096:
            raise ValueError(f"image size {self.image_size} is not within 1 to 4096")
        if self.resize not in _RESIZES:
            raise ValueError(f"resize {self.resize!r} is none of {', '.join(_RESIZES)}")
        if self.interpolation not in _FILTERS:
            raise ValueError(f"interpolation {self.interpolation!r} is none of {', '.join(_FILTERS)}")
        if self.max_pixels < 1:
            raise ValueError(f"max pixels {self.max_pixels} is below 1")
        if len(self.mean) != 3 or len(self.std) != 3 or not np.isfinite([*self.mean, *self.std]).all():
            raise ValueError("mean and standard deviation must be three finite numbers each")
        if min(self.std) <= 0:
            raise ValueError(f"standard deviation {self.std} is not positive")

    def to_json(self) -> str:
        """Return the text of ``preprocess.json``: sorted keys, no spaces, the same on every machine."""
        fields = {
            "imageSize": self.image_size,
            "resize": self.resize,
            "mean": self.mean,
            "std": self.std,
            "maxPixels": self.max_pixels,
            "interpolation": self.interpolation,
        }
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read the text of ``preprocess.json``.

        Raises:
            ValueError: not JSON, a missing or unknown field, or a value out of bounds.
        """
        fields = json.loads(text)
        known = {"imageSize", "resize", "mean", "std", "maxPixels", "interpolation"}
        if not isinstance(fields, dict) or set(fields) != known:
            raise ValueError(f"preprocess.json must hold exactly {', '.join(sorted(known))}")
        try:
            return cls(
                image_size=int(fields["imageSize"]),
                resize=str(fields["resize"]),
                mean=tuple(fields["mean"]),
                std=tuple(fields["std"]),
                max_pixels=int(fields["maxPixels"]),
                interpolation=str(fields["interpolation"]),
            )
        except TypeError as error:
            raise ValueError(f"preprocess.json holds a value of the wrong type: {error}") from error

    def normalise(self, pixels: Uint8Array) -> Float32Array:
        """Turn pixels uint8 [n, S, S, 3] (0 to 255) into the model's input, float32 [n, 3, S, S].

        ``(pixels / 255 - mean) / std``, computed as one multiplication and one addition per value.
        """
        std = np.asarray(self.std, dtype=np.float64)
        scale = (1.0 / (255.0 * std)).astype(np.float32).reshape(1, 3, 1, 1)
        shift = (-np.asarray(self.mean, dtype=np.float64) / std).astype(np.float32).reshape(1, 3, 1, 1)
        tensor = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32)
        tensor *= scale
        tensor += shift
        return tensor


@dataclass(frozen=True)
class Decoded:
    """One decoded image.

    Attributes:
        pixels: uint8 [S, S, 3], RGB, S = ``Preprocess.image_size``.
        width: width of the upright source in pixels.
        height: height of the upright source in pixels.
        format: Pillow's name of the encoding, for example ``"JPEG"``.
        observations: what was converted on the way, sorted: ``16-bit``, ``alpha``, ``animated``,
            ``cmyk``, ``exif-orientation``, ``format-mismatch``, ``grey``, ``palette``.
    """

    pixels: Uint8Array
    width: int
    height: int
    format: str
    observations: tuple[str, ...]


def decode(
    data: bytes,
    preprocess: Preprocess,
    *,
    name: str = "",
    formats: tuple[ImageFormat, ...] = FORMATS,
) -> Decoded:
    """Decode one image upright, in RGB, cropped and scaled.

    EXIF orientation is applied; transparency lies on white; 16 bit samples keep their high byte; CMYK is
    converted without a profile, Adobe's inverted kind included; of an animation the first frame is taken.
    A JPEG that libjpeg decodes although a part of it is visibly missing is refused as truncated.
    Safe to call from many threads: Pillow releases the interpreter while it decodes and scales.

    Args:
        data: the encoded image.
        preprocess: target size and limits.
        name: file name, for messages and for the ``format-mismatch`` observation.
        formats: the formats to accept; predictors pass ``image_formats.SERVING_FORMATS``.

    Raises:
        ImageInvalid: for every kind of unusable bytes, and nothing else.
    """
    found = _recognise(data, formats, name)
    try:
        if (pixels := image_formats.early_pixels(data, found)) > preprocess.max_pixels:
            raise _bomb(pixels, preprocess, name)
        image = image_formats.open_lazily(data, found)
        if (pixels := image_formats.work_pixels(image, data, found)) > preprocess.max_pixels:
            raise _bomb(pixels, preprocess, name)
        return _decode_opened(image, data, found, preprocess, name)
    except ImageInvalid:
        raise
    except Image.DecompressionBombError as error:
        raise _bomb(0, preprocess, name) from error
    except Exception as error:  # hostile bytes make Pillow raise a dozen unrelated types; the cause is kept
        raise _broken(error, data, found, name) from error


def _recognise(data: bytes, formats: tuple[ImageFormat, ...], name: str) -> ImageFormat:
    accepted = ", ".join(each.name for each in formats)
    if not data:
        raise ImageInvalid("zero-byte", f"{_subject(name)} is empty.", "Remove it or copy it again.")
    found = image_formats.sniff(data)
    if found is None:
        message = f"{_subject(name)} is not an image: its first bytes are {data[:8].hex(' ')}."
        raise ImageInvalid("not-an-image", message, f"Use one of {accepted}.")
    if found not in formats:
        message = f"{_subject(name)} is a {found.name} image, which is not accepted here."
        raise ImageInvalid("not-an-image", message, f"Convert it to one of {accepted}.")
    return found


def _decode_opened(
    image: ImageFile, data: bytes, found: ImageFormat, preprocess: Preprocess, name: str
) -> Decoded:
    observations = set()
    if image_formats.denies(name, found):
        observations.add("format-mismatch")
    if image_formats.is_animated(image):
        observations.add("animated")
    deep = image_formats.has_16_bits(image, data)
    if deep:
        observations.add("16-bit")
    width, height = image.size
    # Pillow turns TIFF pages upright while loading and forgets the tag, so it is read before and not used.
    turned = found is TIFF and _orientation(image) != 1

    box = _load(image, found, preprocess)
    if image.width * image.height > preprocess.max_pixels:
        raise _bomb(image.width * image.height, preprocess, name)
    if found is JPEG and (damage := find_damage(data, image)):
        raise _damaged("truncated", damage, found, name)
    orientation = 1 if found is TIFF else _orientation(image)
    if turned or orientation != 1:
        observations.add("exif-orientation")
    if orientation >= 5:
        width, height = height, width

    flat, seen = _flatten(image, found, deep)
    observations.update(seen)
    square = _scale(flat, box if found is JPEG else (0.0, 0.0, *flat.size), preprocess)
    if orientation in _TRANSPOSITIONS:
        square = square.transpose(_TRANSPOSITIONS[orientation])
    return Decoded(_on_white(square), width, height, found.name, tuple(sorted(observations)))


def _load(image: ImageFile, found: ImageFormat, preprocess: Preprocess) -> tuple[float, float, float, float]:
    """Decode the pixels; return the part of the loaded image that the source covers."""
    box = (0.0, 0.0, float(image.width), float(image.height))
    if found is JPEG:
        wanted = _DRAFT_RESERVE * preprocess.image_size
        drafted = image.draft(None, (wanted, wanted))
        if drafted is not None:
            box = drafted[1]
    image.load()
    return box


def _orientation(image: ImageFile) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged metadata must not cost an image whose pixels are fine
        return 1
    return value if isinstance(value, int) and value in _TRANSPOSITIONS else 1


def _flatten(image: Image.Image, found: ImageFormat, deep: bool) -> tuple[Image.Image, set[str]]:
    """Return the image as L, RGB or RGBa (alpha multiplied in), and what was seen on the way."""
    seen = set()
    if image.mode.startswith("I"):
        keyed = {"alpha"} if isinstance(image.info.get("transparency"), int) else set()
        return _high_byte(image), {"16-bit", "grey", *keyed}
    if image.mode == "CMYK":
        # Pillow assumes Adobe's inverted CMYK in every JPEG; without Adobe's marker 0 means no ink.
        plain = found is JPEG and "adobe" not in image.info
        return (ImageChops.invert(image) if plain else image).convert("RGB"), {"cmyk"}
    if image.mode in ("P", "PA"):
        seen.add("palette")
    if image.mode in ("L", "LA", "La", "1"):
        seen.add("grey")
    if deep:
        # a colour key of 16 bits no longer means anything to samples cut to 8
        image.info.pop("transparency", None)
    if image.has_transparency_data:
        seen.add("alpha")
        return (image if image.mode == "RGBa" else image.convert("RGBA").convert("RGBa")), seen
    if image.mode in ("L", "1"):
        return image.convert("L"), seen
    if image.mode in ("RGB", "P", "RGBX", "YCbCr"):
        return image.convert("RGB"), seen
    raise ValueError(f"pixels of type {image.mode} have no defined colour")


def _high_byte(image: Image.Image) -> Image.Image:
    """Scale 16 bit grey to 8 bits the way Pillow reads 16 bit RGB, so that both look the same."""
    samples = np.asarray(image)
    if samples.dtype.itemsize > 2 and (samples.min() < 0 or samples.max() > 0xFFFF):
        raise ValueError("32 bit samples have no defined white point")
    key = image.info.get("transparency")
    grey = (samples >> 8).astype(np.uint8)
    if isinstance(key, int):
        grey = np.where(samples == key, np.uint8(255), grey)
    return Image.fromarray(grey)


def _scale(image: Image.Image, box: tuple[float, float, float, float], preprocess: Preprocess) -> Image.Image:
    """Cut and scale in one pass: only pixels that can be seen in the result are ever filtered."""
    left, top, right, bottom = box
    if preprocess.resize == "CenterCrop":
        width, height = right - left, bottom - top
        side = min(width, height)
        left, top = left + (width - side) / 2, top + (height - side) / 2
        right, bottom = left + side, top + side
    size = (preprocess.image_size, preprocess.image_size)
    return image.resize(size, _FILTERS[preprocess.interpolation], box=(left, top, right, bottom))


def _on_white(square: Image.Image) -> Uint8Array:
    if square.mode == "RGBa":
        samples = np.asarray(square).astype(np.uint16)
        flat: Uint8Array = np.minimum(samples[..., :3] + (255 - samples[..., 3:]), 255).astype(np.uint8)
        return flat
    return np.array(square.convert("RGB"), dtype=np.uint8)


def _subject(name: str) -> str:
    return name or "The image"


def _bomb(pixels: int, preprocess: Preprocess, name: str) -> ImageInvalid:
    amount = f"{pixels:,} pixels" if 0 < pixels < 1 << 62 else "far more work than its size"
    return ImageInvalid(
        "pixel-bomb",
        f"{_subject(name)} asks for {amount}; the limit is {preprocess.max_pixels:,}.",
        "Scale it down, or raise maxPixels if you trust its origin.",
    )


def _broken(error: Exception, data: bytes, found: ImageFormat, name: str) -> ImageInvalid:
    cut = "truncated" in str(error) or image_formats.looks_truncated(data, found)
    detail = str(error)[:200] or type(error).__name__
    return _damaged("truncated" if cut else "unreadable", detail, found, name)


def _damaged(kind: ImageFault, detail: str, found: ImageFormat, name: str) -> ImageInvalid:
    state = "is incomplete" if kind == "truncated" else "cannot be decoded"
    message = f"{_subject(name)} is a {found.name} image that {state} ({detail})."
    return ImageInvalid(kind, message, "Copy it again from its origin, or remove it.")
