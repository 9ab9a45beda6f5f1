"""The images that a node brings, each one command that was built here."""

from pathlib import Path

from tests.testbed.node.commands import Commands
from tests.testbed.oci_image import Content, Image

REGISTRY = "tunesmith.test"
"""Of images that exist only on the node; `.test` names nothing on any network (RFC 6761)."""
PAUSE = f"{REGISTRY}/pause:1"
COREDNS = f"{REGISTRY}/coredns:1"
ERRAND = f"{REGISTRY}/errand:1"


def write_all(commands: Commands, folder: Path) -> list[Path]:
    """The archives."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _of_one_command(name, Path(commands[command])).write(folder / f"{command}.tar")
        for name, command in ((PAUSE, "pause"), (COREDNS, "coredns"), (ERRAND, "errand"))
    ]


def _of_one_command(name: str, command: Path) -> Image:
    place = f"/{command.name}"
    return Image(name, {place: Content(command)}, [place])
