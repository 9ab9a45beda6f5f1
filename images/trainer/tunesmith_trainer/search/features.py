"""One forward pass of a frozen backbone over the images, kept as float16 on disk and in the store.

The key of a feature matrix is the dataset's digest, the weights' digest and the preprocessing, so a later job
on the same data takes it from the store. Rows are written in order: a killed pass goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from tunesmith_package.preprocess import Preprocess
from tunesmith_package.store import Store
from tunesmith_trainer.devices import Device
from tunesmith_trainer.onnx_graph import export_graph
from tunesmith_trainer.prepare.dataset import Dataset
from tunesmith_trainer.search.backbones import Backbone, Pretrained
from tunesmith_trainer.search.feature_matrix import FeatureMatrix

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

BATCH_SIZE = 32
FORMAT = 1
"""Raise it whenever the same inputs would give other features: it is part of every key."""


def feature_key(dataset_digest: str, weights_digest: str, backbone: str, preprocess: Preprocess) -> str:
    """Name of a feature matrix: everything that decides its values, hashed."""
    parts = [FORMAT, dataset_digest, weights_digest, backbone, preprocess.to_json()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def compute_features(
    dataset: Dataset,
    pretrained: Pretrained,
    preprocess: Preprocess,
    rows: IntArray,
    *,
    device: Device,
    store: Store,
    cache_dir: Path,
    on_images: Callable[[int], None],
) -> FeatureMatrix:
    """Embed ``rows`` of the dataset, or take the features from the cache or the store.

    Args:
        dataset: its pixels are read; its digest is part of the key.
        pretrained: the backbone and its weights' digest.
        preprocess: size, resize and normalisation that the backbone expects.
        rows: dataset rows to embed; row i of the result belongs to ``rows[i]``.
        device: where the forward pass runs.
        store: shared between jobs, under ``features/{key}``.
        cache_dir: local folder for the matrix.
        on_images: told the number of images each time some are done (also those found in the cache).

    Raises:
        StoreError: the store cannot be reached or is full.
        OSError: the local disk is full; what is written so far is kept and used by the next run.
    """
    key = feature_key(dataset.digest, pretrained.weights_digest, pretrained.backbone.name, preprocess)
    dim = pretrained.backbone.feature_dim
    folder = cache_dir / "features" / key
    matrix = FeatureMatrix(folder / "features.f16", len(rows), dim)
    size = 2 * dim * len(rows)
    if _whole(matrix.path, size) or _fetch(store, key, matrix.path, size):
        on_images(len(rows))
        return matrix
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"features.{os.getpid()}.partial"
    _adopt_partial(folder, partial)
    _embed(dataset, pretrained.backbone, preprocess, rows, partial, device, on_images)
    partial.replace(matrix.path)
    store.put_if_absent(f"features/{key}/features.f16", matrix.path)
    return matrix


def _whole(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


def _fetch(store: Store, key: str, path: Path, size: int) -> bool:
    name = f"features/{key}/features.f16"
    if not store.exists(name):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fetched = Path(folder) / path.name
        store.download(name, fetched)
        if fetched.stat().st_size != size:
            return False
        fetched.replace(path)
    return True


def _adopt_partial(folder: Path, target: Path) -> None:
    """Take over the longest file that a killed process left; files of living processes stay theirs."""
    left = [path for path in folder.glob("features.*.partial") if not _alive(int(path.name.split(".")[1]))]
    if left:
        max(left, key=lambda path: path.stat().st_size).replace(target)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()


def _embed(
    dataset: Dataset,
    backbone: Backbone,
    preprocess: Preprocess,
    rows: IntArray,
    target: Path,
    device: Device,
    on_images: Callable[[int], None],
) -> None:
    width = 2 * backbone.feature_dim
    with target.open("ab") as file:
        done = file.tell() // width
        file.truncate(done * width)
        on_images(done)
        if done == len(rows):
            return
        embed = embedder(backbone, preprocess.image_size, device)
        for start in range(done, len(rows), BATCH_SIZE):
            batch = rows[start : start + BATCH_SIZE]
            features = embed(preprocess.normalise(dataset.pixels.read(batch)))
            file.write(np.clip(features, -65504, 65504).astype(np.float16).tobytes())
            on_images(len(batch))


def embedder(backbone: Backbone, image_size: int, device: Device) -> Callable[[FloatArray], FloatArray]:
    """The fastest way at hand to embed normalised images ``[n, 3, S, S]`` as ``[n, D]``.

    On the CPU ONNX Runtime, which needs a third of the time of eager torch for MobileNetV2; on a GPU torch
    with channels-last tensors and half precision.
    """
    if device.type == "cpu":
        return _onnx_embedder(backbone, image_size, device.threads)

    module = backbone.to(device.type).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def embed(images: FloatArray) -> FloatArray:
        batch = torch.from_numpy(images).pin_memory().to(device.type, non_blocking=True)
        with torch.autocast(device.type, torch.float16):
            features = module.embed(batch.contiguous(memory_format=torch.channels_last))
        return features.float().cpu().numpy()

    return embed


class _Embedding(torch.nn.Module):
    """A backbone with its embedding as the only output."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.backbone.embed(images)


def _onnx_embedder(backbone: Backbone, image_size: int, threads: int) -> Callable[[FloatArray], FloatArray]:
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
        graph = Path(folder) / "backbone.onnx"
        example = torch.zeros(2, 3, image_size, image_size)
        export_graph(_Embedding(backbone).eval(), example, graph, ["embedding"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(["embedding"], {"image": images})[0], np.float32)
