"""Options that several commands have, and where they print."""

import os
import sys
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text


class Output(StrEnum):
    """How a command answers."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="table for people, json for programs.")]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A model package: file:///..., s3://..., its folder, or the file that `run --result` wrote.",
    ),
]
Digest = Annotated[
    str | None,
    typer.Option("--digest", help="Refuse a package whose manifest has another digest (sha256:...)."),
]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="Of the cluster.", show_default="the context's own, as kubectl's"),
]
FILE_COLUMNS = 10_000
"""Columns of a table that goes to a file or another program: no path in it is ever broken over two lines."""


def say(text: str) -> None:
    """Print a sentence as it is, however narrow the terminal."""
    console().print(Text(text), soft_wrap=True)


def console() -> Console:
    """Standard output; as wide as the terminal, or wide enough for the longest path where there is none."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if known else FILE_COLUMNS)
