"""Fine-tuning on a GPU as torchvision's reference script and timm's training script do it.

Both decode and vary each image anew in loader processes, every epoch: torchvision with Pillow to normalised
floats (references/classification, presets and train.py), timm to bytes that a prefetcher normalises on the
GPU. Both train with automatic mixed precision and channels-last tensors.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

IMAGE_SIZE = 224
Batches = Iterable[tuple[Tensor, Tensor]]


def torchvision_batches(folder: Path, batch_size: int) -> Batches:
    """The loader of torchvision's reference script with its default preset: random crop and flip."""
    preset = transforms.Compose(
        [
            transforms.RandomResizedCrop(IMAGE_SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
            transforms.ConvertImageDtype(torch.float),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    return DataLoader(
        ImageFolder(folder, preset),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=len(os.sched_getaffinity(0)),
        pin_memory=True,
    )


def timm_batches(folder: Path, batch_size: int, device: str) -> Batches | None:
    """The loader of timm's training script with its prefetcher; None where timm is not installed."""
    try:
        from timm.data import create_dataset, create_loader  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    loader: Batches = create_loader(
        create_dataset("", root=str(folder), split="train", is_training=True),
        input_size=(3, IMAGE_SIZE, IMAGE_SIZE),
        batch_size=batch_size,
        is_training=True,
        num_workers=len(os.sched_getaffinity(0)),
        pin_memory=True,
        device=torch.device(device),
    )
    return loader


class Training:
    """A network in training: mixed precision, channels last, SGD, as both scripts have it.

    Args:
        model: changed in place.
        device: ``cuda``; on a ``cpu`` it only shows that it runs.
    """

    def __init__(self, model: nn.Module, device: str) -> None:
        """Move the network to the device."""
        self.device = device
        self.half = torch.float16 if device == "cuda" else torch.bfloat16
        self.model = model.to(device).to(memory_format=torch.channels_last).train()
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
        self.scaler = torch.GradScaler(device, enabled=device == "cuda")

    def step(self, images: Tensor, labels: Tensor) -> None:
        """One step on images ``[n, 3, S, S]`` with labels ``[n]``, both on any device."""
        images = images.to(self.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        labels = labels.to(self.device, non_blocking=True)
        with torch.autocast(self.device, self.half):
            loss = nn.functional.cross_entropy(self.model(images), labels)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()


def clock(device: str) -> float:
    """Seconds that only grow, once the device has done all that it was asked for."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def images_per_second(batches: Batches, model: nn.Module, epochs: int, device: str) -> float:
    """Train for some epochs after a first that warms up; loading is part of the time."""
    training = Training(model, device)
    count, started = 0, 0.0
    for epoch in range(epochs + 1):
        if epoch == 1:
            started = clock(device)
        for images, labels in batches:
            training.step(images, labels)
            count += len(labels) if epoch else 0
    return count / (clock(device) - started)


def compute_bound(model: nn.Module, batch_size: int, steps: int, device: str) -> float:
    """Images per second of the same steps on a batch that is there already: no pipeline is faster."""
    training = Training(model, device)
    images = torch.randn(batch_size, 3, IMAGE_SIZE, IMAGE_SIZE, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(batch_size, dtype=torch.int64, device=device)
    started = 0.0
    for step in range(-5, steps):
        if step == 0:
            started = clock(device)
        training.step(images, labels)
    return steps * batch_size / (clock(device) - started)
