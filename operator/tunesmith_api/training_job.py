"""``TrainingJob``: from labelled images to a verified model.

The parts of the spec live beside this file (``dataset_spec``, ``search_spec``, ``verification_spec``) and are
exported here, so that readers of a spec need one import.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tunesmith_api.dataset_spec import Checks, DatasetSpec, Split
from tunesmith_api.fields import (
    API_VERSION,
    ApiModel,
    Augmentation,
    Fraction,
    Identifier,
    ObjectMeta,
    Placement,
    Precision,
    Quantity,
    Seconds,
    SecretRef,
    StoreUri,
    Strategy,
    Unfreezing,
    WeightsUri,
)
from tunesmith_api.rules import Rule
from tunesmith_api.search_spec import (
    Algorithm,
    Categorical,
    EarlyStopping,
    IntUniform,
    LogUniform,
    Parameter,
    SearchSpace,
    SearchSpec,
    Uniform,
    When,
)
from tunesmith_api.status import TrainingJobStatus
from tunesmith_api.verification_spec import Corruptions, Gate, Objective, VerificationSpec

__all__ = [
    "Algorithm",
    "Backbone",
    "Categorical",
    "Checks",
    "ComputeSpec",
    "Corruptions",
    "DatasetSpec",
    "EarlyStopping",
    "Gate",
    "IntUniform",
    "LogUniform",
    "Objective",
    "Parameter",
    "SearchSpace",
    "SearchSpec",
    "Split",
    "StoreSpec",
    "TrainingJob",
    "TrainingJobSpec",
    "TransferSpec",
    "Uniform",
    "VerificationSpec",
    "When",
]


class Backbone(ApiModel):
    """A pretrained network that the search may build on."""

    rules = (
        Rule(
            "!has(self.weights) || !has(self.weightsUri)",
            "write either weights (torchvision's own) or weightsUri (a file of yours), not both",
        ),
        Rule(
            "!has(self.weightsSecretRef) || has(self.weightsUri)",
            "weightsSecretRef is for weightsUri: add weightsUri or leave it out",
            ".weightsSecretRef",
        ),
    )

    name: Identifier
    """A classification model of torchvision, like resnet50, convnext_tiny or vit_b_16."""
    weights: Identifier | None = None
    """The name of torchvision's weights, like IMAGENET1K_V1; DEFAULT when weightsUri is not given either."""
    weights_uri: WeightsUri | None = None
    """A .safetensors file with the model's state, as s3://, file:// or pvc://."""
    weights_secret_ref: SecretRef | None = None
    """The Secret with the credentials for weightsUri, if it needs any."""

    @property
    def weights_name(self) -> str | None:
        """The name of torchvision's weights, or None when they come from weights_uri."""
        return None if self.weights_uri else self.weights or "DEFAULT"


class TransferSpec(ApiModel):
    """How a pretrained backbone becomes a classifier of the dataset's classes."""

    strategies: Annotated[
        tuple[Strategy, ...],
        Field(min_length=1, max_length=2),
        Rule("self.all(one, self.exists_one(other, other == one))", "each strategy may stand there once"),
    ] = ("LinearProbe", "FineTune")
    """LinearProbe trains a head on frozen features; FineTune then trains the whole network, starting from the
    head. With both, a fine-tuned model is chosen only when it is better beyond noise."""
    image_size: Annotated[int, Field(ge=32, le=1_024)] = 256
    """Width and height of the network's input in pixels."""
    resize: Literal["CenterCrop", "Squash"] = "CenterCrop"
    """CenterCrop resizes the short side to imageSize and cuts the middle square; Squash ignores the shape."""
    max_epochs: Annotated[int, Field(ge=1, le=1_000)] = 12
    """How many epochs a fine-tuning has at most."""
    augmentation: Augmentation = "RandomResizedCrop"
    """How training images are varied."""
    precision: Precision = "Auto"
    """The arithmetic of training; Auto takes BFloat16 where the device gains from it."""
    unfreezing: Unfreezing = "All"
    """All trains every layer from the start; Gradual adds layers from the head down."""
    frozen_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01
    """The first blocks that together hold at most this part of the backbone's weights stay as pretrained:
    edges and colours are the same everywhere, and these blocks cost the most time. 0 trains every layer."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each layer's learning rate is this times the next one's, from the head down."""
    ema: bool = True
    """Keep an exponential moving average of the weights and evaluate that."""
    warmup_fraction: Fraction = 0.1
    """The part of the training during which the learning rate rises; it then falls as a cosine."""
    label_smoothing: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """How much of each label is spread over the other classes."""
    batch_size: Annotated[int, Field(ge=1, le=4_096)] = 32
    """Images in one step of fine-tuning."""


class StoreSpec(ApiModel):
    """Where checkpoints, features, reports and model packages go."""

    uri: StoreUri
    """s3://BUCKET/PREFIX, file:///PATH or pvc://CLAIM/PATH."""
    secret_ref: SecretRef | None = None
    """The Secret with the credentials, if it needs any."""


class ComputeSpec(Placement):
    """What the trainer's pods may use."""

    rules = (
        Rule(
            "!has(self.gpusPerTrial) || self.gpusPerTrial <= double(self.gpus)",
            "gpusPerTrial cannot be more than gpus: raise gpus or lower gpusPerTrial",
            ".gpusPerTrial",
        ),
    )

    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    """GPUs of each pod; 0 trains on the CPU."""
    gpus_per_trial: Annotated[float, Field(gt=0, le=64)] | None = None
    """GPUs of each fine-tuning; a fraction lets several share one. All of them when left out."""
    workers: Annotated[int, Field(ge=0, le=64)] = 0
    """Pods besides the first. More than 0 makes the job a KubeRay RayJob with the same trainer."""
    shared_memory: Quantity | None = None
    """Size of /dev/shm, like 4Gi; follows from memory when left out."""


def _frozen(field: str, what: str) -> Rule:
    return Rule(
        f"self.{field} == oldSelf.{field}",
        f"{what} cannot change once the job exists: create a new TrainingJob with the new value",
        f".{field}",
        "FieldValueForbidden",
    )


class TrainingJobSpec(ApiModel):
    """What to train on, what to try, what is good enough, and where the result goes."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.search.algorithm.name != 'PBT' || "
            "('FineTune' in self.transfer.strategies && self.search.maxFineTuneTrials > 0)",
            "PBT changes running fine-tunings: add FineTune to transfer.strategies, with maxFineTuneTrials "
            "above 0, or choose another algorithm",
            ".search.algorithm.name",
        ),
        Rule(
            "'LinearProbe' in self.transfer.strategies || self.search.maxFineTuneTrials > 0",
            "with FineTune as the only strategy maxFineTuneTrials must be at least 1",
            ".search.maxFineTuneTrials",
        ),
        Rule(
            "self.search.parameters.all(one, one.name != 'strategy' || !has(one.searchSpace.categorical) || "
            "one.searchSpace.categorical.choices.all(choice, choice in self.transfer.strategies))",
            "the choices of the parameter strategy must be among transfer.strategies",
            ".search.parameters",
        ),
        Rule(
            "self.search.parameters.all(one, one.name != 'backbone' || !has(one.searchSpace.categorical) || "
            "one.searchSpace.categorical.choices.all(choice, "
            "self.backbones.exists(backbone, backbone.name == choice)))",
            "the choices of the parameter backbone must be names in backbones",
            ".search.parameters",
        ),
        Rule(
            "self.search.parameters.all(one, !has(one.when) || one.when.parameter != 'strategy' || "
            "one.when.__in__.all(value, value in self.transfer.strategies))",
            "when.in must list strategies of transfer.strategies",
            ".search.parameters",
        ),
        Rule(
            "self.search.parameters.all(one, !has(one.when) || one.when.parameter != 'backbone' || "
            "one.when.__in__.all(value, self.backbones.exists(backbone, backbone.name == value)))",
            "when.in must list names of backbones",
            ".search.parameters",
        ),
        Rule(
            "self.compute.workers == 0 || !self.store.uri.startsWith('file://')",
            "several pods cannot share a file:// store: use s3:// or pvc://, or set compute.workers to 0",
            ".store.uri",
        ),
        _frozen("dataset", "the dataset"),
        _frozen("backbones", "backbones"),
        _frozen("transfer", "transfer"),
        _frozen("objectives", "objectives"),
        _frozen("search", "the search"),
        _frozen("verification", "verification"),
        _frozen("store", "the store"),
        Rule(
            "self.compute == oldSelf.compute || oldSelf.suspend",
            "compute can change only while the job is suspended: set suspend to true first, or create a new "
            "TrainingJob with the new value",
            ".compute",
            "FieldValueForbidden",
        ),
    )

    dataset: DatasetSpec
    """The labelled images."""
    backbones: Annotated[
        tuple[Backbone, ...],
        Field(min_length=1, max_length=8),
        Rule(
            "self.all(one, self.exists_one(other, other.name == one.name))",
            "each backbone may stand in the list once",
        ),
    ] = Field(default_factory=lambda: (Backbone(name="mobilenet_v2", weights="IMAGENET1K_V1"),))
    """Pretrained networks; the search chooses among them."""
    transfer: TransferSpec = Field(default_factory=TransferSpec)
    """How a backbone becomes a classifier."""
    objectives: Annotated[
        tuple[Objective, ...],
        Field(min_length=1, max_length=3),
        Rule(
            "self.all(one, self.exists_one(other, other.metric == one.metric))",
            "each metric may stand in objectives once",
        ),
        Rule(
            "self.size() == 0 || self.filter(one, has(one.goal)).size() <= (has(self[0].goal) ? 1 : 0)",
            "the search ends with the goal of the first objective only: leave the others' goals out, or "
            "write gates in verification.gates",
        ),
    ] = Field(default_factory=lambda: (Objective(metric="accuracy", direction="Maximize"),))
    """What the search improves. The first is the primary one: macroF1, worstClassRecall and calibrationError
    lead the search themselves, for all others the held-out likelihood does. The others are measured and
    reported, and decide nothing."""
    search: SearchSpec = Field(default_factory=SearchSpec)
    """Which hyper-parameters are tried, how, and for how long."""
    verification: VerificationSpec = Field(default_factory=VerificationSpec)
    """How the chosen model is judged."""
    store: StoreSpec
    """Where everything that the job makes is kept."""
    compute: ComputeSpec = Field(default_factory=ComputeSpec)
    """What the pods may use."""
    suspend: bool = False
    """True stops the pods and keeps everything; false goes on from there."""
    backoff_limit: Annotated[int, Field(ge=0, le=100)] = 3
    """How often a failed pod is started again before the job fails. Evictions do not count."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    """The job fails when it has run for this long; unset is for ever."""
    ttl_seconds_after_finished: Seconds | None = None
    """Delete the pods this long after the end; the TrainingJob itself always stays."""


class TrainingJob(ApiModel):
    """Turns labelled images into a verified model: checks the data, searches hyper-parameters over pretrained
    backbones, judges the best model on images it has never seen, and publishes it as a package.
    """  # noqa: D205

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.metadata.name.size() <= 63 && "
            "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name names pods and labels too: use at most 63 lower-case letters, digits and dashes",
            ".metadata.name",
        ),
    )
    KIND: ClassVar[str] = "TrainingJob"

    api_version: Literal["tunesmith.dev/v1alpha1"] = API_VERSION
    kind: Literal["TrainingJob"] = "TrainingJob"
    metadata: ObjectMeta
    spec: TrainingJobSpec
    status: TrainingJobStatus | None = None

    @property
    def name(self) -> str:
        """The job's name."""
        return self.metadata.name
