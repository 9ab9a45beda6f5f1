"""`python -m tests.testbed.cluster up|down|status|prepare`: a real cluster on this machine.

The node comes first, then what is installed into it: each a step that does nothing where it is done already.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.testbed.addons import install as addons
from tests.testbed.addons import tunesmith
from tests.testbed.debian import NotToBeHad
from tests.testbed.go_commands import cache_folder
from tests.testbed.node import CannotRun, Node, NodeError, Say, commands, image_store, requirements, take_down
from tests.testbed.node.machine import Busy
from tests.testbed.steps import Step

STEPS: tuple[Step, ...] = (addons.STEP, tunesmith.STEP)
"""In the order in which they are done; they end with the node, so there is nothing to undo."""


def default_folder() -> Path:
    return cache_folder().parent / "cluster"


class Progress:
    """Lines with the seconds since the beginning."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def __call__(self, line: str) -> None:
        print(f"{time.monotonic() - self._begun:6.1f} s  {line}", flush=True)


def prepare(say: Say) -> None:
    """Build and fetch everything, so that nothing of it is left to `up`."""
    requirements.provide(say)
    built = commands.build(say)
    for step in STEPS:
        step.prepare(say)
    if Node.find() is None:
        with image_store.without_node(built) as store:
            for step in STEPS:
                step.bring(store, say)


def up(folder: Path, say: Say) -> Node:
    """A node in which every step is done."""
    requirements.provide(say)
    node = Node.up(folder, say)
    for step in STEPS:
        step.up(node, say)
        say(f"{step.name} ready")
    return node


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 where it went well, and where `status` finds a healthy cluster."""
    parser = argparse.ArgumentParser(prog="python -m tests.testbed.cluster", description=__doc__)
    parser.add_argument("verb", choices=["up", "down", "status", "prepare"])
    parser.add_argument("--folder", type=Path, help=f"of all that the cluster keeps ({default_folder()})")
    given = parser.parse_args(arguments)
    say = Progress()
    try:
        return _do(given.verb, given.folder, say)
    except (CannotRun, NodeError, NotToBeHad, Busy) as error:
        print(error, file=sys.stderr)
        return 1


def _do(verb: str, folder: Path | None, say: Say) -> int:
    if verb == "prepare":
        prepare(say)
        say("Everything is built and fetched")
    elif verb == "up":
        node = up(folder or default_folder(), say)
        say(f"The cluster is ready: {_way_in(node)}")
    elif verb == "down":
        gone = take_down(folder)
        say(f"The cluster in {gone} is gone" if gone else "This machine has no cluster")
    else:
        return _status(say)
    return 0


def _status(say: Say) -> int:
    node = Node.find()
    if node is None:
        say("This machine has no cluster: make cluster-up")
        return 1
    healthy = node.healthy()
    say(f"The cluster in {node.folder} {'is ready' if healthy else 'is there, but not ready'}")
    for one in sorted(node.processes.all(), key=lambda one: one.name):
        if one.leads:
            say(f"  {one.name}: process {one.pid}, log {node.processes.log_path(one.name)}")
    if healthy:
        print(node.kubectl("get", "pods", "--all-namespaces"), end="")
        say(_way_in(node))
    return 0 if healthy else 1


def _way_in(node: Node) -> str:
    folder = Path(node.commands["kubectl"]).parent
    return f"export KUBECONFIG={node.kubeconfig} PATH=$PATH:{folder}"


if __name__ == "__main__":
    sys.exit(main())
