"""``ModelDeployment``: a verified model behind a URL, replaced carefully and watched."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tunesmith_api.fields import (
    API_VERSION,
    ApiModel,
    Digest,
    Name,
    ObjectMeta,
    Placement,
    Seconds,
    SecretRef,
    StoreUri,
)
from tunesmith_api.rules import Rule
from tunesmith_api.status import ModelDeploymentStatus

AnalysisMetric = Literal[
    "errorRate",
    "latencyP50Milliseconds",
    "latencyP95Milliseconds",
    "latencyP99Milliseconds",
    "predictionShift",
    "feedbackAccuracy",
]


class ModelSource(ApiModel):
    """Which model is served."""

    rules = (
        Rule(
            "has(self.trainingJob) != has(self.uri)",
            "a model is either trainingJob: NAME (its newest verified model) or uri and digest of a package",
        ),
        Rule(
            "has(self.uri) == has(self.digest)",
            "uri and digest belong together: the digest is what proves that the package is the one you mean",
        ),
        Rule(
            "!has(self.secretRef) || has(self.uri)",
            "secretRef is for uri; a trainingJob's package is read with the Secret of its own store",
            ".secretRef",
        ),
    )

    training_job: Name | None = None
    """A TrainingJob of the same namespace: its newest verified model is served, and followed when a newer one
    appears."""
    uri: StoreUri | None = None
    """A model package, as s3://, pvc:// or file://."""
    digest: Digest | None = None
    """The digest of the package at uri."""
    secret_ref: SecretRef | None = None
    """The Secret with the credentials for uri, if it needs any."""


class Replicas(ApiModel):
    """How many pods answer."""

    rules = (
        Rule(
            "!has(self.maximum) || self.minimum <= self.maximum",
            "minimum cannot be more than maximum: raise maximum or lower minimum",
            ".maximum",
        ),
        Rule(
            "!has(self.target) || has(self.scaleMetric)",
            "target is a value of scaleMetric: add scaleMetric or leave target out",
            ".target",
        ),
        Rule(
            "!has(self.scaleMetric) || has(self.maximum)",
            "scaleMetric chooses between minimum and maximum: add maximum or leave scaleMetric out",
            ".scaleMetric",
        ),
    )

    minimum: Annotated[int, Field(ge=1, le=1_000)] = 1
    """Pods that are always there; kubectl scale sets it."""
    maximum: Annotated[int, Field(ge=1, le=1_000)] | None = None
    """Pods there are at most; as many as minimum when left out."""
    scale_metric: Literal["concurrency", "rps", "cpu", "memory"] | None = None
    """What decides how many there are: requests at once, requests a second, or the use of CPU or memory."""
    target: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """The value of scaleMetric for each pod; for cpu and memory in percent of the request."""


class ServingCompute(Placement):
    """What each predictor pod may use."""

    gpus: Annotated[int, Field(ge=0, le=8)] = 0
    """GPUs of each pod; 0 predicts on the CPU."""


class Step(ApiModel):
    """A step of a canary."""

    weight: Annotated[int, Field(ge=1, le=100)]
    """Percent of the requests that the new revision answers."""
    hold_seconds: Seconds
    """How long this step lasts at least."""


class Shadow(ApiModel):
    """How a shadow is tried out."""

    percent: Annotated[int, Field(ge=1, le=100)] = 100
    """Percent of the requests that are also sent to the new revision; its answers go nowhere."""
    hold_seconds: Seconds = 600
    """How long it is watched before it takes over."""


class Analysis(ApiModel):
    """A limit that the new revision must keep while it is tried out."""

    rules = (
        Rule("has(self.minimum) != has(self.maximum)", "an analysis has exactly one of minimum and maximum"),
        Rule(
            "!has(self.minimum) || self.metric == 'feedbackAccuracy'",
            "only feedbackAccuracy is better when larger: write maximum instead of minimum",
            ".minimum",
        ),
        Rule(
            "!has(self.maximum) || self.metric != 'feedbackAccuracy'",
            "feedbackAccuracy is better when larger: write minimum instead of maximum",
            ".maximum",
        ),
        Rule(
            "self.metric.startsWith('latency') || ((!has(self.minimum) || self.minimum <= 1.0) && "
            "(!has(self.maximum) || self.maximum <= 1.0))",
            "only latencies can be above 1; all others are fractions: write 0.01 for 1 %",
        ),
        Rule(
            "!has(self.relativeTo) || self.metric.startsWith('latency')",
            "relativeTo is for latencies: leave it out, predictionShift compares with the stable revision "
            "anyway",
            ".relativeTo",
        ),
    )

    metric: AnalysisMetric
    """What is measured on the new revision's pods; predictionShift is how far its predictions are from the
    stable revision's."""
    minimum: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    """The metric must be at least this."""
    maximum: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    """The metric must be at most this."""
    relative_to: Literal["Stable"] | None = None
    """Stable: the limit is a factor, like 1.5, of what the stable revision has over the same time."""


class Rollout(ApiModel):
    """How a new revision takes over."""

    rules = (
        Rule(
            "self.strategy != 'Canary' || has(self.steps)",
            "strategy Canary needs steps: write for example steps: [{weight: 5, holdSeconds: 120}, "
            "{weight: 50, holdSeconds: 120}]",
            ".steps",
            "FieldValueRequired",
        ),
        Rule(
            "self.strategy == 'Canary' || !has(self.steps)",
            "steps belong to strategy Canary: set strategy: Canary or leave steps out",
            ".steps",
        ),
        Rule(
            "self.strategy == 'Shadow' || !has(self.shadow)",
            "shadow belongs to strategy Shadow: set strategy: Shadow or leave shadow out",
            ".shadow",
        ),
        Rule(
            "self.strategy != 'Replace' || !has(self.analysis) || self.analysis.size() == 0",
            "strategy Replace tries nothing out, so analysis would never be read: set strategy: Canary or "
            "Shadow, or leave analysis out",
            ".analysis",
        ),
        Rule(
            "!has(self.approvedRevision) || !has(self.rejectedRevision) || "
            "self.approvedRevision != self.rejectedRevision",
            "a revision is either approved or rejected: remove one of the two",
            ".approvedRevision",
        ),
    )

    strategy: Literal["Canary", "Replace", "Shadow"] = "Replace"
    """Replace switches when the new revision is ready; Canary moves the requests step by step; Shadow first
    sends it copies of the requests. Canary and Shadow need the Gateway API."""
    steps: (
        Annotated[
            tuple[Step, ...],
            Field(min_length=1, max_length=16),
            Rule(
                "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14].all(i, i + 1 >= self.size() || "
                "self[i].weight < self[i + 1].weight)",
                "the weights of steps must rise from step to step",
            ),
        ]
        | None
    ) = None
    """For Canary: the share of the requests at each step; after the last one all of them."""
    shadow: Shadow | None = None
    """For Shadow: how it is tried out."""
    analysis: Annotated[
        tuple[Analysis, ...],
        Field(max_length=16),
        Rule(
            "self.all(one, self.exists_one(other, other.metric == one.metric))",
            "each metric may stand in analysis once",
        ),
    ] = ()
    """Limits that the new revision must keep; otherwise it is rolled back at once and not tried again."""
    minimum_requests: Annotated[int, Field(ge=0, le=1_000_000)] = 200
    """No step ends before the new revision has answered this many requests."""
    approval: Literal["Automatic", "Manual"] = "Automatic"
    """Manual waits after the last step until a person approves the revision."""
    paused: bool = False
    """Nothing moves while this is true: no new revision, no next step, no promotion."""
    approved_revision: Name | None = None
    """A revision that a person vouches for (status.canary.revision): it takes over as soon as it is ready,
    and is tried again after a rejection. ``tunesmith promote`` sets it."""
    rejected_revision: Name | None = None
    """A revision that must not answer: a canary is given up, and the stable one is replaced by the one before
    it. ``tunesmith rollback`` sets it."""
    keep_warm_seconds: Seconds = 600
    """The previous revision stays ready this long after a promotion."""
    progress_deadline_seconds: Annotated[int, Field(ge=1, le=31_536_000)] = 600
    """A revision whose pods are not ready after this time is rejected."""

    @property
    def shadow_or_default(self) -> Shadow:
        """How a shadow is tried out, also where the spec leaves it open."""
        return self.shadow or Shadow()


class Drift(ApiModel):
    """Watches whether the images that arrive look like those the model was trained on."""

    enabled: bool = True
    """Whether to watch."""
    window_requests: Annotated[int, Field(ge=50, le=1_000_000)] = 1_000
    """How many requests are compared with the reference at a time."""
    on_drift: Literal["Report", "Retrain"] = "Report"
    """Report sets the condition InputsStable to False; Retrain also starts spec.retraining."""


class Feedback(ApiModel):
    """Takes true labels for past predictions, to know the accuracy in use."""

    enabled: bool = False
    """Whether the predictor takes feedback."""


class Monitoring(ApiModel):
    """What is watched while the model serves."""

    drift: Drift = Field(default_factory=Drift)
    """Watches the inputs."""
    feedback: Feedback = Field(default_factory=Feedback)
    """Takes true labels."""


class Retraining(ApiModel):
    """Trains again, by the clock or because of drift."""

    training_job: Name
    """The TrainingJob whose spec the new one copies."""
    schedule: (
        Annotated[
            str,
            Field(min_length=9, max_length=128),
            Rule(
                "self.matches('^[-0-9*/,]+ [-0-9*/,]+ [-0-9*/,?]+ [-0-9A-Za-z*/,]+ [-0-9A-Za-z*/,?]+$')",
                'a schedule has the five fields of cron: write for example "0 3 * * 0" for Sundays at three',
            ),
        ]
        | None
    ) = None
    """When to train, in UTC, as the five fields of cron."""
    cooldown_seconds: Seconds = 86_400
    """No new training starts sooner than this after the last one."""


class Explanations(ApiModel):
    """Shows which part of an image decided."""

    enabled: bool = True
    """Whether the predictor answers :explain with class-activation maps."""


class ModelDeploymentSpec(ApiModel):
    """Which model to serve, where, and how it is replaced and watched."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.monitoring.drift.onDrift != 'Retrain' || has(self.retraining)",
            "onDrift: Retrain needs retraining: add retraining: {trainingJob: NAME} or write onDrift: Report",
            ".monitoring.drift.onDrift",
        ),
        Rule(
            "self.monitoring.drift.onDrift != 'Retrain' || self.monitoring.drift.enabled",
            "onDrift: Retrain needs drift to be watched: set drift.enabled to true or write onDrift: Report",
            ".monitoring.drift.onDrift",
        ),
        Rule(
            "!has(self.retraining) || has(self.retraining.schedule) || "
            "self.monitoring.drift.onDrift == 'Retrain'",
            "nothing would ever start retraining: add a schedule or set monitoring.drift.onDrift to Retrain",
            ".retraining",
        ),
        Rule(
            "!has(self.rollout.analysis) || self.monitoring.feedback.enabled || "
            "!self.rollout.analysis.exists(one, one.metric == 'feedbackAccuracy')",
            "feedbackAccuracy needs feedback: set monitoring.feedback.enabled to true or leave it out",
            ".rollout.analysis",
        ),
    )

    model: ModelSource
    """Which model is served."""
    replicas: Replicas = Field(default_factory=Replicas)
    """How many pods answer."""
    compute: ServingCompute = Field(default_factory=ServingCompute)
    """What each pod may use."""
    rollout: Rollout = Field(default_factory=Rollout)
    """How a new revision takes over."""
    monitoring: Monitoring = Field(default_factory=Monitoring)
    """What is watched."""
    retraining: Retraining | None = None
    """When to train again."""
    explanations: Explanations = Field(default_factory=Explanations)
    """Shows which part of an image decided."""


class ModelDeployment(ApiModel):
    """Serves a verified model behind a URL, brings in new ones carefully and watches for errors and drift."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name names revisions and their Services too: use at most 40 lower-case letters, digits "
            "and dashes, beginning with a letter",
            ".metadata.name",
        ),
    )
    KIND: ClassVar[str] = "ModelDeployment"

    api_version: Literal["tunesmith.dev/v1alpha1"] = API_VERSION
    kind: Literal["ModelDeployment"] = "ModelDeployment"
    metadata: ObjectMeta
    spec: ModelDeploymentSpec
    status: ModelDeploymentStatus | None = None

    @property
    def name(self) -> str:
        """The deployment's name."""
        return self.metadata.name
