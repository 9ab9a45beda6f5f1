"""Hypothesis strategies over the schema of the API: objects that are valid, or nearly."""

from typing import Any

from hypothesis import strategies as st
from tests.api_refusals import MODEL_DEPLOYMENT, TRAINING_JOB, changed

from tunesmith_api.model_deployment import ModelDeployment
from tunesmith_api.schema import Schema, structural_schema
from tunesmith_api.training_job import TrainingJob
from tunesmith_api.yaml_text import dump, parse

_WORDS = st.sampled_from(
    [
        "",
        "a",
        "x y",
        "s3://b/k",
        "file:///x",
        "1e-4",
        "0.5",
        "12",
        "-3",
        "Flip",
        "FineTune",
        "resnet50",
        "é" * 70,
    ]
)
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70_000),
    st.sampled_from([0.0, 0.5, 1.0, 1.5, -0.25, 1e-7, 2.5e6, 1e21]),
    _WORDS,
)
_ANYTHING = st.one_of(_SCALARS, st.lists(_SCALARS, max_size=3), st.dictionaries(_WORDS, _SCALARS, max_size=2))
BASES = {"TrainingJob": (TrainingJob, TRAINING_JOB), "ModelDeployment": (ModelDeployment, MODEL_DEPLOYMENT)}


@st.composite
def _values(draw: st.DrawFn, schema: Schema, depth: int = 0) -> Any:
    """A value that mostly fits the schema; now and then anything at all."""
    if draw(st.integers(0, 19)) == 0:
        return draw(_ANYTHING)
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    if schema.get("x-kubernetes-int-or-string"):
        return draw(st.one_of(st.integers(0, 64), st.sampled_from(["4", "500m", "16Gi", "1.5Gi"])))
    match schema.get("type"):
        case "object":
            return draw(_objects(schema, depth))
        case "array":
            return draw(st.lists(_values(schema["items"], depth + 1), max_size=3))
        case "boolean":
            return draw(st.booleans())
        case "integer":
            low = int(schema.get("minimum", 0))
            return draw(st.integers(low - 1, min(int(schema.get("maximum", 100)), low + 100) + 1))
        case "number":
            return draw(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0, 1, 0, 20.0]))
        case _:
            return draw(_WORDS)


@st.composite
def _objects(draw: st.DrawFn, schema: Schema, depth: int) -> dict[str, Any]:
    properties: dict[str, Schema] = schema.get("properties", {})
    if not properties:
        return draw(st.dictionaries(_WORDS, _WORDS, max_size=2))
    required = schema.get("required", [])
    optional = st.lists(st.sampled_from(sorted(properties)), unique=True, max_size=3)
    names = [*required, *(name for name in draw(optional) if name not in required)]
    result = {name: draw(_values(properties[name], depth + 1)) for name in names}
    if draw(st.integers(0, 29)) == 0:
        result["surprise"] = 1
    return result


@st.composite
def mutated_documents(draw: st.DrawFn) -> dict[str, Any]:
    """A resource with one or a few parts of its spec replaced by drawn ones; some are valid, many are not.

    It has been through YAML, as everything that kubectl sends.
    """
    model, base = BASES[draw(st.sampled_from(sorted(BASES)))]
    spec = structural_schema(model)["properties"]["spec"]
    names = draw(st.lists(st.sampled_from(sorted(spec["properties"])), unique=True, min_size=1, max_size=3))
    changes = {f"spec.{name}": draw(_values(spec["properties"][name])) for name in names}
    (document,) = parse(dump(changed(base, changes)))
    return document  # type: ignore[no-any-return]
