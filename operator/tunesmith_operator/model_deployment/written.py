"""Remembers what was written, so that an object that nobody touched is not written again."""

from tunesmith_operator.kinds import Kind, Object


class Written:
    """The generation that each object had after our last write; of this process alone.

    The generation of an object grows with its spec. Comparing the specs themselves would not do: servers and
    webhooks fill in what we left open.
    """

    def __init__(self) -> None:
        """Nothing was written yet."""
        self._generations: dict[tuple[str, str, str], tuple[str, int]] = {}

    def put(self, kind: Kind, obj: Object) -> None:
        """An object is now as we want it."""
        self._generations[_place(kind, obj)] = _version(obj)

    def untouched(self, kind: Kind, obj: Object) -> bool:
        """Whether the object's spec is as we left it."""
        return self._generations.get(_place(kind, obj)) == _version(obj)

    def discard(self, kind: Kind, namespace: str, name: str) -> None:
        """An object is gone."""
        self._generations.pop((kind.name, namespace, name), None)


def _place(kind: Kind, obj: Object) -> tuple[str, str, str]:
    return kind.name, obj["metadata"]["namespace"], obj["metadata"]["name"]


def _version(obj: Object) -> tuple[str, int]:
    # A plain Service has no generation; its version changes with whatever is written.
    metadata = obj["metadata"]
    return metadata["uid"], int(metadata.get("generation") or metadata["resourceVersion"])
