"""``tunesmith predict``: classes and probabilities of images, from a package or from a running predictor."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Protocol

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunesmith.endpoint import SCHEMES, Answer, Endpoint
from tunesmith.files import place
from tunesmith.model_reference import model_reference
from tunesmith.wording import file_name
from tunesmith_package.inference import Predictor
from tunesmith_package.package import ModelPackage, open_package
from tunesmith_package.preprocess import ImageInvalid

SURE = 0.8


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image.

    Attributes:
        image: its path.
        classes: pairs of label and calibrated probability, the most probable first.
        explanation: the overlay that was written, or None.
    """

    image: Path
    classes: tuple[tuple[str, float], ...]
    explanation: Path | None = None


class Model(Protocol):
    """What can be asked for the classes of an image."""

    verified: bool

    def answer(self, image: bytes, *, top: int, explain: bool) -> Answer:
        """The most probable classes of an encoded image."""
        ...


class PackageModel:
    """A package, by ONNX Runtime in this process."""

    def __init__(self, package: ModelPackage) -> None:
        """Load its model."""
        self.verified = package.manifest.header.verified
        self._predictor = Predictor(package.directory)

    def answer(self, image: bytes, *, top: int, explain: bool) -> Answer:
        """The most probable classes of an encoded image.

        Raises:
            ImageInvalid: it cannot be used.
        """
        predictor = self._predictor
        probabilities = predictor.probabilities([image])[0]
        order = np.argsort(-probabilities, kind="stable")[:top]
        classes = tuple((predictor.labels[index], float(probabilities[index])) for index in order)
        return Answer(classes, predictor.overlay_png(image, int(order[0])) if explain else None)


def open_model(uri: str, digest: str | None = None, wait_seconds: float = 0.0) -> Model:
    """A package, its folder on this machine, or a running predictor by its address.

    Args:
        uri: which.
        digest: refuse a package with another one.
        wait_seconds: how long a predictor may take to be there and ready.

    Raises:
        PackageError: there is no such package, or it is damaged.
        TunesmithError: the predictor does not answer.
    """
    if uri.startswith(SCHEMES):
        return Endpoint(uri, digest=digest, wait_seconds=wait_seconds)
    model = model_reference(uri, digest)
    return PackageModel(open_package(model.uri, digest=model.digest))


def predict_images(
    model: Model,
    images: Sequence[Path],
    console: Console,
    *,
    top: int = 3,
    explain: Path | None = None,
    as_json: bool = False,
) -> None:
    """Print the most probable classes of images; those that cannot be used do not keep the others back.

    Args:
        model: that is asked.
        images: JPEG or PNG files.
        console: where the answer goes.
        top: how many classes for each image.
        explain: a folder for overlays that show what spoke for the first class.
        as_json: one JSON object for each image instead of a table.

    Raises:
        TunesmithError: the predictor does not answer.
        ImageInvalid: after the others were printed; the message names every image that cannot be used.
    """
    overlays = [explain / name if explain else None for name in overlay_names(images)]
    predictions: list[Prediction] = []
    unusable: list[ImageInvalid] = []
    for image, overlay in zip(images, overlays, strict=True):
        try:
            predictions.append(_predicted(model, image, top, overlay))
        except ImageInvalid as error:
            unusable.append(error)
    if as_json:
        for prediction in predictions:
            console.out(json.dumps(_document(prediction), ensure_ascii=False), highlight=False)
    elif predictions:
        if not model.verified:
            console.print(Text("This model did not pass its gates: study it, do not rely on it.", "bold red"))
        console.print(_table(predictions))
    if unusable:
        raise _together(unusable, len(images))


def overlay_names(images: Sequence[Path]) -> list[str]:
    """What the overlay of each image is called before its class, each name once whatever the letters' case.

    The image's own name where no other has it, else with the folder it lies in, else with a number.
    """
    own = Counter(image.stem.casefold() for image in images)
    taken: set[str] = set()
    names = []
    for image in images:
        inside = f"{image.absolute().parent.name}-{image.stem}"
        plain = [image.stem] if own[image.stem.casefold()] == 1 else []
        candidates = chain([*plain, inside], (f"{inside}-{number}" for number in count(2)))
        name = next(name for name in candidates if name.casefold() not in taken)
        taken.add(name.casefold())
        names.append(name)
    return names


def _together(errors: Sequence[ImageInvalid], images: int) -> ImageInvalid:
    """The one error, or one that says all of them."""
    if len(errors) == 1:
        return errors[0]
    said = " ".join(error.message for error in errors)
    advice = " ".join(dict.fromkeys(error.next_step for error in errors))
    return ImageInvalid(
        errors[0].kind, f"{len(errors)} of {images} images cannot be predicted. {said}", advice
    )


def _predicted(model: Model, path: Path, top: int, explanation: Path | None) -> Prediction:
    try:
        answer = model.answer(path.read_bytes(), top=top, explain=explanation is not None)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}."
        raise ImageInvalid("unreadable", message, "Check the path.") from error
    except ImageInvalid as error:
        raise ImageInvalid(error.kind, f"{path}: {error.message}", error.next_step) from error
    overlay = None
    if explanation is not None and answer.overlay is not None:
        drawing = answer.overlay
        overlay = explanation.with_name(f"{explanation.name}.{file_name(answer.classes[0][0])}.png")
        place(overlay, lambda temporary: temporary.write_bytes(drawing))
    return Prediction(path, answer.classes, overlay)


def _document(prediction: Prediction) -> dict[str, object]:
    document: dict[str, object] = {
        "image": str(prediction.image),
        "predictions": [
            {"label": label, "probability": probability} for label, probability in prediction.classes
        ],
    }
    if prediction.explanation is not None:
        document["explanation"] = str(prediction.explanation)
    return document


def _table(predictions: Sequence[Prediction]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("image")
    table.add_column("class")
    table.add_column("probability", justify="right")
    table.add_column("or", style="dim")
    explained = any(prediction.explanation for prediction in predictions)
    if explained:
        table.add_column("explanation")
    for prediction in predictions:
        (label, probability), *others = prediction.classes
        style = "green" if probability >= SURE else "yellow"
        row = [Text(str(prediction.image)), Text(label, "bold"), Text(f"{probability:.1%}", style)]
        row.append(Text(", ".join(f"{name} {value:.1%}" for name, value in others)))
        if explained:
            row.append(Text(str(prediction.explanation)))
        table.add_row(*row)
    return table
