"""The machine's own commands, whose complaints are told."""

import subprocess

SECONDS = 60


class ToolFailed(Exception):
    """What a command complained about."""


def output(*command: str, stdin: str | None = None) -> str:
    """What a command prints.

    Raises:
        ToolFailed: where it ends with an error.
    """
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        raise ToolFailed(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
