"""The trainer and the predictor say the same of every kind of image that both take.

The trainer's side is its own prepared dataset and the torch model; the predictor's is the exported package, a
process of its own and the files' bytes by HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from tests.testbed.photo_sets import Bench, PhotoSet, encode, picture
from tests.testbed.pictures import png16
from tests.testbed.predictors import Server, running_predictor
from tests.testbed.tiny_package import HEADER, write_golden
from tests.unit.test_publish_export import LABELS, classifier, preprocess

from tunesmith_package.inference import Predictor
from tunesmith_package.package import publish_package
from tunesmith_package.store import open_store
from tunesmith_trainer.prepare.dataset import Dataset
from tunesmith_trainer.publish.export import export_classifier
from tunesmith_trainer.publish.reference import write_reference

SIZE = 64
CLASS = "all kinds"
AGREEMENT = 1e-3


def kinds() -> dict[str, bytes]:
    """Files of every kind of the issue on training that are JPEG or PNG, each of another picture."""
    seeds = iter(range(1_000, 2_000))

    def fresh(width: int = 90, height: int = 70) -> Image.Image:
        image = picture(next(seeds), 128).resize((width, height))
        ImageDraw.Draw(image).line((0, 0, width, height), fill=(250, 20, 90), width=3)
        return image

    def turned(orientation: int) -> bytes:
        exif = Image.Exif()
        exif[0x0112] = orientation
        return encode(fresh(), exif=exif)

    def see_through() -> Image.Image:
        image = fresh().convert("RGBA")
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        return image

    deep = np.asarray(fresh(), np.uint16) * 257
    return {
        **{f"orientation-{number}.jpg": turned(number) for number in range(1, 9)},
        "plain.png": encode(fresh(), "PNG"),
        "progressive.jpg": encode(fresh(), progressive=True),
        "full-chroma.jpg": encode(fresh(), subsampling=0),
        "coarse.jpg": encode(fresh(), quality=12),
        "cmyk.jpg": encode(fresh().convert("CMYK")),
        "grey.jpg": encode(fresh().convert("L")),
        "grey.png": encode(fresh().convert("L"), "PNG"),
        "grey-alpha.png": encode(see_through().convert("LA"), "PNG"),
        "grey-16.png": encode(Image.fromarray(deep[..., 0]), "PNG"),
        "colour-16.png": png16(deep),
        "alpha.png": encode(see_through(), "PNG"),
        "palette.png": encode(fresh().convert("P"), "PNG"),
        "palette-alpha.png": encode(fresh().convert("P"), "PNG", transparency=7),
        "bits.png": encode(fresh().convert("1"), "PNG"),
        "wide.jpg": encode(fresh(400, 50)),
        "tall.jpg": encode(fresh(50, 400)),
        "small.png": encode(fresh(20, 20), "PNG"),
        "large.jpg": encode(fresh(1_500, 1_100)),
        "jpeg-inside.png": encode(fresh()),
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The files as the trainer prepares them."""
    folder = tmp_path_factory.mktemp("photos")
    photos = PhotoSet(folder / "set").photos("other", 30)
    for name, data in kinds().items():
        photos.add(f"{CLASS}/{name}", data)
    prepared = Bench(folder / "work", image_size=SIZE).prepare(photos.root)
    return replace(prepared, preprocess=preprocess(SIZE))


@pytest.fixture(scope="module")
def expected(dataset: Dataset) -> dict[str, np.ndarray[Any, Any]]:
    """What the torch model says of them, by file name."""
    rows = np.arange(len(dataset))
    tensor = dataset.preprocess.normalise(dataset.pixels.read(rows))
    with torch.inference_mode():
        logits = classifier("mobilenet_v2", SIZE).eval()(torch.from_numpy(tensor))[0]
    probabilities = torch.softmax(logits, dim=1).numpy()
    names = [Path(path).name for path in dataset.paths.to_pylist()]
    return dict(zip(names, probabilities, strict=True))


@pytest.fixture(scope="module")
def exported(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The model's package, served."""
    folder = tmp_path_factory.mktemp("exported")
    directory = folder / "built"
    directory.mkdir()
    rows = np.arange(len(dataset))
    images = dataset.pixels.read(rows)
    export_classifier(classifier("mobilenet_v2", SIZE), dataset.preprocess, LABELS, images[:4], directory)
    predictor = Predictor(directory)
    outputs = predictor.run(dataset.preprocess.normalise(images))
    write_golden(directory)
    properties = np.zeros((0, 4), np.float32)
    write_reference(directory, outputs.logits, outputs.embedding, properties)
    package = publish_package(directory, open_store((folder / "store").as_uri()), "kinds", HEADER)
    with running_predictor(Path(package.uri.removeprefix("file://")), folder / "log") as server:
        yield server


@pytest.mark.parametrize("name", kinds())
def test_predictor_says_of_every_kind_of_image_what_the_trainer_says(
    name: str, expected: dict[str, np.ndarray[Any, Any]], exported: Server
) -> None:
    reply = exported.predict(kinds()[name], kind="application/octet-stream")
    assert reply.status == 200, reply.body
    [prediction] = reply.json["predictions"]
    said = {one["label"]: one["probability"] for one in prediction["classes"]}
    assert [said[label] for label in LABELS] == pytest.approx(expected[name].tolist(), abs=AGREEMENT)


def test_the_kinds_differ_enough_for_agreement_to_mean_something(
    expected: dict[str, np.ndarray[Any, Any]],
) -> None:
    said = np.stack([expected[name] for name in kinds()])
    assert np.ptp(said, axis=0).max() > 0.2
