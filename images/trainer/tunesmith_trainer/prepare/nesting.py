"""A dataset and a store that lie in each other's files: each run would change the data of the next."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from urllib.parse import unquote

from tunesmith_api.reasons import SpecInvalid

STORE_FOLDERS = ("features", "jobs", "models")
"""What the trainer writes directly below a store's root."""


def check_apart(root: str, store: str) -> None:
    """Refuse a store below a dataset's root, and a dataset in a folder that the trainer writes to.

    Args:
        root: address of what is listed as the dataset.
        store: address of the store.

    Raises:
        SpecInvalid: one lies in the other.
    """
    inner = _below(store, root)
    if inner is not None:
        raise SpecInvalid(
            f"The store {store} lies in the dataset {root}, so that each run would change the dataset.",
            "Name a folder or a prefix beside the dataset in spec.store.uri.",
        )
    inner = _below(root, store)
    if inner is not None and inner.parts[0] in STORE_FOLDERS:
        raise SpecInvalid(
            f"The dataset {root} lies in {inner.parts[0]}/ of the store {store}, where the trainer writes.",
            f"Put it elsewhere; the store's own folders are {', '.join(STORE_FOLDERS)}.",
        )


def _below(uri: str, root: str) -> PurePosixPath | None:
    """Where one address lies below another; None: it does not."""
    scheme, path = _place(uri)
    other, top = _place(root)
    return path.relative_to(top) if scheme == other and path.is_relative_to(top) else None


def _place(uri: str) -> tuple[str, PurePosixPath]:
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        # Links are followed: two addresses of one folder are one place.
        return scheme, PurePosixPath(os.path.realpath(unquote(rest.removeprefix("localhost"))))
    return scheme, PurePosixPath(rest.strip("/"))
