"""A real Prometheus (Debian's, unpacked and not installed) that looks often at what it is told to look at."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from tests.testbed import debian
from tests.testbed.kube_api import wait_for
from tests.testbed.s3 import free_ports


@contextlib.contextmanager
def running(folder: Path, host: str, *jobs: dict[str, Any]) -> Iterator[str]:
    """One that is ready, by its URL; its data go with the folder.

    Args:
        folder: of its configuration, data and log.
        host: the address where it listens.
        jobs: as in ``scrape_configs``.

    Raises:
        NotToBeHad: its package cannot be fetched here.
    """
    command = debian.unpacked("prometheus") / "usr" / "bin" / "prometheus"
    folder.mkdir(parents=True, exist_ok=True)
    often = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    # JSON is YAML.
    (folder / "prometheus.yml").write_text(json.dumps({"global": often, "scrape_configs": jobs}))
    (port,) = free_ports(1)
    flags = (
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={host}:{port}",
    )
    with (
        (folder / "log").open("ab") as log,
        subprocess.Popen([str(command), *flags], stdout=log, stderr=log, stdin=subprocess.DEVNULL) as server,
    ):
        url = f"http://{host}:{port}"
        try:
            wait_for(lambda: _ready(url), f"Prometheus is ready, see {folder / 'log'}", 60)
            yield url
        finally:
            server.terminate()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False
