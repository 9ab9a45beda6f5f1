"""The objects that a TrainingJob owns, as YAML that a person can read: `golden/operator_children.yaml`."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tests.operator_samples import SETTINGS, UID, training_job

from tunesmith_api.reasons import EXIT_CODES, RETRYABLE, Reason
from tunesmith_api.training_job import ComputeSpec, TrainingJob
from tunesmith_api.validation import load_documents
from tunesmith_operator.training_job.children import (
    FINAL_CODES,
    batch_job,
    child_name,
    claims,
    companions,
    compute_mark,
    config_map,
    shared_memory,
)

GOLDEN = Path(__file__).parent / "golden" / "operator_children.yaml"
FULL = Path(__file__).parents[2] / "manifests" / "examples" / "training-job-full.yaml"


def test_children_of_the_full_example_are_the_golden_ones() -> None:
    (job,) = load_documents(FULL.read_text())
    assert isinstance(job, TrainingJob)
    job = job.model_copy(update={"metadata": job.metadata.model_copy(update={"uid": UID})})
    settings = replace(SETTINGS, image_pull_secrets=("registry",), image_pull_policy="IfNotPresent")
    made = [body for _, body in companions(job)] + [batch_job(job, settings)]
    assert made == list(yaml.safe_load_all(GOLDEN.read_text()))


@pytest.mark.parametrize("length", [1, 55, 56, 63])
def test_child_names_fit_labels_and_differ(length: int) -> None:
    names = {child_name("a" * length), child_name("a" * (length - 1) + "b")}
    assert len(names) == 2
    assert all(len(name) <= 63 and name.endswith("-trainer") for name in names)


@pytest.mark.parametrize(
    ("compute", "size"),
    [
        ({}, "2Gi"),
        ({"memory": "16Gi"}, "4096Mi"),
        ({"memory": "1G"}, "238Mi"),
        ({"memory": "64Ki"}, "1Mi"),
        ({"memory": "16Gi", "sharedMemory": "3Gi"}, "3Gi"),
    ],
)
def test_shared_memory_is_what_the_spec_says_or_a_quarter(compute: dict[str, str], size: str) -> None:
    assert shared_memory(ComputeSpec.model_validate(compute)) == size


def test_every_claim_of_the_addresses_is_mounted_once() -> None:
    job = training_job({"dataset": {"uri": "pvc://photos/flowers"}, "store": {"uri": "pvc://photos/models"}})
    assert claims(job) == ("photos",)
    pod = batch_job(job, SETTINGS)["spec"]["template"]["spec"]
    mounted = {one["mountPath"]: one["name"] for one in pod["containers"][0]["volumeMounts"]}
    volumes = {one["name"]: one for one in pod["volumes"]}
    claim = volumes[mounted["/mnt/pvc/photos"]]["persistentVolumeClaim"]
    assert claim == {"claimName": "photos"}


def test_trainer_is_given_the_folders_where_its_claims_are_mounted() -> None:
    job = training_job({"dataset": {"uri": "pvc://photos/flowers"}, "store": {"uri": "pvc://models"}})
    spec = json.loads(config_map(job)["data"]["spec.json"])["spec"]
    assert spec["dataset"]["uri"] == "file:///mnt/pvc/photos/flowers"
    assert spec["store"]["uri"] == "file:///mnt/pvc/models"


def test_exit_codes_are_ignored_counted_or_final_and_none_is_forgotten() -> None:
    rules = batch_job(training_job(), SETTINGS)["spec"]["podFailurePolicy"]["rules"]
    by_action = {rule["action"]: rule["onExitCodes"]["values"] for rule in rules if "onExitCodes" in rule}
    assert by_action == {"Ignore": [EXIT_CODES[Reason.INTERRUPTED]], "FailJob": FINAL_CODES}
    counted = set(EXIT_CODES.values()) - set(FINAL_CODES) - {EXIT_CODES[Reason.INTERRUPTED]}
    assert counted == {EXIT_CODES[one] for one in RETRYABLE if one in EXIT_CODES} - {75}


def test_compute_mark_follows_compute_and_nothing_else() -> None:
    one, other = training_job({"compute": {"memory": "1Gi"}}), training_job({"compute": {"memory": "2Gi"}})
    later = training_job({"compute": {"memory": "1Gi"}, "backoffLimit": 9})
    assert compute_mark(one.spec.compute) == compute_mark(later.spec.compute)
    assert compute_mark(one.spec.compute) != compute_mark(other.spec.compute)
