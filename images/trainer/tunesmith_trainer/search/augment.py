"""Variation of training images, on whole batches where that is possible."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Policy = Literal["None", "Flip", "RandomResizedCrop", "TrivialAugment", "RandAugment", "AutoAugment"]

MIN_AREA = 0.35
"""Smallest part of the picture that a random crop shows. ImageNet training from scratch goes down to 0.08;
on a few hundred photos crops that small cut the subject away."""
_ASPECT = (3 / 4, 4 / 3)


class Augmenter:
    """Turns stored pixels into varied network inputs.

    Random resized crop and flip are one affine resampling of the whole batch, on the device that trains; the
    colour policies (TrivialAugment: Mueller & Hutter 2021, RandAugment: Cubuk 2020, AutoAugment: Cubuk 2019)
    come from torchvision and go image by image before it.
    """

    def __init__(
        self,
        policy: Policy,
        output_size: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        """Prepare a policy.

        Args:
            policy: spec.transfer.augmentation.
            output_size: side T of the training images in pixels.
            mean: of the normalisation, RGB in 0..1.
            std: of the normalisation.
        """
        self.policy = policy
        self.output_size = output_size
        self.mean = torch.tensor(mean).view(1, 3, 1, 1)
        self.std = torch.tensor(std).view(1, 3, 1, 1)
        self.colour = _colour(policy)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Vary a batch with torch's global random state (of the CPU).

        Args:
            pixels: uint8 ``[n, S, S, 3]`` on any device.

        Returns:
            float32 ``[n, 3, T, T]``, normalised, channels last in memory.
        """
        images = pixels.permute(0, 3, 1, 2)
        if self.colour is not None:
            images = torch.stack([self.colour(image) for image in images])
        batch = images.float().div_(255)
        batch = (batch - self.mean.to(batch.device)) / self.std.to(batch.device)
        grid = F.affine_grid(
            self._transforms(len(batch)).to(batch.device),
            [len(batch), 3, self.output_size, self.output_size],
            align_corners=False,
        )
        varied = F.grid_sample(batch, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        return varied.contiguous(memory_format=torch.channels_last)

    def _transforms(self, count: int) -> Tensor:
        """Affine maps ``[n, 2, 3]`` from output to input coordinates, both in -1..1."""
        theta = torch.zeros(count, 2, 3)
        width, height = self._crop_sizes(count)
        flip = torch.where(torch.rand(count) < 0.5, -1.0, 1.0) if self.policy != "None" else torch.ones(count)
        theta[:, 0, 0] = width * flip
        theta[:, 1, 1] = height
        theta[:, 0, 2] = (torch.rand(count) * 2 - 1) * (1 - width)
        theta[:, 1, 2] = (torch.rand(count) * 2 - 1) * (1 - height)
        return theta

    def _crop_sizes(self, count: int) -> tuple[Tensor, Tensor]:
        """Width and height of each crop as parts of the picture (Szegedy 2015's area and aspect ratio)."""
        if self.policy in ("None", "Flip"):
            return torch.ones(count), torch.ones(count)
        area = torch.empty(count).uniform_(MIN_AREA, 1.0)
        aspect = torch.empty(count).uniform_(math.log(_ASPECT[0]), math.log(_ASPECT[1])).exp()
        return (area * aspect).sqrt().clamp(max=1.0), (area / aspect).sqrt().clamp(max=1.0)


def training_size(image_size: int, *, fixed: bool) -> int:
    """Side of the training images for evaluation at ``image_size``.

    Random crops magnify the subject, so training at about 7/8 of the evaluation's size shows it equally large
    in both (Touvron et al. 2019, "Fixing the train-test resolution discrepancy"), for 3/4 of the work.

    Args:
        image_size: side of the evaluated images in pixels.
        fixed: the network takes no other size (vision transformers).
    """
    return image_size if fixed else max(32, round(image_size * 0.875 / 32) * 32)


def _colour(policy: Policy) -> Callable[[Tensor], Tensor] | None:
    """What changes the colours of one image; None for policies that do not."""
    if policy not in ("TrivialAugment", "RandAugment", "AutoAugment"):
        return None
    from torchvision.transforms import v2  # imports torch's compiler, which takes a second

    made: Callable[[Tensor], Tensor] = {
        "TrivialAugment": v2.TrivialAugmentWide,
        "RandAugment": v2.RandAugment,
        "AutoAugment": v2.AutoAugment,
    }[policy]()
    return made
