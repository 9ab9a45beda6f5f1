"""What fields are made of: the base model, bounded texts and numbers, and the words a field may hold.

Every bound here ends up in the CRD. It keeps objects small, and lets the API server work out beforehand that
the CEL rules stay cheap.
"""

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue, WithJsonSchema
from pydantic_core import CoreSchema

from tunesmith_api.rules import Rule, attach

GROUP = "tunesmith.dev"
VERSION = "v1alpha1"
API_VERSION: Final = "tunesmith.dev/v1alpha1"


class ApiModel(BaseModel):
    """Base of everything in the API: frozen, camelCase in YAML, snake_case here, unknown fields refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The model's schema with its rules, and with the defaults that factories make.

        Pydantic leaves those out. They are written out in full, because the API server applies the rules to a
        default before it fills in what the default itself leaves open.
        """
        schema = handler.resolve_ref_schema(handler(core_schema))
        for name, field in cls.model_fields.items():
            if field.default_factory is not None:
                default = cls.model_construct(**{name: field.get_default(call_default_factory=True)})
                alias = field.alias or name
                dumped = default.model_dump(mode="json", by_alias=True, exclude_none=True, include={name})
                schema["properties"][alias]["default"] = dumped[alias]
        return attach(schema, cls.rules)

    def to_dict(self) -> dict[str, Any]:
        """The object as it stands in YAML and JSON: camelCase keys, JSON types, nothing for what is unset."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


# Texts

Name = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
"""A DNS label, as Kubernetes names are."""

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")]
"""A DNS subdomain, as names of Secrets are."""

Identifier = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_]+$")]
"""A name as Python and torchvision write them."""

Text = Annotated[str, Field(max_length=1024)]
"""A sentence or two."""

ShortText = Annotated[str, Field(max_length=256)]

Digest = Annotated[str, Field(max_length=71, pattern=r"^sha256:[0-9a-f]{64}$")]
"""``sha256:`` and 64 hexadecimal digits."""

NUMBER_PATTERN = "^-?[0-9]+([.][0-9]+)?([eE][-+]?[0-9]{1,3})?$"

Number = Annotated[
    str,
    Field(min_length=1, max_length=32),
    Rule(f"self.matches('{NUMBER_PATTERN}')", 'write a number in quotes, like "0.1" or "1e-5"'),
]
"""A number written as a string, like ``"1e-5"``, so that no YAML reader changes it."""

LabelValue = Annotated[str, Field(max_length=63)]

_URI = Field(min_length=1, max_length=1024)

DatasetUri = Annotated[
    str,
    _URI,
    Rule(
        "['s3://', 'file://', 'pvc://', 'torchvision://'].exists(scheme, self.startsWith(scheme))",
        "a dataset is read from s3://BUCKET/PREFIX, file:///PATH, pvc://CLAIM/PATH or torchvision://NAME; "
        "copy what lies elsewhere into one of these",
    ),
]
StoreUri = Annotated[
    str,
    _URI,
    Rule(
        "['s3://', 'file://', 'pvc://'].exists(scheme, self.startsWith(scheme))",
        "a store is s3://BUCKET/PREFIX, file:///PATH or pvc://CLAIM/PATH",
    ),
]
WeightsUri = Annotated[
    str,
    _URI,
    Rule(
        "['s3://', 'file://', 'pvc://'].exists(scheme, self.startsWith(scheme))",
        "weights are read from s3://, file:// or pvc://; copy what lies elsewhere into one of these",
    ),
    Rule(
        "self.endsWith('.safetensors')",
        "weights must be a .safetensors file; convert .pth and .bin files with safetensors.torch.save_file",
    ),
]


def _quantity(value: object) -> object:
    whole = isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer()
    return str(int(value)) if whole else value  # type: ignore[call-overload]


_QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"

Quantity = Annotated[
    str,
    BeforeValidator(_quantity),
    Field(max_length=32, pattern=_QUANTITY_PATTERN),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "minimum": 0,
            "maxLength": 32,
            "pattern": _QUANTITY_PATTERN,
            "x-kubernetes-int-or-string": True,
        }
    ),
]
"""A Kubernetes quantity like ``500m`` or ``16Gi``; a bare whole number is one too. Always a str in Python."""

# Numbers

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=2**53)]
"""As large as JSON carries exactly."""
Seconds = Annotated[int, Field(ge=0, le=31_536_000)]
"""Up to a year."""
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]

# Words

Metric = Literal[
    "accuracy",
    "macroF1",
    "worstClassRecall",
    "worstSliceAccuracy",
    "negativeLogLikelihood",
    "calibrationError",
    "corruptionAccuracy",
    "latencyP95Milliseconds",
    "modelSizeMegabytes",
]
LOWER_IS_BETTER: frozenset[str] = frozenset(
    {"negativeLogLikelihood", "calibrationError", "latencyP95Milliseconds", "modelSizeMegabytes"}
)
UNBOUNDED: frozenset[str] = frozenset(
    {"negativeLogLikelihood", "latencyP95Milliseconds", "modelSizeMegabytes"}
)
"""Metrics that are not fractions between 0 and 1."""

ParameterName = Literal[
    "backbone",
    "strategy",
    "learningRate",
    "weightDecay",
    "labelSmoothing",
    "epochs",
    "batchSize",
    "augmentation",
    "layerDecay",
    "backboneLearningRateFactor",
    "unfreezing",
    "warmupFraction",
    "mixup",
]
Strategy = Literal["LinearProbe", "FineTune"]
Direction = Literal["Maximize", "Minimize"]
Augmentation = Literal["None", "Flip", "RandomResizedCrop", "TrivialAugment", "RandAugment", "AutoAugment"]
Precision = Literal["Auto", "Float32", "BFloat16", "Float16"]
Unfreezing = Literal["All", "Gradual"]
Corruption = Literal["GaussianNoise", "Blur", "JPEG", "Brightness", "Contrast"]


def cel_list(words: frozenset[str] | tuple[str, ...]) -> str:
    """The words as a CEL list, sorted when they come as a set."""
    ordered = sorted(words) if isinstance(words, frozenset) else words
    return "[" + ", ".join(f"'{word}'" for word in ordered) + "]"


# What both kinds share


class ObjectMeta(BaseModel):
    """The part of Kubernetes' metadata that Tunesmith reads; the rest is ignored, as it is not ours."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
    )

    name: str = Field(min_length=1, max_length=253)
    namespace: str = "default"
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    uid: str | None = None
    generation: int | None = None
    resource_version: str | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class SecretRef(ApiModel):
    """Names a Secret of the same namespace; its keys are AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
    AWS_SESSION_TOKEN, AWS_REGION and AWS_ENDPOINT_URL, those that are needed.
    """  # noqa: D205

    name: ObjectName
    """The Secret's name."""


class JobRef(ApiModel):
    """Names a TrainingJob of the same namespace."""

    name: Name
    """The TrainingJob's name."""


class Toleration(ApiModel):
    """Lets the pods run on nodes with a matching taint, as in a pod's spec."""

    key: ShortText | None = None
    """The taint's key; with operator Exists and no key, every taint."""
    operator: Literal["Exists", "Equal"] | None = None
    """Equal, the default, compares the value; Exists takes any."""
    value: LabelValue | None = None
    """The taint's value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect; unset matches all."""
    toleration_seconds: Seconds | None = None
    """How long the pod may stay after a NoExecute taint appears; unset is for ever."""


class TopologySpread(ApiModel):
    """Spreads the pods over nodes or zones."""

    topology_key: Annotated[str, Field(min_length=1, max_length=317)]
    """The node label whose values are spread over, like topology.kubernetes.io/zone."""
    max_skew: Annotated[int, Field(ge=1, le=100)]
    """By how many pods two values may differ."""
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"]
    """What to do when it cannot be kept."""


class Placement(ApiModel):
    """On which nodes pods run, and how much of a node they take."""

    cpu: Quantity | None = None
    """CPU requested for each pod, like "4" or 500m."""
    memory: Quantity | None = None
    """Memory requested for each pod and its limit, like 16Gi."""
    node_selector: Annotated[
        dict[str, LabelValue],
        Field(max_length=16),
        Rule(
            "self.all(key, key.size() >= 1 && key.size() <= 317)",
            "the keys of nodeSelector are names of node labels, with 1 to 317 characters",
        ),
    ] = Field(default_factory=dict)
    """Labels that the node must have."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Taints that the pods tolerate."""
    priority_class_name: ObjectName | None = None
    """The PriorityClass of the pods."""
    topology_spread: Annotated[tuple[TopologySpread, ...], Field(max_length=4)] = ()
    """How pods spread over nodes or zones."""
