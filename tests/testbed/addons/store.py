"""S3 beside the node, at the address of its bridge: the same server as in the other tests."""

from pathlib import Path

from tests.testbed.node.addresses import ADDRESS
from tests.testbed.node.processes import Processes
from tests.testbed.s3 import S3Server

PROCESS = "s3"
PORT = 8333
BUCKETS = ("datasets", "models")


def store(folder: Path) -> S3Server:
    """The server of the node in this folder, for its endpoint, credentials and client."""
    return S3Server(folder / PROCESS, {"s3.port": PORT}, ADDRESS)


def start(folder: Path) -> None:
    """Start it unless it runs; returns when objects can be written and the buckets are there."""
    processes, server = Processes(folder), store(folder)
    if processes.pid(PROCESS) is None:
        processes.start(PROCESS, server.command())
    server.wait_while(lambda: processes.pid(PROCESS) is not None, lambda: processes.log(PROCESS))
    client = server.client()
    there = {one["Name"] for one in client.list_buckets()["Buckets"]}
    for bucket in BUCKETS:
        if bucket not in there:
            client.create_bucket(Bucket=bucket)
    client.close()
