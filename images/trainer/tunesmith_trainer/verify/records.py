"""How the dataclasses that a verification is made of become JSON, and JSON becomes them.

Frozen pydantic dataclasses: camelCase in JSON, snake_case in Python, as everywhere in the API.
"""

from pydantic import ConfigDict
from pydantic.alias_generators import to_camel

CAMEL = ConfigDict(
    alias_generator=to_camel,
    validate_by_name=True,
    validate_by_alias=True,
    serialize_by_alias=True,
    extra="forbid",
)
