"""Rules in CEL: written once at a model, enforced by the API server and here alike.

A ``Rule`` stands in a model's ``rules`` (``self`` is the object) or in the ``Annotated`` of a field, where
``self`` is the value. ``schema.py`` emits it as ``x-kubernetes-validations``; ``admission.py`` reads it back
from that schema and evaluates it, so both speak the same sentence.

The evaluator is common-expression-language (Rust, typed, Apache-2.0). cel-python (Apache-2.0 too) refuses to
compare an int with a double, which the API server allows, costs a third of a second for its first rule and
brings three parsers and a calendar.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

EXTENSION = "x-kubernetes-validations"

RuleReason = Literal["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate"]


@dataclass(frozen=True)
class Rule:
    """A CEL expression that must be true, and the sentence that says what to write instead.

    Attributes:
        cel: over ``self``, and over ``oldSelf`` for rules about changes. Only functions that both the API
            server and the local evaluator know: the CEL standard library and its macros.
        message: a sentence a person can follow without reading the schema.
        field_path: the field below ``self`` to point at, like ``.steps``.
        reason: how the API server classifies the violation.
    """

    cel: str
    message: str
    field_path: str = ""
    reason: RuleReason = "FieldValueInvalid"

    @property
    def is_transition(self) -> bool:
        """Whether the rule compares with the object before an update."""
        return "oldSelf" in self.cel

    def to_schema(self) -> dict[str, str]:
        """The entry of ``x-kubernetes-validations``."""
        entry = {"rule": self.cel, "message": self.message}
        if self.field_path:
            entry["fieldPath"] = self.field_path
        if self.reason != "FieldValueInvalid":
            entry["reason"] = self.reason
        return entry

    @staticmethod
    def from_schema(entry: Mapping[str, Any]) -> "Rule":
        """The rule that an entry of ``x-kubernetes-validations`` holds."""
        return Rule(
            entry["rule"],
            entry["message"],
            entry.get("fieldPath", ""),
            entry.get("reason", "FieldValueInvalid"),
        )

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Pydantic calls this for a rule in ``Annotated``: it adds itself to the field's schema."""
        return attach(handler(core_schema), (self,))

    def holds(self, value: object, old: object = None) -> bool:
        """Whether the rule accepts ``value`` (JSON types), where ``old`` is the value before an update.

        Raises:
            RuntimeError, TypeError, ValueError: the expression does not fit the value, a fault of the rule.
        """
        return program(self.cel).execute({"self": value, "oldSelf": old}) is True


def attach(schema: JsonSchemaValue, rules: tuple[Rule, ...]) -> JsonSchemaValue:
    """The schema with the rules after those it already has."""
    if not rules:
        return schema
    return schema | {EXTENSION: [*schema.get(EXTENSION, []), *(rule.to_schema() for rule in rules)]}


@cache
def program(expression: str) -> Any:
    """The compiled expression.

    The evaluator is imported here because its package starts with a command line of its own, which costs more
    than all the rest of this one.
    """
    import cel

    return cel.compile(expression)
