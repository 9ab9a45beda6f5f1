"""Starts trainers by forking, from a process that has imported what a trainer imports.

Each trainer is a process in a session of its own, as `tunesmith run` makes it, only without the seconds that
Python needs to import torch and Ray: a test that starts thirty of them has no time for these. Requests and
answers are JSON lines on standard input and output; the end of the input kills all that runs.
"""

import json
import os
import select
import signal
import sys
from typing import Any, NoReturn

STREAM_MODE = os.O_WRONLY | os.O_CREAT | os.O_APPEND


def main() -> int:
    import tunesmith_trainer.run
    import tunesmith_trainer.search.search  # noqa: F401  # with the line above all that a trainer imports

    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    running: set[int] = set()
    answer({"ready": os.getpid()})
    while True:
        readable, _, _ = select.select([0, wake], [], [])
        if wake in readable:
            os.read(wake, 64)
            reap(running)
        if 0 in readable:
            request = os.read(0, 65_536)
            if not request:
                return kill(running)
            process = os.fork()
            if process == 0:
                os.close(wake)
                become(json.loads(request))
            running.add(process)
            answer({"started": process})


def become(request: dict[str, Any]) -> NoReturn:
    """Be the trainer from here on."""
    from tunesmith_trainer.command import end, main

    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for descriptor, path in ((0, os.devnull), (1, request["events"]), (2, request["log"])):
        file = os.open(path, os.O_RDONLY if descriptor == 0 else STREAM_MODE, 0o600)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.update(request["environment"])
    end(main(request["arguments"]))


def reap(running: set[int]) -> None:
    for process in sorted(running):
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            running.discard(ended)
            answer({"ended": ended, "code": os.waitstatus_to_exitcode(status)})


def kill(running: set[int]) -> int:
    for process in running:
        os.killpg(process, signal.SIGKILL)
    return 0


def answer(line: dict[str, Any]) -> None:
    os.write(1, (json.dumps(line) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
