"""``python -m tunesmith_predictor``: serve one model package, or ``fetch`` it first.

Serving checks every file of the package and computes its golden predictions again before it listens. What is
wrong ends it with an exit code of its own (operator/tunesmith_api/reasons.py) and a line that says what to
do, on standard error and in the pod's termination message.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import os
import resource
import socket
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tunesmith_api.reasons import DiskFull, TunesmithError, exit_code

TERMINATION_LOG = Path("/dev/termination-log")
MOST_DESCRIPTORS = 65_536
CPU_BATCH, GPU_BATCH = 4, 32
"""Images in a batch at most. On a processor larger ones gain nothing and keep their memory."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""In glibc's malloc.h."""
SHORTEST_WINDOW = 50
"""As in a ModelDeployment's spec."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    options = _parse(sys.argv[1:] if arguments is None else list(arguments))
    try:
        return fetch(options) if options.command == "fetch" else serve(options)
    except TunesmithError as caught:
        error = caught
    except OSError as caught:
        error = _of_the_machine(caught)
    tell(error, options.termination_log)
    return exit_code(error)


def serve(options: argparse.Namespace) -> int:
    """Check the package, then serve it until a signal.

    Raises:
        TunesmithError: the package cannot be served.
    """
    started = time.perf_counter()
    _allow_connections()
    _keep_freed_memory()
    for port in (options.http_port, options.grpc_port):
        require_free(options.host, port)
    # numpy's threads would wait for each other beside those that decode and infer.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # KServe reads sys.argv when it is imported, and knows none of our options.
    sys.argv = sys.argv[:1]
    from tunesmith_package.processors import allowed_processors
    from tunesmith_predictor.engine import step_back
    from tunesmith_predictor.startup import load

    threads = options.threads or allowed_processors()
    # In a thread that steps back: the runtime's own threads take its priority over.
    with ThreadPoolExecutor(1, "load", step_back) as loader:
        loaded = loader.submit(
            load,
            options.model_dir,
            digest=options.digest,
            threads=options.inference_threads,
            require_verified=not options.allow_unverified,
            device=options.device,
        ).result()
    from kserve.logging import logger

    from tunesmith_predictor.engine import Limits
    from tunesmith_predictor.guard import BodyLimits
    from tunesmith_predictor.monitoring.sampler import SampleLimits
    from tunesmith_predictor.server import PackageServer, Settings
    from tunesmith_predictor.service import Identity

    settings = Settings(
        host=options.host,
        http_port=options.http_port,
        grpc_port=options.grpc_port or None,
        engine=Limits(
            threads,
            1 if loaded.on_gpu else max(1, threads // options.inference_threads),
            options.max_waiting,
            options.max_batch or (GPU_BATCH if loaded.on_gpu else CPU_BATCH),
            options.latency_budget,
        ),
        bodies=BodyLimits(options.max_body_bytes, options.max_bodies_bytes, options.body_seconds),
        header_seconds=options.header_seconds,
        drain_seconds=options.drain_seconds,
        grace_seconds=options.grace_seconds,
        drift_window=options.drift_window,
        feedback=options.feedback,
        explanations=not options.no_explanations,
        access_log=options.access_log,
        sample_folder=options.sample_dir,
        sample=SampleLimits(
            rate=options.sample_rate,
            images=options.sample_images,
            bytes=options.sample_bytes,
            seconds=options.sample_days * 86_400,
        ),
    )
    server = PackageServer(
        loaded, Identity(options.model_name, loaded.package.digest, options.revision), settings
    )
    logger.info(
        "%s is whole, and %d golden predictions differ by %.1e at most (%s, %d at once, %.1f s)",
        loaded.package.digest, loaded.golden, loaded.difference, loaded.predictor.providers[0],
        settings.engine.inferences, time.perf_counter() - started,
    )  # fmt: skip
    server.serve()
    return 0


def fetch(options: argparse.Namespace) -> int:
    """Bring a package into a folder, checked.

    Raises:
        TunesmithError: it cannot be had, or is not what was asked for.
    """
    from tunesmith_package.package import fetch_package

    package = fetch_package(
        options.uri, options.to, digest=options.digest, require_verified=not options.allow_unverified,
        patience_seconds=options.store_patience,
        on_wait=lambda message: print(message, file=sys.stderr, flush=True),
    )  # fmt: skip
    print(f"{package.digest} is in {options.to}", file=sys.stderr)
    return 0


def _allow_connections() -> None:
    """Each connection takes a descriptor, and systems begin with a thousand of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _keep_freed_memory() -> None:
    """Have glibc use the memory of an image for the next one.

    By itself it gives arrays of this size back to the system, which then clears every page of the next one.
    """
    with contextlib.suppress(AttributeError, OSError):  # other C libraries have no such function
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(_TRIM_THRESHOLD, 128 * 2**20)


def _of_the_machine(error: OSError) -> TunesmithError:
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            f"The disk is full{where}.", "Free some space, and start again: what is whole is kept."
        )
    return TunesmithError(
        f"This machine refused{where}: {error.strerror or error}.", "Check the path and its permissions."
    )


def require_free(host: str, port: int) -> None:
    """Make sure that a port can be listened on; KServe's servers end with a traceback where one cannot.

    Raises:
        TunesmithError: it is taken, or not ours to take.
    """
    if not port:
        return
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise TunesmithError(
            f"Port {port} of {host} cannot be listened on: {error.strerror}.", "Choose another port."
        ) from error


def tell(error: TunesmithError, termination_log: Path) -> None:
    """Say in one line what is wrong, where people and the kubelet look."""
    line = " ".join(f"{error.reason.value}: {error.message} {error.next_step}".split())
    print(line, file=sys.stderr, flush=True)
    try:
        if termination_log.exists():
            termination_log.write_text(line[:4_000])
    except OSError as failed:
        print(f"{termination_log} cannot be written: {failed.strerror}", file=sys.stderr)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tunesmith_predictor", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("serve", help="serve a package (what is done without a command)", add_help=False)
    getter = commands.add_parser("fetch", help="bring a package into a folder, checked")
    getter.add_argument("--uri", required=True, help="the package's address, file:// or s3://")
    getter.add_argument("--digest", help="sha256:... that it must have")
    getter.add_argument("--to", type=Path, required=True, metavar="DIR", help="the folder")
    getter.add_argument(
        "--store-patience", type=float, default=300, metavar="SECONDS", help="how long a store may stay away"
    )
    _common(getter)
    if arguments[:1] == ["fetch"]:
        return parser.parse_args(arguments)
    server = argparse.ArgumentParser(
        prog="python -m tunesmith_predictor [serve]",
        description=__doc__,
        epilog="python -m tunesmith_predictor fetch --help tells of the other command.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    server.set_defaults(command="serve")
    server.add_argument("--model-dir", type=Path, default=Path("/mnt/models"), help="the package's folder")
    server.add_argument("--model-name", default=os.environ.get("MODEL_NAME", "model"), help="in the address")
    server.add_argument("--digest", help="sha256:... that the package must have")
    server.add_argument("--revision", default="", help="said in a header and in the metrics")
    server.add_argument("--host", default="0.0.0.0", help="address to listen on")
    server.add_argument("--http-port", type=int, default=8080)
    server.add_argument(
        "--grpc-port",
        type=int,
        default=8081,
        help="0 for none",
    )
    server.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto takes a GPU where there is one",
    )
    server.add_argument("--threads", type=int, default=0, help="0: the processors that this pod may use")
    server.add_argument(
        "--inference-threads",
        type=_positive,
        default=1,
        help="of one inference; more answer a lone image sooner, and fewer images in all",
    )
    server.add_argument(
        "--max-waiting", type=int, default=256, metavar="IMAGES", help="more are refused with 429"
    )
    server.add_argument(
        "--max-batch",
        type=int,
        default=0,
        metavar="IMAGES",
        help=f"0: {CPU_BATCH}, on a GPU {GPU_BATCH}",
    )
    server.add_argument("--latency-budget", type=float, default=0.05, metavar="SECONDS", help="of one batch")
    server.add_argument("--max-body-bytes", type=int, default=20_000_000, help="of one request")
    server.add_argument("--max-bodies-bytes", type=int, default=200_000_000, help="of all requests at once")
    server.add_argument("--header-seconds", type=float, default=10.0, help="for headers to arrive")
    server.add_argument("--body-seconds", type=float, default=30.0, help="for a body to arrive")
    server.add_argument(
        "--drain-seconds", type=float, default=5.0, help="still taking requests after SIGTERM"
    )
    server.add_argument("--grace-seconds", type=int, default=20, help="then, for those on their way")
    server.add_argument(
        "--drift-window",
        type=_window,
        default=1_000,
        metavar="IMAGES",
        help="compared with the package's reference; 0 for none",
    )
    server.add_argument("--feedback", action="store_true", help="take true labels at /feedback")
    server.add_argument("--no-explanations", action="store_true", help="answer without activation maps")
    server.add_argument("--sample-dir", type=Path, metavar="DIR", help="keep a sample of the images here")
    server.add_argument("--sample-rate", type=_share, default=0.1, help="share of the images considered")
    server.add_argument("--sample-images", type=_positive, default=1_000, help="kept at most")
    server.add_argument("--sample-bytes", type=_positive, default=500_000_000, help="of all together")
    server.add_argument(
        "--sample-days", type=float, default=30.0, help="after which one without a label goes"
    )
    server.add_argument("--access-log", action="store_true", help="a line in the log for each request")
    _common(server)
    return server.parse_args(arguments[1:] if arguments[:1] == ["serve"] else arguments)


def _window(text: str) -> int:
    images = int(text)
    if images and images < SHORTEST_WINDOW:
        raise argparse.ArgumentTypeError(f"{images} images say nothing: 0, or {SHORTEST_WINDOW} or more")
    return images


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share: 0 to 1")
    return share


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small: 1 or more")
    return number


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--allow-unverified", action="store_true", help="also a model that failed its gates")
    parser.add_argument("--termination-log", type=Path, default=TERMINATION_LOG, help=argparse.SUPPRESS)
