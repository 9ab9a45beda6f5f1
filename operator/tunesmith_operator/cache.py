"""What the watches have told: the newest version of each object, kept as compressed JSON.

3,000 jobs with their pods and companions, 24,000 objects, take 17 MiB so. What a reconciliation needs is
parsed then.
"""

import json
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator

from tunesmith_operator.kinds import MODEL_DEPLOYMENT, RESOURCES, TRAINING_JOB, Key, Kind, Object, key_of

Place = tuple[str, str, str]
"""Kind, namespace, name."""


_WINDOW, _MEMORY = 14, 5
"""Of zlib: 16 KiB back, as far as an object and the typical text reach, and 80 KiB of memory. By default it
takes 260 KiB for each object: a hole among what stays.
"""


class Cache:
    """The objects that the watches told of, by kind, namespace and name.

    Args:
        typical: text that objects have in common, for their compression; without it they take 30 MiB.
    """

    def __init__(self, typical: bytes = b"") -> None:
        """Nothing is known yet."""
        self._typical = typical
        self._held: dict[Place, tuple[int, str, bytes]] = {}
        self._children: defaultdict[Key, set[Place]] = defaultdict(set)
        self._follows: dict[Place, Key] = {}

    def put(self, kind: Kind, obj: Object, *, listed: bool = False) -> bool:
        """Remember an object, unless a newer version of it is known; returns whether it was news.

        Args:
            kind: its kind.
            obj: as the server sent it.
            listed: it comes from a list. A list is taken as it is: after a restore of etcd from an older
                snapshot versions are smaller than those we know.
        """
        place, version = _place(kind, obj), _version(obj)
        held = self._held.get(place)
        if held is not None:
            if held[0] == version and held[1] == _uid(obj):
                return False
            if version < held[0] and not listed:
                return False
        self._held[place] = (version, _uid(obj), self._packed(obj))
        if (owner := key_of(kind, obj)) is not None and kind not in RESOURCES:
            self._children[owner].add(place)
        if kind is MODEL_DEPLOYMENT:
            self._follow(place, obj)
        return True

    def _follow(self, place: Place, deployment: Object) -> None:
        job = deployment["spec"]["model"].get("trainingJob")
        if job:
            self._follows[place] = Key(place[1], job, TRAINING_JOB.name)
        else:
            self._follows.pop(place, None)

    def followers(self, job: Key) -> list[Key]:
        """The ModelDeployments that serve what a TrainingJob makes."""
        return [Key(*place[1:], place[0]) for place, followed in self._follows.items() if followed == job]

    def remove(self, kind: Kind, obj: Object) -> None:
        """Forget an object that was deleted, unless another of its name is known by now."""
        place = _place(kind, obj)
        held = self._held.get(place)
        if held is None or (held[1] != _uid(obj) and held[0] > _version(obj)):
            return
        self._forget(place, key_of(kind, obj))

    def discard(self, kind: Kind, namespace: str, name: str) -> None:
        """Forget an object that a live read did not find."""
        place = (kind.name, namespace, name)
        held = self._held.get(place)
        if held is not None:
            self._forget(place, key_of(kind, self._unpacked(held[2])))

    def keep_only(
        self, kind: Kind, names: set[tuple[str, str]], version: int, namespace: str = ""
    ) -> set[Key]:
        """Forget the objects of a kind that a list does not hold; a watch that was cut tells of no deletion.

        Args:
            kind: of the objects.
            names: namespace and name of each object in the list.
            version: of the list; what is known by a later version is kept.
            namespace: that the list was of; all when empty.

        Returns:
            The resources that are concerned.
        """
        concerned = set()
        for place, (known, _, packed) in list(self._held.items()):
            if (
                place[0] != kind.name
                or place[1:] in names
                or known > version
                or namespace not in ("", place[1])
            ):
                continue
            owner = key_of(kind, self._unpacked(packed))
            self._forget(place, owner)
            if owner is not None:
                concerned.add(owner)
        return concerned

    def _forget(self, place: Place, owner: Key | None) -> None:
        self._held.pop(place, None)
        self._follows.pop(place, None)
        if owner is not None and owner in self._children:
            self._children[owner].discard(place)
            if not self._children[owner]:
                del self._children[owner]

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """The newest version of an object, or None."""
        held = self._held.get((kind.name, namespace, name))
        return None if held is None else self._unpacked(held[2])

    def children(self, kind: Kind, owner: Key) -> list[Object]:
        """The objects of a kind that carry the label of one of our resources, by name."""
        places = sorted(place for place in self._children.get(owner, ()) if place[0] == kind.name)
        return [self._unpacked(self._held[place][2]) for place in places]

    def names(self, kind: Kind) -> Iterator[tuple[str, str]]:
        """Namespace and name of each object of a kind."""
        return iter([place[1:] for place in self._held if place[0] == kind.name])

    def resources(self) -> Iterator[Key]:
        """All TrainingJobs and ModelDeployments."""
        return (Key(*place, kind.name) for kind in RESOURCES for place in self.names(kind))

    def _packed(self, obj: Object) -> bytes:
        metadata = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
        text = json.dumps({**obj, "metadata": metadata}, separators=(",", ":")).encode()
        packer = zlib.compressobj(1, wbits=_WINDOW, memLevel=_MEMORY, zdict=self._typical)
        return packer.compress(text) + packer.flush()

    def _unpacked(self, packed: bytes) -> Object:
        loaded: Object = json.loads(zlib.decompressobj(zdict=self._typical).decompress(packed))
        return loaded


def _place(kind: Kind, obj: Object) -> Place:
    # A job's children share their name, and many their namespace: each is kept once.
    return kind.name, sys.intern(obj["metadata"]["namespace"]), sys.intern(obj["metadata"]["name"])


def _version(obj: Object) -> int:
    """Resource versions of one kind are numbers that grow (KEP-5504, promised since Kubernetes 1.35)."""
    return int(obj["metadata"].get("resourceVersion") or 0)


def _uid(obj: Object) -> str:
    return str(obj["metadata"].get("uid", ""))
