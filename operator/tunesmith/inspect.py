"""``tunesmith inspect``: what a model package is, read from its manifest and its small files."""

import hashlib
import json
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunesmith import wording
from tunesmith.model_reference import model_reference
from tunesmith_api.reasons import DigestMismatch
from tunesmith_package.manifest import Manifest
from tunesmith_package.package import read_manifest
from tunesmith_package.store import Store, open_store

SHOWN_CLASSES = 20


def inspect_package(uri: str, console: Console, *, digest: str | None = None, as_json: bool = False) -> None:
    """Print a package's origin, its test metrics with their gates, its classes and files.

    Only the small files are read, each checked against the manifest; `verify` reads all of them.

    Raises:
        PackageInvalid: there is no package at this address.
        DigestMismatch: the manifest or a file read is not what was published.
    """
    model = model_reference(uri, digest)
    store = open_store(model.uri)
    manifest = read_manifest(store, digest=model.digest)
    description = describe(store, manifest)
    if as_json:
        console.out(json.dumps(description, indent=2, ensure_ascii=False), highlight=False)
        return
    console.print(_origin(description))
    if description["metrics"]:
        console.print()
        console.print(_metrics(description))
    console.print()
    console.print(_files(description))


def describe(store: Store, manifest: Manifest) -> dict[str, Any]:
    """Everything that `inspect` shows, as JSON types in camelCase."""
    header = manifest.header
    metrics = _small_json(store, manifest, "metrics.json") or {}
    return {
        "uri": store.uri,
        "digest": manifest.digest,
        "name": manifest.name,
        "verified": header.verified,
        "createdBy": header.created_by,
        "backbone": header.backbone,
        "strategy": header.strategy,
        "datasetDigest": header.dataset_digest,
        "runKey": header.run_key,
        "labels": _small_json(store, manifest, "labels.json"),
        "preprocess": _small_json(store, manifest, "preprocess.json"),
        "testImages": metrics.get("images"),
        "metrics": metrics.get("metrics", {}),
        "gates": metrics.get("gates", []),
        "files": {
            name: {"sha256": entry.sha256, "size": entry.size} for name, entry in manifest.files.items()
        },
    }


def _small_json(store: Store, manifest: Manifest, name: str) -> Any:
    if name not in manifest.files:
        return None
    data = store.get(name)
    if hashlib.sha256(data).hexdigest() != manifest.files[name].sha256:
        raise DigestMismatch(
            f"{name} in {store.uri} is not what was published.", "See which files differ: tunesmith verify."
        )
    return json.loads(data)


def _origin(package: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 3, 0, 0))
    verified = Text("yes", "green") if package["verified"] else Text("no: nothing will serve it", "bold red")
    labels = package["labels"] or []
    shown = ", ".join(labels[:SHOWN_CLASSES]) + (", ..." if len(labels) > SHOWN_CLASSES else "")
    preprocess = package["preprocess"] or {}
    size = preprocess.get("imageSize", preprocess.get("image_size"))
    for name, value in (
        ("Model", Text(package["name"], "bold")),
        ("Verified", verified),
        ("Digest", Text(package["digest"])),
        ("Network", Text(f"{package['backbone']}, {package['strategy']}, {size} pixels")),
        ("Classes", Text(f"{len(labels)}: {shown}")),
        ("Dataset", Text(package["datasetDigest"])),
        ("Run", Text(package["runKey"])),
        ("Made by", Text(package["createdBy"])),
        ("Address", Text(package["uri"])),
        ("Report", Text(f"{package['uri']}/report.html" if "report.html" in package["files"] else "none")),
    ):
        table.add_row(Text(name, "dim"), value)
    return table


def _metrics(package: dict[str, Any]) -> Table:
    gates = {gate["metric"]: gate for gate in package["gates"]}
    table = Table(box=None, pad_edge=False)
    table.add_column(f"metric on {package['testImages']} test images")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    table.add_column("gate")
    for name, interval in package["metrics"].items():
        low, high = interval.get("low"), interval.get("high")
        between = f"{wording.metric(low)} to {wording.metric(high)}" if low != high else ""
        if between and interval.get("method") == "wilson":
            between += " (Wilson)"
        gate = gates.get(name)
        answer = Text()
        if gate:
            word, style = ("passed", "green") if gate["passed"] else ("failed", "red")
            answer = Text.assemble(f"{gate['limit']}  ", (word, style))
        table.add_row(name, wording.metric(interval.get("value")), between, answer)
    return table


def _files(package: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("file")
    table.add_column("size", justify="right")
    table.add_column("sha256", overflow="ellipsis", no_wrap=True, style="dim")
    for name, entry in package["files"].items():
        table.add_row(name, wording.size(entry["size"]), entry["sha256"])
    return table
