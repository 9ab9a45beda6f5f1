"""Where one run keeps its things: markers in the store, what can be made again in a local cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith_api.reasons import ObjectMissing, Reason, StoreError
from tunesmith_package.store import Store


class ObjectDamaged(StoreError):
    """An object of the store is not what was written there; trying again does not help."""

    reason = Reason.DIGEST_MISMATCH


@dataclass(frozen=True)
class Workspace:
    """One run's places.

    Attributes:
        store: shared with other runs and machines; it outlives this process.
        prefix: keys of this run begin with it, like ``jobs/flowers/{run key}``.
        cache_dir: a folder of this machine that may vanish at any time between two runs.
        require_lease: raises RunInProgress when another process has taken this run over.
    """

    store: Store
    prefix: str
    cache_dir: Path
    require_lease: Callable[[], None] = lambda: None

    def key(self, name: str) -> str:
        """The store key of one of this run's objects."""
        return f"{self.prefix.rstrip('/')}/{name}"

    def cache(self, *parts: str) -> Path:
        """A path in the local cache; its parent folder exists."""
        path = self.cache_dir.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def read_marker(self, stage: str) -> dict[str, Any] | None:
        """What the finished stage left, or None while it is not finished.

        Raises:
            StoreError: the store cannot be read.
            ObjectDamaged: the marker is not one of ours.
        """
        key = self.key(f"{stage}.json")
        try:
            data = self.store.get(key)
        except ObjectMissing:
            return None
        with self.reading(stage):
            marker = json.loads(data)
            if not isinstance(marker, dict):
                raise TypeError("not an object")
            return marker

    @contextmanager
    def reading(self, stage: str) -> Iterator[None]:
        """Frame the use of a marker's content: what is wrong with it is told as such.

        Raises:
            ObjectDamaged: the block ran into a missing field or a value of another kind.
        """
        try:
            yield
        except (KeyError, TypeError, ValueError) as error:
            raise ObjectDamaged(
                f"{self.store.url(self.key(f'{stage}.json'))} is not a marker of a finished stage ({error}).",
                "Delete that object and run the same command again: the stage is done anew.",
            ) from error

    def write_marker(self, stage: str, marker: dict[str, Any]) -> None:
        """Say that the stage is finished; everything it refers to must be in the store already.

        Raises:
            RunInProgress: another process has taken this run over, and its marker counts.
        """
        self.require_lease()
        text = json.dumps(marker, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        self.store.put(self.key(f"{stage}.json"), text.encode())
