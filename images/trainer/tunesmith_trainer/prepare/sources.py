"""Finds out what lies at ``spec.dataset.uri`` and lists it, without reading any image."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tunesmith_api.dataset_spec import DatasetSpec
from tunesmith_api.training_job import TrainingJobSpec
from tunesmith_package.store import open_store
from tunesmith_trainer.prepare.folder import list_folder
from tunesmith_trainer.prepare.objects import ObjectSource
from tunesmith_trainer.prepare.source import Fingerprint, Listing, Source
from tunesmith_trainer.prepare.torchvision_source import TorchvisionSource, list_torchvision

TORCHVISION = "torchvision://"


def list_source(
    spec: TrainingJobSpec | DatasetSpec,
    credentials: Mapping[str, str] | None = None,
    *,
    on_wait: Callable[[str], None] | None = None,
) -> Listing:
    """List the dataset of a spec.

    Args:
        spec: a job's spec or its dataset part.
        credentials: boto3's variables for ``s3://``.
        on_wait: told a sentence while the store does not answer.

    Raises:
        DatasetMissing: nothing lies there.
        DatasetInvalid: what lies there is no dataset.
        StoreError: the store cannot be read.
    """
    dataset = spec.dataset if isinstance(spec, TrainingJobSpec) else spec
    if dataset.uri.startswith(TORCHVISION):
        return list_torchvision(dataset.uri)
    return _list_store(dataset, credentials, on_wait)


def open_source(uri: str, format: str, credentials: Mapping[str, str] | None = None) -> Source:
    """Open a source to read single images of it again; nothing is listed."""
    if uri.startswith(TORCHVISION):
        return TorchvisionSource(uri)
    return ObjectSource(open_store(uri, credentials=credentials), format)


def _list_store(
    dataset: DatasetSpec, credentials: Mapping[str, str] | None, on_wait: Callable[[str], None] | None
) -> Listing:
    store = open_store(dataset.uri, credentials=credentials, on_wait=on_wait)
    return list_folder(store, Fingerprint("Folder"), iter(store.list()))
