"""A process that speaks the trainer's protocol from a script: one JSON step a line.

Steps are events to print as they are, ``{"do": "exit", "code": N}``, ``{"do": "die", "signal": N}``,
``{"do": "sleep until SIGTERM"}``, ``{"do": "ignore SIGTERM"}``, ``{"do": "spawn", "file": PATH}`` (a child
that sleeps, its pid in the file) and ``{"do": "say", "text": TEXT}`` (on standard error).
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Steps = Sequence[Mapping[str, Any]]


def trainer_command(folder: Path, steps: Steps) -> list[str]:
    """The command of a trainer that takes these steps; the options it got lie in script.arguments."""
    script = folder / "script"
    script.write_text("".join(json.dumps(step) + "\n" for step in steps))
    return [sys.executable, __file__, str(script)]


def result(code: int, reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    """The trainer's last word."""
    return {"type": "result", "exitCode": code, "reason": reason, "message": message, "nextStep": "", **more}


def main() -> None:
    script, arguments = Path(sys.argv[1]), sys.argv[2:]
    Path(f"{script}.arguments").write_text(json.dumps(arguments))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    for line in script.read_text().splitlines():
        step = json.loads(line)
        match step.get("do"):
            case "exit":
                sys.exit(step["code"])
            case "die":
                os.kill(os.getpid(), step["signal"])
            case "sleep until SIGTERM":
                signal.sigwait({signal.SIGTERM})
            case "ignore SIGTERM":
                signal.sigwait({signal.SIGUSR1})
            case "spawn":
                child = [sys.executable, "-c", "import time; time.sleep(600)"]
                Path(step["file"]).write_text(str(subprocess.Popen(child).pid))
            case "say":
                sys.stderr.write(step["text"] + "\n")
            case _:
                sys.stdout.write(line + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
