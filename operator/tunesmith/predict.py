"""``tunesmith predict``: classes and probabilities of images, by ONNX Runtime and without torch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunesmith.files import place
from tunesmith.model_reference import model_reference
from tunesmith.wording import file_name
from tunesmith_package.inference import Predictor
from tunesmith_package.package import open_package
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


def predict_images(
    uri: str,
    images: Sequence[Path],
    console: Console,
    *,
    top: int = 3,
    explain: Path | None = None,
    digest: str | None = None,
    as_json: bool = False,
) -> None:
    """Print the most probable classes of images.

    Args:
        uri: a package, or its folder on this machine.
        images: JPEG or PNG files.
        console: where the answer goes.
        top: how many classes for each image.
        explain: a folder for overlays that show what spoke for the first class.
        digest: refuse a package with another one.
        as_json: one JSON object for each image instead of a table.

    Raises:
        PackageError: there is no such package, or it is damaged.
        ImageInvalid: an image cannot be used; the message names it.
    """
    model = model_reference(uri, digest)
    package = open_package(model.uri, digest=model.digest)
    predictor = Predictor(package.directory)
    predictions = [_predicted(predictor, image, top, explain) for image in images]
    if as_json:
        for prediction in predictions:
            console.out(json.dumps(_document(prediction), ensure_ascii=False), highlight=False)
        return
    if not package.manifest.header.verified:
        console.print(Text("This model did not pass its gates: study it, do not rely on it.", "bold red"))
    console.print(_table(predictions))


def _predicted(predictor: Predictor, path: Path, top: int, explain: Path | None) -> Prediction:
    try:
        data = path.read_bytes()
        probabilities = predictor.probabilities([data])[0]
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}."
        raise ImageInvalid("unreadable", message, "Check the path.") from error
    except ImageInvalid as error:
        raise ImageInvalid(error.kind, f"{path}: {error.message}", error.next_step) from error
    order = np.argsort(-probabilities, kind="stable")[:top]
    classes = tuple((predictor.labels[index], float(probabilities[index])) for index in order)
    overlay = None
    if explain is not None:
        overlay = explain / f"{path.stem}.{file_name(classes[0][0])}.png"
        drawing = predictor.overlay_png(data, int(order[0]))
        place(overlay, lambda temporary: temporary.write_bytes(drawing))
    return Prediction(path, classes, overlay)


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
