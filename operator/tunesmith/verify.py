"""``tunesmith verify``: every file of a package, read again and compared with the manifest."""

import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunesmith import wording
from tunesmith.model_reference import model_reference
from tunesmith_api.reasons import EXIT_CODES, Reason
from tunesmith_package.package import FileCheck, verify_package


def verify_files(uri: str, console: Console, *, digest: str | None = None, as_json: bool = False) -> int:
    """Print what a rehash found for each file.

    Returns:
        0 when every file is what was published; the exit code of DigestMismatch or PackageInvalid otherwise.

    Raises:
        PackageInvalid: there is no package at this address.
        DigestMismatch: the manifest is not the one asked for.
    """
    model = model_reference(uri, digest)
    checks = verify_package(model.uri, digest=model.digest)
    if as_json:
        files = [asdict(check) for check in checks]
        sound = not any(check.problem for check in checks)
        console.out(json.dumps({"sound": sound, "files": files}, indent=2), highlight=False)
    else:
        console.print(_table(checks))
        console.print(_verdict(checks))
    return _exit_code(checks)


def _exit_code(checks: list[FileCheck]) -> int:
    problems = [check.problem for check in checks if check.problem]
    if not problems:
        return 0
    incomplete = any(problem.startswith(("missing", "not named")) for problem in problems)
    return EXIT_CODES[Reason.PACKAGE_INVALID if incomplete else Reason.DIGEST_MISMATCH]


def _table(checks: list[FileCheck]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("file")
    table.add_column("size", justify="right")
    table.add_column("sha256", overflow="ellipsis", no_wrap=True, style="dim")
    table.add_column("")
    for check in checks:
        found = Text(check.problem, "bold red") if check.problem else Text("unchanged", "green")
        table.add_row(check.name, wording.size(check.size), check.sha256, found)
    return table


def _verdict(checks: list[FileCheck]) -> Text:
    wrong = sum(1 for check in checks if check.problem)
    if wrong:
        return Text(
            f"{wrong} of {len(checks)} files are not what was published. Publish the package again from its "
            "training job, or use another one.",
            "bold red",
        )
    return Text(f"All {len(checks)} files are what was published.", "bold green")
