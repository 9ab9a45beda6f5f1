"""What the platform costs on top of the training itself: a TrainingJob on the node against `tunesmith run`.

Both take the same spec, the same photos and weights in the same S3, on the same machine, in turns. The
platform's time is from `kubectl apply` until the status says that it succeeded; `tunesmith run` is timed as a
command, with empty caches, which is what a pod has. Also: from `kubectl apply` until the container of the
trainer runs.

It needs the cluster of `make cluster-up`.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from statistics import median

from tests.bench.harness import command, data
from tests.bench.harness.report import Report, Target, parser, say, skip
from tests.cluster.namespaces import Namespace, Object
from tests.cluster.platform import PHOTOS, Platform, Team, training_job
from tests.testbed.addons import store
from tests.testbed.kube_api import wait_for
from tests.testbed.node import Node

NAME = "overhead"
ROUNDS = 3
MOST_SECONDS, MOST_PERCENT = 20.0, 15.0
MOST_UNTIL_RUNNING = 5.0


def here(name: str, folder: Path) -> float:
    """Seconds of `tunesmith run`, with the spec of a pod."""
    document = training_job(name, "insects")
    for part in (document["spec"]["dataset"], document["spec"]["store"]):
        part.pop("secretRef")
    document["spec"]["backbones"][0].pop("weightsSecretRef")
    return command.run(document, folder, folder / "cache").seconds


def there(name: str, team: Team) -> tuple[float, float]:
    """Seconds until the trainer's container ran, and until the job had succeeded."""
    say(f"kubectl apply, {name}")
    begun = time.perf_counter()
    team.train(name, "insects")
    wait_for(lambda: _runs(team, name), "the trainer runs", 60)
    running = time.perf_counter() - begun
    team.trained(name)
    return running, time.perf_counter() - begun


def _runs(team: Team, name: str) -> bool:
    where = ("--namespace", team.namespace.name, f"--selector=tunesmith.dev/training-job={name}")
    pods: list[Object] = team.namespace.kubectl.json("get", "pods", *where)["items"]
    states = [one["state"] for pod in pods for one in pod["status"].get("containerStatuses", [])]
    return any("running" in state for state in states)


def measure(report: Report, node: Node, work: Path, rounds: int) -> None:
    """Both, in turns."""
    platform = Platform(node)
    server = store.store(node.folder)
    os.environ |= server.credentials
    platform.fill()
    platform.forget()
    namespace = Namespace.create(node.kubectl, f"overhead-{int(time.time()) % 100_000}")
    namespace.apply(platform.secret())
    team = Team(platform, namespace)
    try:
        for number in range(rounds):
            folder = work / str(number)
            alone = here(f"alone-{number}", folder)
            shutil.rmtree(folder / "cache")
            platform.forget()
            running, whole = there(f"pod-{number}", team)
            platform.forget()
            report.add(round=number, command=alone, running=running, platform=whole, more=whole - alone)
    finally:
        namespace.delete()
    middle = {
        key: median(row[key] for row in report.rows) for key in ("command", "running", "platform", "more")
    }
    allowed = max(MOST_SECONDS, MOST_PERCENT / 100 * middle["command"])
    report.targets += [
        Target("overhead over tunesmith run", middle["more"], "at most", allowed, "s"),
        Target("kubectl apply until the trainer runs", middle["running"], "at most", MOST_UNTIL_RUNNING, "s"),
    ]


def main() -> int:
    """Measure and tell."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--rounds", type=int, default=ROUNDS, help="of both, in turns")
    options = options_parser.parse_args()
    node = Node.find()
    if node is None:
        skip(NAME, "This machine has no cluster: make cluster-up")
    if not PHOTOS.is_dir():
        skip(NAME, f"There are no photos in {PHOTOS}; TUNESMITH_PHOTOS names the folder above another place.")
    report = Report(NAME, full=options.rounds >= ROUNDS)
    with data.workplace(options.keep) as work:
        measure(report, node, work, options.rounds)
    columns = ("round", "command", "running", "platform", "more")
    return report.finish(columns, output=options.output, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
