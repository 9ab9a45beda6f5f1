"""Fetching weights and data: what is there is kept, what is wrong is refused, half a file never appears."""

import hashlib
from pathlib import Path

import pytest
import torch
from torchvision import datasets

from tunesmith.fetch import data, weights
from tunesmith.files import holds, place
from tunesmith_api.reasons import DatasetInvalid, SpecInvalid, WeightsMissing


def test_place_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def broken(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        place(path, broken)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_holds_only_the_very_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    digest = hashlib.sha256(b"content").hexdigest()
    assert not holds(path, digest)
    path.write_bytes(b"content")
    assert holds(path, digest)
    path.write_bytes(b"Content")
    assert not holds(path, digest)


def test_rename_in_order_gives_each_tensor_the_name_in_its_place() -> None:
    old = {"a": torch.zeros(2), "b": torch.ones(3)}
    target = {"features.0": torch.empty(2), "features.1": torch.empty(3)}
    renamed = weights.rename_in_order(old, target)
    assert list(renamed) == ["features.0", "features.1"]
    assert renamed["features.1"] is old["b"]


@pytest.mark.parametrize(
    ("old", "words"),
    [
        pytest.param({"a": torch.zeros(2)}, "1 tensors", id="a tensor too few"),
        pytest.param({"a": torch.zeros(3), "b": torch.zeros(2)}, "shape", id="tensors in another order"),
    ],
)
def test_rename_in_order_refuses_another_network(old: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(WeightsMissing, match=words):
        weights.rename_in_order(old, {"features.0": torch.empty(2), "features.1": torch.empty(3)})


def test_weights_that_are_there_are_not_fetched_again(tmp_path: Path) -> None:
    source = f"sha256:{weights.MOBILENET_V2.member_sha256}"
    path = tmp_path / "mobilenet_v2.safetensors"
    weights.save({"x": torch.zeros(1)}, path, source)
    before = path.stat().st_mtime_ns
    said: list[str] = []
    cache = tmp_path / "cache"
    assert weights.fetch_weights("mobilenet_v2", tmp_path, cache=cache, say=said.append) == path
    assert path.stat().st_mtime_ns == before
    assert not cache.exists()
    assert "already" in said[0]


@pytest.mark.parametrize(
    ("backbone", "name", "words"),
    [
        pytest.param("resnet5", None, "resnet50", id="a misspelt backbone is suggested"),
        pytest.param("resnet50", "IMAGENET", "IMAGENET1K_V2", id="misspelt weights are suggested"),
    ],
)
def test_weights_that_torchvision_does_not_know(
    tmp_path: Path, backbone: str, name: str | None, words: str
) -> None:
    with pytest.raises(SpecInvalid) as refusal:
        weights.fetch_weights(backbone, tmp_path, cache=tmp_path, weights=name, say=lambda sentence: None)
    assert words in refusal.value.next_step


def test_data_that_torchvision_does_not_know_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid) as refusal:
        data.fetch_data("FashonMNIST", tmp_path, say=lambda sentence: None)
    assert "FashionMNIST" in refusal.value.next_step


def test_data_with_other_contents_is_refused_by_name(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in data.FASHION_MNIST:
        (raw / name).write_bytes(b"something else")
    with pytest.raises(DatasetInvalid, match="train-images-idx3-ubyte"):
        data.check_fashion_mnist(raw)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("FashionMNIST", [{}]),
        ("CIFAR10", [{}]),
        ("SVHN", [{"split": "train"}, {"split": "test"}]),
        ("Flowers102", [{"split": "train"}, {"split": "val"}, {"split": "test"}]),
        ("OxfordIIITPet", [{"split": "trainval"}, {"split": "test"}]),
        ("Country211", [{"split": "train"}, {"split": "valid"}, {"split": "test"}]),
    ],
)
def test_data_every_part_is_asked_for(name: str, parts: list[dict[str, str]]) -> None:
    assert data.parts_of(getattr(datasets, name)) == parts
