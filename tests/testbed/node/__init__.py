"""A real single-node Kubernetes on this machine, built from pinned modules, that leaves nothing behind."""

from tests.testbed.node.node import Node, NodeError, Say, take_down
from tests.testbed.node.requirements import CannotRun

__all__ = ["CannotRun", "Node", "NodeError", "Say", "take_down"]
