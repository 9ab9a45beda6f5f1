"""A model is named by its address, its folder, or the TrainingJob that made it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.model_reference import ModelReference, model_reference
from tunesmith_api.reasons import PackageInvalid

DIGEST = "sha256:" + "3f" * 32
OTHER = "sha256:" + "00" * 32
JOB: dict[str, Any] = {
    "kind": "TrainingJob",
    "status": {"model": {"uri": "s3://models/flowers/3f", "digest": DIGEST, "verified": True}},
}


def test_address_is_taken_as_it_is() -> None:
    assert model_reference("s3://models/3f", DIGEST) == ModelReference("s3://models/3f", DIGEST)


def test_folder_becomes_an_address(tmp_path: Path) -> None:
    assert model_reference(str(tmp_path)) == ModelReference(tmp_path.as_uri(), None)


@pytest.mark.parametrize("asked", [None, DIGEST], ids=["no digest asked for", "the same digest asked for"])
def test_training_job_brings_address_and_digest(tmp_path: Path, asked: str | None) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(JOB))
    assert model_reference(str(path), asked) == ModelReference("s3://models/flowers/3f", DIGEST)


@pytest.mark.parametrize(
    ("text", "digest", "words"),
    [
        pytest.param(json.dumps(JOB), OTHER, DIGEST, id="another digest than the one asked for"),
        pytest.param(
            json.dumps({"kind": "TrainingJob"}), None, "no TrainingJob with a model", id="no model yet"
        ),
        pytest.param("\x00\x01", None, "neither", id="no text at all"),
    ],
)
def test_file_that_names_no_such_model_is_refused(
    tmp_path: Path, text: str, digest: str | None, words: str
) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(PackageInvalid, match=words):
        model_reference(str(path), digest)
