"""What the API server would say about an object, without a server.

Reads the same schema as the server (``schema.py``) and goes the same way: unknown fields, nulls and defaults,
then the structure, and, when nothing stands in their way, the CEL rules. Sentences and order follow
Kubernetes 1.36 (kube-openapi ``pkg/validation/validate``, apiextensions-apiserver
``pkg/registry/customresource``); tests/controlplane compares them with a real one.
"""

import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tunesmith_api.rules import EXTENSION, Rule
from tunesmith_api.schema import Schema

NO_FIELD = "<nil>"
"""What the server writes for the field when it means the whole object."""
_CEL_RESERVED = frozenset(
    {"true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if"}
    | {"import", "let", "loop", "package", "namespace", "return", "var", "void", "while"}
)
"""CEL's own words (its specification, "Syntax"); the server reads such a field as ``__in__``."""
_INT64 = 2**63


@dataclass(frozen=True)
class Violation:
    """One thing that is wrong with an object.

    Attributes:
        field: its path, like ``spec.search.numTrials``.
        message: what the server says about it.
        blocking: whether the server leaves the CEL rules unchecked because of it.
    """

    field: str
    message: str
    blocking: bool = False

    def __str__(self) -> str:
        """The line as kubectl prints it."""
        return f"{self.field}: {self.message}"


def unknown_fields(schema: Schema, value: object, path: str = "") -> Iterator[str]:
    """The paths of fields that the schema does not know; in a scalar's place it knows none."""
    if isinstance(value, Mapping):
        properties: Mapping[str, Schema] = schema.get("properties", {})
        for name, child in value.items():
            here = f"{path}.{name}" if path else name
            if "additionalProperties" in schema:
                yield from unknown_fields(schema["additionalProperties"], child, here)
            elif name not in properties:
                yield here
            elif here != "metadata":
                yield from unknown_fields(properties[name], child, here)
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from unknown_fields(schema.get("items", {}), child, f"{path}[{index}]")


def with_defaults(schema: Schema, value: Any) -> Any:
    """A copy of the value with the schema's defaults, and without nulls, which count as unset."""
    if isinstance(value, Mapping):
        properties: Mapping[str, Schema] = schema.get("properties", {})
        inner: Schema = schema.get("additionalProperties", {})
        result = {
            name: with_defaults(properties.get(name, inner), child)
            for name, child in value.items()
            if child is not None
        }
        for name, child in properties.items():
            if name not in result and "default" in child:
                result[name] = with_defaults(child, deepcopy(child["default"]))
        return result
    if isinstance(value, list):
        return [with_defaults(schema.get("items", {}), child) for child in value]
    return value


def violations(schema: Schema, value: Any, old: Any = None, blocked: bool = False) -> tuple[Violation, ...]:
    """What is wrong with an object.

    Args:
        schema: of the whole resource.
        value: the object, after ``with_defaults``.
        old: the object before an update, after ``with_defaults``.
        blocked: something outside the schema already keeps the rules from being checked.
    """
    found = tuple(_structural(schema, value, ""))
    if blocked or any(violation.blocking for violation in found):
        return found
    return found + tuple(_broken_rules(schema, value, old, ""))


# Structure


def _structural(schema: Schema, value: Any, path: str) -> Iterator[Violation]:
    wrong_type = list(_type_violations(schema, value, path))
    yield from wrong_type
    if "enum" in schema and value not in schema["enum"]:
        supported = ", ".join(shown(word) for word in schema["enum"])
        yield Violation(path, f"Unsupported value: {shown(value)}: supported values: {supported}", True)
    if _is_number(value) and (not wrong_type or schema.get("type") == "integer"):
        yield from _beyond_limits(schema, value, path)
    if wrong_type:
        return
    if isinstance(value, str):
        yield from _text_violations(schema, value, path)
    elif isinstance(value, list):
        yield from _list_violations(schema, value, path)
    elif isinstance(value, Mapping):
        yield from _object_violations(schema, value, path)


def _type_violations(schema: Schema, value: Any, path: str) -> Iterator[Violation]:
    actual = _type_name(value)
    if schema.get("x-kubernetes-int-or-string"):
        if actual not in ("integer", "string") and not _is_whole(value):
            yield _wrong_type(path, "integer,string", actual)
            yield _wrong_type(path, "integer", actual)
        return
    wanted: str | None = schema.get("type")
    if wanted is None or actual == wanted or (wanted == "number" and actual == "integer"):
        return
    if wanted in ("integer", "number") and actual in ("boolean", "object"):
        # The server looks at the format before the type and has no name for these.
        yield _wrong_type(path, {"integer": "int64", "number": "double"}[wanted], "")
    elif wanted == "integer" and actual == "number":
        if not _is_whole(value):
            yield _wrong_type(path, "int64", "float64")
    else:
        yield _wrong_type(path, wanted, actual)


def _wrong_type(path: str, wanted: str, actual: str) -> Violation:
    return Violation(
        path, f'Invalid value: "{actual}": {path} in body must be of type {wanted}: "{actual}"', blocking=True
    )


def _beyond_limits(schema: Schema, value: float, path: str) -> Iterator[Violation]:
    for limit_name, exclusive, words, sign in (
        ("maximum", "exclusiveMaximum", "less than", 1),
        ("minimum", "exclusiveMinimum", "greater than", -1),
    ):
        if limit_name not in schema:
            continue
        limit = schema[limit_name]
        # The server compares whole numbers with the limit's whole part.
        limit = int(limit) if isinstance(value, int) else float(limit)
        excess = (value - limit) * sign
        if excess > 0 or (excess == 0 and schema.get(exclusive)):
            relation = words if schema.get(exclusive) else f"{words} or equal to"
            yield Violation(
                path, f"Invalid value: {shown(value)}: {path} in body should be {relation} {shown(limit)}"
            )


def _text_violations(schema: Schema, value: str, path: str) -> Iterator[Violation]:
    """The first thing that is wrong with a text; the server says no more either."""
    if len(value) > schema.get("maxLength", len(value)):
        yield Violation(path, f"Too long: may not be more than {schema['maxLength']} bytes", blocking=True)
        return
    said = f"Invalid value: {shown(value)}: {path} in body should"
    if len(value) < schema.get("minLength", 0):
        yield Violation(path, f"{said} be at least {schema['minLength']} chars long")
    elif "pattern" in schema and not re.search(_end_of_text(schema["pattern"]), value):
        yield Violation(path, f"{said} match '{schema['pattern']}'")


def _end_of_text(pattern: str) -> str:
    """The pattern with Go's meaning of a final ``$``: the end, and not also a line break before it."""
    return pattern[:-1] + r"\Z" if pattern.endswith("$") else pattern


def _list_violations(schema: Schema, value: list[Any], path: str) -> Iterator[Violation]:
    for index, child in enumerate(value):
        yield from _structural(schema.get("items", {}), child, f"{path}[{index}]")
    if len(value) > schema.get("maxItems", len(value)):
        yield _too_many(path, len(value), schema["maxItems"])
    if len(value) < schema.get("minItems", 0):
        yield Violation(
            path,
            f"Invalid value: {len(value)}: {path} in body should have at least {schema['minItems']} items",
        )


def _object_violations(schema: Schema, value: Mapping[str, Any], path: str) -> Iterator[Violation]:
    if len(value) > schema.get("maxProperties", len(value)):
        yield _too_many(path, len(value), schema["maxProperties"])
    prefix = f"{path}." if path else ""
    for name in schema.get("required", ()):
        if name not in value:
            yield Violation(prefix + name, "Required value", blocking=True)
    properties: Mapping[str, Schema] = schema.get("properties", {})
    inner: Schema = schema.get("additionalProperties", {})
    for name, child in value.items():
        yield from _structural(properties.get(name, inner), child, prefix + name)


def _too_many(path: str, count: int, most: int) -> Violation:
    return Violation(path, f"Too many: {count}: must have at most {most} items", blocking=True)


# Rules


def _broken_rules(schema: Schema, value: Any, old: Any, path: str) -> Iterator[Violation]:
    for rule in map(Rule.from_schema, schema.get(EXTENSION, ())):
        if rule.is_transition and old is None:
            continue
        if not rule.holds(_cel_value(schema, value), _cel_value(schema, old)):
            yield _broken(rule, value, path)
    if isinstance(value, Mapping):
        before = old if isinstance(old, Mapping) else {}
        properties: Mapping[str, Schema] = schema.get("properties", {})
        inner: Schema = schema.get("additionalProperties", {})
        for name, child in value.items():
            here = f"{path}.{name}" if path else name
            yield from _broken_rules(properties.get(name, inner), child, before.get(name), here)
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _broken_rules(schema.get("items", {}), child, None, f"{path}[{index}]")


_PREFIXES = {
    "FieldValueInvalid": "Invalid value: ",
    "FieldValueForbidden": "Forbidden: ",
    "FieldValueRequired": "Required value: ",
}


def _broken(rule: Rule, value: Any, path: str) -> Violation:
    field = (path + rule.field_path).lstrip(".") or NO_FIELD
    if rule.reason == "FieldValueDuplicate":
        return Violation(field, f"Duplicate value: {rule.message}")
    said = _PREFIXES[rule.reason]
    if rule.reason == "FieldValueInvalid" and not rule.field_path and not isinstance(value, Mapping | list):
        said += f"{shown(value)}: "
    return Violation(field, said + rule.message)


def _cel_value(schema: Schema, value: Any) -> Any:
    """The value as CEL sees it: numbers as doubles, and keys that are CEL's own words between underscores."""
    if isinstance(value, Mapping):
        properties: Mapping[str, Schema] = schema.get("properties", {})
        inner: Schema = schema.get("additionalProperties", {})
        return {
            f"__{name}__" if name in _CEL_RESERVED and properties else name: _cel_value(
                properties.get(name, inner), child
            )
            for name, child in value.items()
        }
    if isinstance(value, list):
        return [_cel_value(schema.get("items", {}), child) for child in value]
    if schema.get("type") == "number" and _is_number(value):
        return float(value)
    if schema.get("type") == "integer" and _is_number(value):
        return int(value)
    return value


# Values in sentences


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    """Whether a number without a fraction fits 64 bits, also when it is written like 2.0."""
    return _is_number(value) and float(value).is_integer() and abs(value) < _INT64


def _type_name(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer" if -_INT64 <= value < _INT64 else "number"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def shown(value: Any) -> str:
    """A value as the server writes it into a sentence."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _go_json(value)
    if isinstance(value, int) and -_INT64 <= value < _INT64:
        return str(value)
    return _go_float(float(value))


def _go_json(value: Any) -> str:
    """A value as Go's JSON writes it: 2.0 as 2, and floats with an exponent only below 1e-6 and from 1e21."""
    if isinstance(value, Mapping):
        pairs = (f"{_go_json(str(key))}:{_go_json(value[key])}" for key in sorted(value))
        return f"{{{','.join(pairs)}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_go_json, value))}]"
    if not isinstance(value, float):
        return json.dumps(value, ensure_ascii=False)
    if 1e-6 <= abs(value) < 1e21 or value == 0:
        return f"{Decimal(int(value) if value.is_integer() else repr(value)):f}"
    mantissa, _, exponent = _go_float(value).partition("e")
    return f"{mantissa}e{exponent[0]}{exponent[1:].lstrip('0')}"


def _go_float(value: float) -> str:
    """A float as Go's ``%v`` writes it: the shortest digits, with an exponent below 1e-4 and from 1e6."""
    sign, digits, _ = Decimal(repr(value)).normalize().as_tuple()
    exponent = Decimal(repr(value)).adjusted() if value else 0
    minus = "-" if sign else ""
    text = "".join(map(str, digits))
    if -4 <= exponent < 6:
        plain = f"{abs(Decimal(repr(value))):f}"
        return minus + (plain.rstrip("0").rstrip(".") if "." in plain else plain)
    mantissa = text[0] + (f".{text[1:]}" if len(text) > 1 else "")
    return f"{minus}{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
