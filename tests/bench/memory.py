"""Peak memory of a linear-probe job over synthetic sets of 2,000 and 20,000 JPEG images of 224 pixels.

Memory is that of the command, its trainer and all of Ray's processes together, sampled four times a second.
PSS counts a page that several processes share once, RSS once for each of them; both are told, and the promise
is held against both.
"""

from __future__ import annotations

import shutil
import sys

from tests.bench.harness import command, data
from tests.bench.harness.memory import TreeWatcher
from tests.bench.harness.report import Report, Target, parser, say

NAME = "memory"
COUNTS = (2_000, 20_000)
MOST_GROWTH = 1.1
MIB = 2**20


def main() -> int:
    """Measure and tell."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="images of each set")
    options_parser.add_argument("--trials", type=int, help="instead of the default spec's (to shorten)")
    options = options_parser.parse_args()
    weights = data.mobilenet_weights(NAME)
    report = Report(NAME, full=tuple(options.counts) == COUNTS and options.trials is None)
    search = {"search": {"numTrials": options.trials}} if options.trials else {}
    transfer = {"strategies": ["LinearProbe"], "imageSize": 224}
    with data.workplace(options.keep) as work:
        for count in options.counts:
            say(f"drawing {count} images")
            folder = work / str(count)
            photos = data.synthetic_set(folder / "photos", count)
            job = command.job(
                f"memory-{count}", photos, weights, folder / "store", transfer=transfer, **search
            )
            watcher = TreeWatcher()
            done = command.run(job, folder, folder / "cache", watch=watcher.watch)
            peaks = watcher.finish()
            report.add(
                images=count,
                pssMiB=peaks.pss / MIB,
                rssMiB=peaks.rss / MIB,
                processes=peaks.processes,
                seconds=done.seconds,
                pssMiBByStage={stage: round(size / MIB) for stage, size in peaks.pss_by_stage.items()},
                stages=dict(done.stages),
            )
            if options.keep is None:
                shutil.rmtree(folder, ignore_errors=True)
    for kind in ("pss", "rss"):
        first, last = report.rows[0][f"{kind}MiB"], report.rows[-1][f"{kind}MiB"]
        what = f"peak {kind.upper()} of the largest set over the smallest's"
        report.targets.append(Target(what, last / first, "at most", MOST_GROWTH, "x"))
    columns = ("images", "pssMiB", "rssMiB", "processes", "pssMiBByStage", "seconds")
    return report.finish(columns, output=options.output, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
