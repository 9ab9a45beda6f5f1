"""YAML as kubectl reads and must be given it.

kubectl's reader (YAML 1.1 in Go, https://github.com/kubernetes-sigs/yaml) and PyYAML do not agree on plain
words: for Go ``1e-5`` is a number, ``y`` a boolean, and ``12:30`` and ``2026-10-01`` are texts. Reading and
writing here follow Go, so that what a file means does not depend on who reads it.
"""

import math
import re
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from tunesmith_api.reasons import SpecInvalid

MAX_BYTES = 1_048_576
"""The largest text that is read: Kubernetes' own limit of an object is about as large."""
MAX_NODES = 100_000
"""The most values a text may hold, counting what an alias repeats as often as it is repeated."""

_PLAIN_WORDS = (
    (
        "bool",
        "y|Y|yes|Yes|YES|true|True|TRUE|on|On|ON|n|N|no|No|NO|false|False|FALSE|off|Off|OFF",
        "yYtToOnNfF",
    ),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
    ("merge", "<<", "<"),
)


class _Loader(yaml.SafeLoader):
    """Reads plain words as Go does; refuses keys that stand twice in a mapping."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own interface)

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, ScalarNode) else None
            if name is None:
                raise SpecInvalid(f"line {key.start_mark.line + 1}: a key must be a plain word.")
            if name in seen and key.tag != "tag:yaml.org,2002:merge":
                raise SpecInvalid(
                    f'line {key.start_mark.line + 1}: key "{name}" already set in map.',
                    "Keep one of the two.",
                )
            seen.add(name)
        return {_key(key): value for key, value in super().construct_mapping(node, deep=deep).items()}


class _Dumper(yaml.SafeDumper):
    """Quotes every text that Go or PyYAML would read as something else; writes repeated parts out."""

    def ignore_aliases(self, data: object) -> bool:
        return True


for _tag, _pattern, _first in _PLAIN_WORDS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first)
        )
# PyYAML knows yes, no, on and off, but not their initials.
_Loader.bool_values = {**yaml.SafeLoader.bool_values, "y": True, "n": False}


def parse(text: str) -> list[Any]:
    """The documents of a YAML text as JSON types, without the empty ones.

    Raises:
        SpecInvalid: the text is too large, is not YAML, holds a key twice, or holds something JSON cannot.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise SpecInvalid(f"The text has more than {MAX_BYTES:,} bytes.", "Split it into several files.")
    try:
        loader = _Loader(text)
        documents = []
        while loader.check_node():
            node = loader.get_node()
            if node is not None:
                _count(node, {})
                documents.append(_json_types(loader.construct_document(node)))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise SpecInvalid(f"This is not YAML: {place}{error.problem or error.context}.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise SpecInvalid(f"This is not YAML: {error}.") from error
    except RecursionError as error:
        raise SpecInvalid("This YAML is nested too deeply.") from error
    return [document for document in documents if document is not None]


def dump(*documents: Any) -> str:
    """The documents as YAML that kubectl reads as the same values, in the order of their keys."""
    text: str = yaml.dump_all(
        documents,
        Dumper=_Dumper,
        sort_keys=False,
        width=110,
        allow_unicode=True,
        explicit_start=len(documents) > 1,
    )
    return text


def _count(node: Node, known: dict[int, int]) -> int:
    """How many values a node stands for once its aliases are written out; refuses too many and circles."""
    if id(node) in known:
        if known[id(node)] < 0:
            raise SpecInvalid("An alias in this YAML refers to itself.")
        return known[id(node)]
    known[id(node)] = -1
    children: list[Node] = []
    if isinstance(node, SequenceNode):
        children = node.value
    elif isinstance(node, MappingNode):
        children = [part for pair in node.value for part in pair]
    total = 1 + sum(_count(child, known) for child in children)
    if total > MAX_NODES:
        raise SpecInvalid(f"The text holds more than {MAX_NODES:,} values.", "Split it into several files.")
    known[id(node)] = total
    return total


def _key(key: object) -> str:
    """A key as kubectl turns it into JSON."""
    if isinstance(key, bool):
        return "true" if key else "false"
    return "null" if key is None else str(key)


def _json_types(value: Any) -> Any:
    """The value, when JSON can hold it."""
    if isinstance(value, dict):
        return {key: _json_types(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_json_types(child) for child in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise SpecInvalid("Numbers must be finite: .inf and .nan cannot be stored in Kubernetes.")
        return int(value) if value.is_integer() and abs(value) < 1e21 else value  # as Go's JSON writes it
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise SpecInvalid(f"Values of type {type(value).__name__} cannot be stored in Kubernetes.")
