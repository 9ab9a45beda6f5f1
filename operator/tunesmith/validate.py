"""``tunesmith validate``: every document of every file, every violation, nothing is run."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tunesmith.job_file import read_text
from tunesmith_api.reasons import EXIT_CODES, Reason, SpecInvalid
from tunesmith_api.validation import load_documents, validate_object
from tunesmith_api.yaml_text import parse


@dataclass(frozen=True)
class Verdict:
    """What is to say about one document.

    Attributes:
        subject: the file and the resource in it.
        refusal: why it is refused; None when it is valid.
    """

    subject: str
    refusal: SpecInvalid | None = None


def verdicts(path: Path) -> Iterator[Verdict]:
    """One verdict for each document of a file, or a single one when the file cannot be read."""
    try:
        text = read_text(path)
        documents = parse(text)
    except SpecInvalid as refusal:
        yield Verdict(str(path), refusal)
        return
    sound = True
    for document in documents:
        try:
            resource = validate_object(document)
        except SpecInvalid as refusal:
            sound = False
            yield Verdict(str(path), refusal)
        else:
            yield Verdict(f"{path}: {resource.kind} {resource.name}")
    if sound:
        # What only shows between documents: that there are none, or two of the same name.
        try:
            load_documents(text, str(path))
        except SpecInvalid as refusal:
            yield Verdict(str(path), refusal)


def validate_files(paths: list[Path], console: Console) -> int:
    """Print a verdict for each document.

    Returns:
        0 when everything is valid, the exit code of SpecInvalid otherwise.
    """
    valid = True
    for path in paths:
        for verdict in verdicts(path):
            if verdict.refusal is None:
                console.print(Text.assemble(("valid    ", "green"), verdict.subject), soft_wrap=True)
                continue
            valid = False
            console.print(Text.assemble(("invalid  ", "bold red"), verdict.subject), soft_wrap=True)
            for line in (*verdict.refusal.message.splitlines(), verdict.refusal.next_step):
                if line:
                    console.print(Text(f"         {line}"), soft_wrap=True)
    return 0 if valid else EXIT_CODES[Reason.SPEC_INVALID]
