"""The machine found: processors allowed, GPUs, and the arithmetic that pays off on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from tunesmith_api.reasons import DeviceMissing
from tunesmith_package.processors import allowed_processors as allowed_processors

DeviceType = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Device:
    """Where tensors are computed.

    Attributes:
        type: ``cpu`` or ``cuda``.
        threads: processors that this process may use, at least 1.
        gpus: number of GPUs; 0 on the CPU.
        autocast: the reduced-precision type of fine-tuning, or None for float32.
    """

    type: DeviceType
    threads: int
    gpus: int
    autocast: torch.dtype | None


def find_device(wanted: str, precision: str) -> Device:
    """Find the device to train on.

    Args:
        wanted: ``auto`` takes a GPU when there is one; ``cpu``; ``cuda``.
        precision: spec.transfer.precision. ``Auto`` is BFloat16 (Float16 on GPUs that lack it) on a GPU and
            Float32 on the CPU, where reduced precision was slower for the depthwise networks measured.

    Raises:
        DeviceMissing: a GPU is asked for and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise DeviceMissing("No GPU can be used on this machine.", "Choose --device auto or cpu.")
    type_: DeviceType = "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"
    return Device(
        type_,
        allowed_processors(),
        torch.cuda.device_count() if type_ == "cuda" else 0,
        _dtype(type_, precision),
    )


def _dtype(type_: DeviceType, precision: str) -> torch.dtype | None:
    match precision:
        case "BFloat16":
            return torch.bfloat16
        case "Float16":
            return torch.float16 if type_ == "cuda" else torch.bfloat16
        case "Auto" if type_ == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return None
