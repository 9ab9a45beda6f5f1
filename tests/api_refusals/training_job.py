"""TrainingJobs that break a rule, and changes of them that are refused."""

from collections.abc import Mapping
from typing import Any

from tests.api_refusals.refusal import Refusal, job, update

_FREE = "negativeLogLikelihood, latencyP95Milliseconds and modelSizeMegabytes"
JOB_RULES = (
    job(
        "a dataset from the web",
        {"spec.dataset.uri": "https://example.org/flowers.zip"},
        'spec.dataset.uri: Invalid value: "https://example.org/flowers.zip": a dataset is read from '
        "s3://BUCKET/PREFIX, file:///PATH, pvc://CLAIM/PATH or torchvision://NAME; copy what lies elsewhere "
        "into "
        "one of these",
    ),
    job(
        "a slice column twice",
        {"spec.dataset.sliceColumns": ["site", "site"]},
        "spec.dataset.sliceColumns: Invalid value: each column of sliceColumns may stand there once",
    ),
    job(
        "splits that leave too little for training",
        {"spec.dataset.split": {"validation": 0.5, "test": 0.4}},
        "spec.dataset.split: Invalid value: validation and test together must leave more than a tenth for "
        "training; write for example validation: 0.15, test: 0.15",
    ),
    job(
        "weights from two places",
        {
            "spec.backbones": [
                {"name": "resnet50", "weights": "DEFAULT", "weightsUri": "s3://w/r.safetensors"}
            ]
        },
        "spec.backbones[0]: Invalid value: write either weights (torchvision's own) or weightsUri (a file of "
        "yours), not both",
    ),
    job(
        "a Secret for torchvision's own weights",
        {"spec.backbones": [{"name": "resnet50", "weightsSecretRef": {"name": "w"}}]},
        "spec.backbones[0].weightsSecretRef: Invalid value: weightsSecretRef is for weightsUri: add "
        "weightsUri or "
        "leave it out",
    ),
    job(
        "weights as a pickle",
        {"spec.backbones": [{"name": "resnet50", "weightsUri": "s3://w/r.pth"}]},
        'spec.backbones[0].weightsUri: Invalid value: "s3://w/r.pth": weights must be a .safetensors file; '
        "convert .pth and .bin files with safetensors.torch.save_file",
    ),
    job(
        "weights from the web",
        {"spec.backbones": [{"name": "resnet50", "weightsUri": "https://w/r.safetensors"}]},
        'spec.backbones[0].weightsUri: Invalid value: "https://w/r.safetensors": weights are read from '
        "s3://, "
        "file:// or pvc://; copy what lies elsewhere into one of these",
    ),
    job(
        "the same backbone twice",
        {"spec.backbones": [{"name": "resnet50"}, {"name": "resnet50", "weights": "IMAGENET1K_V2"}]},
        "spec.backbones: Invalid value: each backbone may stand in the list once",
    ),
    job(
        "a strategy twice",
        {"spec.transfer.strategies": ["FineTune", "FineTune"]},
        "spec.transfer.strategies: Invalid value: each strategy may stand there once",
    ),
    job(
        "an objective in the wrong direction",
        {"spec.objectives": [{"metric": "calibrationError", "direction": "Maximize"}]},
        "spec.objectives[0].direction: Invalid value: negativeLogLikelihood, calibrationError, "
        "latencyP95Milliseconds and modelSizeMegabytes are better when smaller (Minimize), all others when "
        "larger "
        "(Maximize); leave direction out or write the other",
    ),
    job(
        "a goal that no search can see",
        {"spec.objectives": [{"metric": "latencyP95Milliseconds", "goal": 80}]},
        "spec.objectives[0].goal: Invalid value: a search measures none of worstSliceAccuracy, "
        "corruptionAccuracy, latencyP95Milliseconds, modelSizeMegabytes, so it would never see this goal: "
        "leave goal out and write a gate in verification.gates",
    ),
    job(
        "a goal of a further objective",
        {"spec.objectives": [{"metric": "accuracy"}, {"metric": "macroF1", "goal": 0.9}]},
        "spec.objectives: Invalid value: the search ends with the goal of the first objective only: leave "
        "the others' goals out, or write gates in verification.gates",
    ),
    job(
        "a goal in percent",
        {"spec.objectives": [{"metric": "accuracy", "goal": 97}]},
        f"spec.objectives[0].goal: Invalid value: only {_FREE} can be above 1; all others are fractions: "
        "write "
        "0.97 for 97 %",
    ),
    job(
        "a metric twice among the objectives",
        {"spec.objectives": [{"metric": "accuracy", "goal": 0.9}, {"metric": "accuracy"}]},
        "spec.objectives: Invalid value: each metric may stand in objectives once",
    ),
    job(
        "a gate without a limit",
        {"spec.verification.gates": [{"metric": "accuracy"}]},
        "spec.verification.gates[0]: Invalid value: a gate has exactly one of minimum, maximum and "
        "relativeTo",
    ),
    job(
        "a gate with two limits",
        {"spec.verification.gates": [{"metric": "accuracy", "minimum": 0.9, "relativeTo": "Champion"}]},
        "spec.verification.gates[0]: Invalid value: a gate has exactly one of minimum, maximum and "
        "relativeTo",
    ),
    job(
        "a minimum for an error",
        {"spec.verification.gates": [{"metric": "calibrationError", "minimum": 0.05}]},
        "spec.verification.gates[0].minimum: Invalid value: this metric is better when smaller: write "
        "maximum "
        "instead of minimum",
    ),
    job(
        "a maximum for an accuracy",
        {"spec.verification.gates": [{"metric": "accuracy", "maximum": 0.9}]},
        "spec.verification.gates[0].maximum: Invalid value: this metric is better when larger: write minimum "
        "instead of maximum",
    ),
    job(
        "a gate in percent",
        {"spec.verification.gates": [{"metric": "accuracy", "minimum": 90}]},
        f"spec.verification.gates[0]: Invalid value: only {_FREE} can be above 1; all others are fractions: "
        "write "
        "0.90 for 90 %",
    ),
    job(
        "a margin over nothing",
        {"spec.verification.gates": [{"metric": "accuracy", "minimum": 0.9, "minimumDelta": 0.01}]},
        "spec.verification.gates[0].minimumDelta: Invalid value: minimumDelta says by how much the champion "
        "must "
        "be beaten: add relativeTo: Champion or leave it out",
    ),
    job(
        "a corruption twice",
        {"spec.verification.corruptions.kinds": ["Blur", "Blur"]},
        "spec.verification.corruptions.kinds: Invalid value: each kind of corruption may stand there once",
    ),
    job(
        "a severity twice",
        {"spec.verification.corruptions.severities": [3, 3]},
        "spec.verification.corruptions.severities: Invalid value: each severity may stand there once",
    ),
    job(
        "a file store for several pods",
        {"spec.store.uri": "file:///models", "spec.compute.workers": 2},
        "spec.store.uri: Invalid value: several pods cannot share a file:// store: use s3:// or pvc://, or "
        "set "
        "compute.workers to 0",
    ),
    job(
        "a node label without a name",
        {"spec.compute.nodeSelector": {"": "a100"}},
        "spec.compute.nodeSelector: Invalid value: the keys of nodeSelector are names of node labels, with 1 "
        "to "
        "317 characters",
    ),
    job(
        "a trial with more GPUs than its pod",
        {"spec.compute": {"gpus": 1, "gpusPerTrial": 1.5}},
        "spec.compute.gpusPerTrial: Invalid value: gpusPerTrial cannot be more than gpus: raise gpus or "
        "lower "
        "gpusPerTrial",
    ),
)


def _frozen(field_name: str, what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Refusal:
    return update(
        f"{field_name} is changed",
        before,
        after,
        f"spec.{field_name}: Forbidden: {what} cannot change once the job exists: create a new TrainingJob "
        "with "
        "the new value",
    )


UPDATES = (
    _frozen("dataset", "the dataset", {}, {"spec.dataset.split.seed": 1}),
    _frozen("backbones", "backbones", {}, {"spec.backbones": [{"name": "resnet50"}]}),
    _frozen("transfer", "transfer", {"spec.transfer.maxEpochs": 3}, {}),
    _frozen("objectives", "objectives", {}, {"spec.objectives": [{"metric": "macroF1"}]}),
    _frozen("search", "the search", {}, {"spec.search.timeBudgetSeconds": 60}),
    _frozen("verification", "verification", {}, {"spec.verification.bootstrapSamples": 0}),
    _frozen("store", "the store", {}, {"spec.store.uri": "s3://other"}),
    update(
        "compute is changed while the job runs",
        {},
        {"spec.compute.memory": "32Gi"},
        "spec.compute: Forbidden: compute can change only while the job is suspended: set suspend to true "
        "first, "
        "or create a new TrainingJob with the new value",
    ),
)
