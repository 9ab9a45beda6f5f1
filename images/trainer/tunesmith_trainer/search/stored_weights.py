"""Weights on their way back from the store: whole, or told to be damaged."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from tunesmith_package.store import Store
from tunesmith_trainer.workspace import ObjectDamaged


def fetch_weights(store: Store, key: str, path: Path, next_step: str) -> None:
    """Download a safetensors file and see that its header is one and its length is what the header says.

    Args:
        store: that holds it.
        key: of the file.
        path: where it goes.
        next_step: what to do about a damaged one.

    Raises:
        ObjectMissing: there is no such object.
        ObjectDamaged: it is cut off, or no safetensors file.
    """
    store.download(key, path)
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ObjectDamaged(f"The weights {store.url(key)} are damaged ({error}).", next_step) from error
