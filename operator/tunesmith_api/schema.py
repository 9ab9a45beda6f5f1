"""From a pydantic model to the structural OpenAPI schema of a CRD.

The schema is what both the API server and ``admission.py`` read, so it says everything: bounds, defaults and
rules. Structural means: no references, no ``anyOf`` but Kubernetes' own int-or-string, no nulls
(https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/).
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from tunesmith_api.fields import ApiModel

Schema = dict[str, Any]

_KEPT = (
    "description",
    "default",
    "enum",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "pattern",
    "required",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-validations",
)
_FORMATS = {"integer": "int64", "number": "double"}


@cache
def structural_schema(model: type[ApiModel]) -> Schema:
    """The schema of a whole resource, as ``openAPIV3Schema`` wants it.

    The status has no defaults: what nobody has found out yet must stay unsaid.
    """
    raw = model.model_json_schema(by_alias=True, mode="validation")
    schema = _convert(raw, raw.get("$defs", {}))
    properties = schema["properties"]
    for envelope in ("apiVersion", "kind"):
        properties[envelope] = {"type": "string"}
    # Naming the name lets a rule point at it.
    properties["metadata"] = {"type": "object", "properties": {"name": {"type": "string"}}}
    if "status" in properties:
        properties["status"] = _without_defaults(properties["status"])
    schema["required"] = ["spec"]
    return schema


def _convert(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    """One node of pydantic's JSON schema in structural form, its own words before those it refers to."""
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[1]]
        return _convert({**target, **{key: node[key] for key in node if key != "$ref"}}, definitions)
    if "x-kubernetes-int-or-string" not in node and "anyOf" in node:
        (choice,) = [option for option in node["anyOf"] if option.get("type") != "null"]
        outer = {key: value for key, value in node.items() if key != "anyOf"}
        if outer.get("default", ...) is None:
            del outer["default"]
        return _convert({**choice, **outer}, definitions)
    schema: Schema = {}
    if "type" in node:
        schema["type"] = node["type"]
    if node.get("format") == "date-time":
        schema["format"] = "date-time"
    elif schema.get("type") in _FORMATS:
        schema["format"] = _FORMATS[schema["type"]]
    schema |= {key: node[key] for key in _KEPT if key in node}
    if "description" in schema:
        schema["description"] = " ".join(schema["description"].split())
    if "const" in node:
        schema["enum"] = [node["const"]]
    _convert_limits(node, schema)
    if "anyOf" in node:
        schema["anyOf"] = node["anyOf"]
    if "items" in node:
        schema["items"] = _convert(node["items"], definitions)
    if "properties" in node:
        schema["properties"] = {
            name: _convert(child, definitions) for name, child in node["properties"].items()
        }
    elif isinstance(node.get("additionalProperties"), Mapping):
        schema["additionalProperties"] = _convert(node["additionalProperties"], definitions)
    return schema


def _convert_limits(node: Mapping[str, Any], schema: Schema) -> None:
    """OpenAPI 3.0 says with a flag what JSON Schema says with a keyword of its own."""
    for limit, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if exclusive in node:
            schema[limit] = node[exclusive]
            schema[exclusive] = True


def _without_defaults(schema: Schema) -> Schema:
    bare = {key: value for key, value in schema.items() if key != "default"}
    if "properties" in bare:
        bare["properties"] = {name: _without_defaults(child) for name, child in bare["properties"].items()}
    for inner in ("items", "additionalProperties"):
        if inner in bare:
            bare[inner] = _without_defaults(bare[inner])
    return bare
