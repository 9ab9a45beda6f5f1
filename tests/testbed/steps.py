"""What is installed into a node to make a cluster of it, one step after another."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.testbed.node import Node, Say
from tests.testbed.node.image_store import ImageStore


@dataclass(frozen=True)
class Step:
    """Something that is installed into a node; it ends with the node, so there is nothing to undo.

    Attributes:
        name: for the line that says that it is done.
        up: installs it, or does nothing where it is there; told where to say what takes long.
        prepare: builds and fetches what it needs, so that `up` finds it in the cache.
        bring: puts the images that it needs among those that nodes have.
    """

    name: str
    up: Callable[[Node, Say], None]
    prepare: Callable[[Say], object] = lambda say: None
    bring: Callable[[ImageStore, Say], object] = lambda store, say: None
