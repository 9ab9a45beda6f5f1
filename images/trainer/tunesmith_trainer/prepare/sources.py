"""Finds out what lies at ``spec.dataset.uri`` and lists it, without reading any image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import quote

from tunesmith_api.dataset_spec import DatasetSpec
from tunesmith_api.reasons import DatasetInvalid, DatasetMissing
from tunesmith_api.training_job import TrainingJobSpec
from tunesmith_package.store import PATIENCE_SECONDS, Store, open_store
from tunesmith_trainer.prepare.files import (
    PACKED_EXTENSIONS,
    SHARD_EXTENSION,
    TABLE_EXTENSIONS,
    Files,
    list_files,
)
from tunesmith_trainer.prepare.folder import list_folder, split_folders
from tunesmith_trainer.prepare.manifest import list_manifest
from tunesmith_trainer.prepare.nesting import check_apart
from tunesmith_trainer.prepare.objects import ObjectSource
from tunesmith_trainer.prepare.shards import ShardSource, list_shards
from tunesmith_trainer.prepare.source import Listing, Source
from tunesmith_trainer.prepare.torchvision_source import TorchvisionSource, files_root, list_torchvision

TORCHVISION = "torchvision://"
_SHARD_EXTENSIONS = (SHARD_EXTENSION, *PACKED_EXTENSIONS)


def list_source(
    spec: TrainingJobSpec | DatasetSpec,
    credentials: Mapping[str, str] | None = None,
    *,
    patience_seconds: float = PATIENCE_SECONDS,
    on_wait: Callable[[str], None] | None = None,
) -> Listing:
    """List the dataset of a spec.

    Args:
        spec: a job's spec or its dataset part.
        credentials: boto3's variables for ``s3://``.
        patience_seconds: how long the store may stay away.
        on_wait: told a sentence while the store does not answer.

    Raises:
        DatasetMissing: nothing lies there.
        DatasetInvalid: what lies there is no dataset.
        SpecInvalid: the job's store lies in the dataset, or the dataset in the store's own folders.
        StoreError: the store cannot be read.
    """
    if isinstance(spec, TrainingJobSpec):
        if (listed := _listed_root(spec.dataset)) is not None:
            check_apart(listed, spec.store.uri)
        spec = spec.dataset
    dataset = spec
    if dataset.uri.startswith(TORCHVISION):
        _without_slices(dataset)
        return list_torchvision(dataset.uri)
    root, name = split_address(dataset.uri)
    store = open_store(root, credentials=credentials, patience_seconds=patience_seconds, on_wait=on_wait)
    return _list_store(dataset, store, list_files(store), name)


def open_source(
    uri: str,
    format: str,
    credentials: Mapping[str, str] | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Source:
    """Open a source to read single images of it again; nothing is listed."""
    if uri.startswith(TORCHVISION):
        return TorchvisionSource(uri)
    store = open_store(split_address(uri)[0], credentials=credentials, patience_seconds=patience_seconds)
    return ShardSource(store) if format == "WebDataset" else ObjectSource(store, format)


def split_address(uri: str) -> tuple[str, str]:
    """The root that paths are relative to, and the name of the file that the address ends in, if any."""
    root, _, name = uri.rpartition("/")
    if name.lower().endswith((*TABLE_EXTENSIONS, *_SHARD_EXTENSIONS)):
        return root, name
    return uri, ""


def _listed_root(dataset: DatasetSpec) -> str | None:
    """Address of the folder that is listed whole; None where only one shard is."""
    if dataset.uri.startswith(TORCHVISION):
        return f"file://{quote(str(files_root(dataset.uri)))}"
    root, name = split_address(dataset.uri)
    return None if name.lower().endswith(_SHARD_EXTENSIONS) else root


def _list_store(dataset: DatasetSpec, store: Store, files: Files, name: str) -> Listing:
    tables = [each.key for each in files.tables]
    if name and name not in (*tables, *(each.key for each in files.shards), *files.packed):
        raise DatasetMissing(f"There is no {name} at {store.uri}.", "Check spec.dataset.uri.")
    match _format(dataset, files, tables, name):
        case "Manifest":
            return list_manifest(store, files, name or _only_table(store, tables), dataset.slice_columns)
        case "WebDataset":
            if name:
                files = files.only_shard(name)
            return list_shards(store, files, dataset.slice_columns)
        case _:
            _without_slices(dataset)
            return list_folder(store, files)


def _without_slices(dataset: DatasetSpec) -> None:
    if dataset.slice_columns:
        raise DatasetInvalid(
            "sliceColumns name columns of a manifest, and this dataset has none.",
            "Write a manifest with these columns, or leave sliceColumns out.",
        )


def _format(dataset: DatasetSpec, files: Files, tables: list[str], name: str) -> str:
    """Look what it is.

    Class folders win over a table beside them, unless that is called manifest, and over shards beside them:
    these are the dataset where fewer than two folders hold images.
    """
    if dataset.format != "Auto":
        return dataset.format
    if name:
        return "WebDataset" if name.lower().endswith(_SHARD_EXTENSIONS) else "Manifest"
    sharded = bool(files.shards or files.packed)
    if sharded and files.table.num_rows == 0:
        return "WebDataset"
    if _manifests(tables) or (len(tables) == 1 and len(files.folders) < 2):
        return "Manifest"
    if sharded and len(files.folders) < 2 and not split_folders(files.folders):
        return "WebDataset"
    return "Folder"


def _manifests(tables: list[str]) -> list[str]:
    return [each for each in tables if each.lower().rpartition(".")[0] == "manifest"]


def _only_table(store: Store, tables: list[str]) -> str:
    choice = _manifests(tables) or tables
    if len(choice) != 1:
        found = f"several tables ({', '.join(choice[:5])})" if choice else "no CSV or Parquet file"
        raise DatasetInvalid(
            f"{store.uri} holds {found}.", "Point spec.dataset.uri at the one that lists the images."
        )
    return choice[0]
