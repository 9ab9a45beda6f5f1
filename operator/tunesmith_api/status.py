"""What Tunesmith answers: conditions and the two statuses. Everything is bounded."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, Field, PlainSerializer, model_validator

from tunesmith_api.fields import ApiModel, Count, Digest, Metric, ShortText, Text

TOP_TRIALS = 10
"""How many trials status.search.top holds."""
HISTORY_LENGTH = 10
"""How many revisions status.history holds."""


def _whole_seconds(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)


Time = Annotated[
    AwareDatetime,
    AfterValidator(_whole_seconds),
    PlainSerializer(lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%SZ"), return_type=str, when_used="json"),
]
"""A moment in UTC to the second, as metav1.Time."""

Metrics = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[float, Field(allow_inf_nan=False)]],
    Field(max_length=32),
]
ConditionStatus = Literal["True", "False", "Unknown"]


class Condition(ApiModel):
    """One aspect of the resource's state, as metav1.Condition."""

    type: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z]+$")]
    """Which aspect, in CamelCase."""
    status: ConditionStatus
    """True, False or Unknown."""
    observed_generation: Count | None = None
    """The metadata.generation that this was said of."""
    last_transition_time: Time
    """When the status last changed."""
    reason: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z]+$")]
    """A word to search for."""
    message: Annotated[str, Field(max_length=4_096)] = ""
    """What is the case and what to do next."""


Conditions = Annotated[
    tuple[Condition, ...],
    Field(
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]


def with_condition(conditions: tuple[Condition, ...], new: Condition) -> tuple[Condition, ...]:
    """The conditions with ``new`` in place of the one of its type.

    As with Kubernetes' own SetStatusCondition, lastTransitionTime stays while the status is the same.
    """
    old = next((one for one in conditions if one.type == new.type), None)
    if old is None:
        return (*conditions, new)
    if old.status == new.status:
        new = new.model_copy(update={"last_transition_time": old.last_transition_time})
    return tuple(new if one.type == new.type else one for one in conditions)


# TrainingJob


class Splits(ApiModel):
    """Images in each split."""

    train: Count = 0
    """Images that the models learn from."""
    validation: Count = 0
    """Images on which trials are compared."""
    test: Count = 0
    """Images on which the chosen model is verified."""


class FindingCount(ApiModel):
    """Something a check found in the dataset."""

    check: Annotated[str, Field(min_length=1, max_length=64)]
    """What was looked for, like near-duplicate."""
    count: Count
    """How many images it was found in."""
    policy: Annotated[str, Field(max_length=32)]
    """What was done about it, in the words of spec.dataset.checks."""


class DatasetStatus(ApiModel):
    """The dataset as it was found."""

    digest: Digest | None = None
    """Stands for the images, labels and split; the same on every machine.
    Unset when the checks refuse them."""
    images: Count
    """Images that are used."""
    classes: Count
    """Classes that are used."""
    skipped: Count = 0
    """Images that are left out."""
    splits: Splits = Field(default_factory=Splits)
    """Images in each split."""
    findings: Annotated[tuple[FindingCount, ...], Field(max_length=32)] = ()
    """What the checks found; the report shows examples."""


class TrialStatus(ApiModel):
    """A trial in short."""

    id: Annotated[str, Field(min_length=1, max_length=64)]
    """The trial's name in the ledger and the report."""
    strategy: Annotated[str, Field(max_length=32)]
    """LinearProbe or FineTune."""
    backbone: Annotated[str, Field(max_length=64)]
    """The network it builds on."""
    parameters: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=64)]], Field(max_length=32)
    ] = Field(default_factory=dict)
    """Its hyper-parameters, as strings."""
    metrics: Metrics = Field(default_factory=dict)
    """Its metrics on the validation split."""
    score: Annotated[str, Field(max_length=32)] = ""
    """The primary objective on validation, like 0.9624; unset where a search cannot measure it."""


class SearchStatus(ApiModel):
    """How the search goes."""

    trials: Count = 0
    """Trials begun; the last training of the chosen one on all images is none."""
    running: Count = 0
    """Trials going on."""
    succeeded: Count = 0
    """Trials that had all their epochs."""
    stopped: Count = 0
    """Trials that early stopping or the end of the search left without all their epochs."""
    failed: Count = 0
    """Trials that failed; the report says why."""
    best: TrialStatus | None = None
    """The trial that the model comes from, once it is chosen; before that the best so far."""
    top: Annotated[tuple[TrialStatus, ...], Field(max_length=TOP_TRIALS)] = ()
    """The best trials, the first is the best; heads and fine-tunings are compared among themselves only."""


class GateStatus(ApiModel):
    """How a gate was answered."""

    metric: Metric
    """What was measured."""
    limit: Annotated[str, Field(max_length=64)]
    """The limit as it was written, like ">= 0.9" or "champion + 0.01"."""
    value: float | None = None
    """What was measured; unset when it could not be."""
    passed: bool
    """Whether the model met the limit."""
    message: Text = ""
    """The same as a sentence."""


class VerificationStatus(ApiModel):
    """How good the model is on the test split."""

    metrics: Metrics = Field(default_factory=dict)
    """Metrics on the test split."""
    gates: Annotated[tuple[GateStatus, ...], Field(max_length=16)] = ()
    """One answer for each gate."""


class ModelStatus(ApiModel):
    """The model package."""

    uri: Text
    """Where it lies."""
    digest: Digest
    """The sha256 of its manifest."""
    verified: bool
    """Whether it passed its gates; nothing serves it otherwise."""
    revision: Annotated[str, Field(max_length=12)] = ""
    """The first 12 digits of the digest, for people."""

    @model_validator(mode="before")
    @classmethod
    def _with_revision(cls, data: Any) -> Any:
        return _named_by_digest(data, 12)


def _named_by_digest(data: Any, length: int) -> Any:
    """Fills ``revision`` from ``digest`` where it is not given."""
    if isinstance(data, Mapping) and not data.get("revision") and isinstance(data.get("digest"), str):
        return {**data, "revision": data["digest"].removeprefix("sha256:")[:length]}
    return data


Phase = Literal[
    "Pending",
    "Queued",
    "Preparing",
    "Searching",
    "Verifying",
    "Publishing",
    "Succeeded",
    "Failed",
    "Suspended",
]


class TrainingJobStatus(ApiModel):
    """How the job goes and what came of it."""

    observed_generation: Count | None = None
    """The metadata.generation that this status is about."""
    conditions: Conditions = ()
    """Admitted, DataReady, SearchComplete, Verified, Succeeded, Failed, Suspended."""
    phase: Phase | None = None
    """Where the job is, in one word for people; programs read the conditions."""
    start_time: Time | None = None
    """When the first pod started."""
    completion_time: Time | None = None
    """When the job ended, well or not."""
    dataset: DatasetStatus | None = None
    """The dataset as it was found."""
    search: SearchStatus | None = None
    """How the search goes."""
    verification: VerificationStatus | None = None
    """How good the model is."""
    model: ModelStatus | None = None
    """The model package."""
    report_uri: Text | None = None
    """The report for people."""
    gpu_seconds: Annotated[float, Field(ge=0)] | None = None
    """GPU time used, over all pods."""
    restarts: Count = 0
    """How often the trainer went on in a new pod or process."""


# ModelDeployment


class RevisionStatus(ApiModel):
    """A revision that gets requests."""

    revision: Annotated[str, Field(min_length=1, max_length=63)]
    """Its InferenceService."""
    uri: Text
    """Its model package."""
    digest: Digest
    """The package's digest."""


class CanaryStatus(RevisionStatus):
    """The revision on its way in."""

    weight: Annotated[int, Field(ge=0, le=100)] = 0
    """Percent of the requests it answers."""
    mirrored: Annotated[int, Field(ge=0, le=100)] = 0
    """Percent of the requests it gets copies of."""
    step: Annotated[int, Field(ge=0, le=64)] = 0
    """The index in rollout.steps."""
    since: Time | None = None
    """When this step began."""


class HistoryEntry(ApiModel):
    """A revision of the past."""

    revision: Annotated[str, Field(min_length=1, max_length=63)]
    """Its InferenceService."""
    uri: Text = ""
    """Its model package."""
    digest: Digest
    """The package's digest."""
    outcome: Literal["Promoted", "RolledBack", "Rejected", "Superseded"]
    """What became of it."""
    reason: Annotated[str, Field(max_length=64)] = ""
    """Why, in a word."""
    message: Text = ""
    """Why, in a sentence."""
    when: Time
    """When that was."""


class DriftStatus(ApiModel):
    """How far the last window of requests is from the reference."""

    score: float
    """The drift statistic of the last full window."""
    threshold: float
    """Above this the inputs are not stable."""
    since: Time | None = None
    """When the score last crossed the threshold."""


class ModelDeploymentStatus(ApiModel):
    """What is served and how it does."""

    observed_generation: Count | None = None
    """The metadata.generation that this status is about."""
    conditions: Conditions = ()
    """Ready, Progressing, Healthy, InputsStable."""
    url: Text | None = None
    """Where predictions are to be had."""
    stable: RevisionStatus | None = None
    """The revision that answers."""
    canary: CanaryStatus | None = None
    """The revision on its way in."""
    history: Annotated[tuple[HistoryEntry, ...], Field(max_length=HISTORY_LENGTH)] = ()
    """Revisions of the past, the newest first."""
    drift: DriftStatus | None = None
    """How far the inputs are from the reference."""
    replicas: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Pods that answer."""
    selector: ShortText | None = None
    """The label selector of these pods, for autoscalers."""
