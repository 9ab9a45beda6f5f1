"""Errors of a trial as its result: it fails alone, with a reason, and its process goes on with the next."""

from __future__ import annotations

import errno
import math
from collections.abc import Mapping
from typing import Any

import torch

from tunesmith_api.reasons import (
    DiskFull,
    Reason,
    StoreDenied,
    StoreFull,
    StoreUnreachable,
    TunesmithError,
)
from tunesmith_trainer.search.engine import report


def failure(error: Exception) -> dict[str, Any]:
    """What ``step`` returns instead of its news; ``failed`` holds the reason and ``message`` the error."""
    message = str(error) if isinstance(error, TunesmithError) else f"{type(error).__name__}: {error}"
    return report(math.inf, {"failed": reason_of(error).value, "message": message[:1_000]}, done=True)


_STORE = {one.reason.value: one for one in (StoreUnreachable, StoreDenied, StoreFull)}


def require_machine(news: Mapping[str, Any]) -> None:
    """Raise what ended a trial where the trial is not to blame, and the next would fare no better.

    Raises:
        DiskFull: the trial stays unfinished in the ledger.
        StoreError: so it does; on other machines trials use the store themselves.
    """
    failed, message = news["failed"], news["message"]
    if failed == Reason.DISK_FULL.value:
        raise DiskFull(
            f"A disk of this machine is full; everything finished is kept ({message}).",
            "Free some space, or choose another --cache-dir, and run the same command again.",
        )
    if failed in _STORE:
        raise _STORE[failed](f"A trial could not use the store: {message}", "Everything finished is kept.")


def reason_of(error: Exception) -> Reason:
    """The reason that users see for an error."""
    if isinstance(error, TunesmithError):
        return error.reason
    text = str(error).lower()
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    # safetensors has the system's error only in its text.
    if full or f"os error {errno.ENOSPC}" in text or f"os error {errno.EDQUOT}" in text:
        return Reason.DISK_FULL
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "alloc" in text:
        return Reason.OUT_OF_MEMORY
    return Reason.INTERNAL_ERROR
