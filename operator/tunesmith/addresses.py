"""Relative addresses in a spec mean the folder its file lies in, as they do in every other file format."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from tunesmith_api.training_job import TrainingJob

FILE = "file://"
TORCHVISION = "torchvision://"


def absolute(uri: str, folder: Path) -> str:
    """The address with its relative path, if it has one, taken from ``folder``.

    ``file://./photos`` becomes ``file:///home/me/photos``, the ``root`` of ``torchvision://`` likewise;
    absolute addresses and other kinds stay as they are.
    """
    if uri.startswith(FILE):
        path = uri.removeprefix(FILE)
        return uri if path.startswith(("/", "localhost/")) else FILE + quote(_below(unquote(path), folder))
    if uri.startswith(TORCHVISION):
        name, mark, query = uri.partition("?")
        options = dict(parse_qsl(query))
        if mark and "root" in options and not options["root"].startswith("/"):
            return f"{name}?{urlencode(options | {'root': _below(options['root'], folder)}, safe='/')}"
    return uri


def _below(path: str, folder: Path) -> str:
    # not Path.resolve, which follows links: the address stays the one a person recognises
    return os.path.normpath(folder.absolute() / path)


def with_absolute_addresses(job: TrainingJob, folder: Path) -> TrainingJob:
    """The job with every ``uri`` and ``weightsUri`` of its spec made absolute."""
    document = job.to_dict()
    return TrainingJob.model_validate({**document, "spec": _resolved(document["spec"], folder)})


def _resolved(value: Any, folder: Path) -> Any:
    if isinstance(value, Mapping):
        return {
            key: absolute(item, folder) if key in ("uri", "weightsUri") else _resolved(item, folder)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_resolved(item, folder) for item in value]
    return value
