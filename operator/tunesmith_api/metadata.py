"""What the API server would say about ``metadata``; the rules are Kubernetes' own, of all its objects."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tunesmith_api.admission import Violation, shown

FIELDS = frozenset(
    {
        "annotations",
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "labels",
        "managedFields",
        "name",
        "namespace",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    }
)
"""The fields of metav1.ObjectMeta."""

_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_SUBDOMAIN_SENTENCE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    f"'{_SUBDOMAIN}')"
)
_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL_SENTENCE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start "
    "and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    f"'{_LABEL}')"
)
ANNOTATION_BYTES = 256 * 1024
"""Of all annotations of an object together."""
_KEY = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_KEY_SENTENCE = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    f"character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_KEY}')"
)
_VALUE = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"
_VALUE_SENTENCE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used "
    f"for validation is '{_VALUE}')"
)
_GO_KINDS = {bool: "bool", int: "number", float: "number", str: "string", list: "array", dict: "object"}


def decoding_errors(metadata: object) -> Iterator[str]:
    """Why ``metadata`` could not even be read, in the words of Go's JSON decoder."""
    if metadata is None:
        return
    if not isinstance(metadata, Mapping):
        yield f"json: cannot unmarshal {_go_kind(metadata)} into Go value of type v1.ObjectMeta"
        return
    for field in ("name", "namespace", "generateName"):
        if not isinstance(metadata.get(field), str | None):
            yield _cannot_unmarshal(metadata[field], field, "string")
    for field, wanted in (("finalizers", "[]string"), ("ownerReferences", "[]v1.OwnerReference")):
        if not isinstance(metadata.get(field), list | None):
            yield _cannot_unmarshal(metadata[field], field, wanted)
    for field in ("labels", "annotations"):
        pairs = metadata.get(field)
        if pairs is None:
            continue
        if not isinstance(pairs, Mapping):
            yield _cannot_unmarshal(pairs, field, "map[string]string")
            continue
        for value in pairs.values():
            if not isinstance(value, str | None):
                yield _cannot_unmarshal(value, field, "string")


def metadata_violations(metadata: Mapping[str, Any]) -> Iterator[Violation]:
    """What is wrong with readable metadata."""
    name = metadata.get("name")
    if not name:
        yield Violation("metadata.name", "Required value: name or generateName is required", blocking=True)
    elif len(name) > 253:
        yield Violation("metadata.name", f"Invalid value: {shown(name)}: must be no more than 253 characters")
    elif not re.fullmatch(_SUBDOMAIN, name):
        yield Violation("metadata.name", f"Invalid value: {shown(name)}: {_SUBDOMAIN_SENTENCE}")
    if namespace := metadata.get("namespace"):
        for sentence in _namespace_errors(namespace):
            yield Violation("metadata.namespace", f"Invalid value: {shown(namespace)}: {sentence}")
    for finalizer in metadata.get("finalizers") or ():
        for sentence in _key_errors(str(finalizer)):
            yield Violation("metadata.finalizers", f"Invalid value: {shown(finalizer)}: {sentence}")
    for owner in metadata.get("ownerReferences") or ():
        yield from _owner_violations(owner)
    annotations = metadata.get("annotations") or {}
    size = sum(len(key.encode()) + len((value or "").encode()) for key, value in annotations.items())
    if size > ANNOTATION_BYTES:
        too_long = f"Too long: may not be more than {ANNOTATION_BYTES} bytes"
        yield Violation("metadata.annotations", too_long, blocking=True)
    for field in ("labels", "annotations"):
        for key, value in (metadata.get(field) or {}).items():
            for sentence in _key_errors(key.lower() if field == "annotations" else key):
                yield Violation(f"metadata.{field}", f"Invalid value: {shown(key)}: {sentence}")
            if field == "labels":
                for sentence in _label_errors(value or ""):
                    yield Violation("metadata.labels", f"Invalid value: {shown(value)}: {sentence}")


def _owner_violations(owner: Mapping[str, Any]) -> Iterator[Violation]:
    for field in ("apiVersion", "kind", "name", "uid"):
        if not owner.get(field):
            what = "version must not be empty" if field == "apiVersion" else "must not be empty"
            yield Violation(f"metadata.ownerReferences.{field}", f'Invalid value: "": {what}')


def _namespace_errors(namespace: str) -> Iterator[str]:
    if len(namespace) > 63:
        yield "must be no more than 63 bytes"
    if not re.fullmatch(_LABEL, namespace):
        yield _LABEL_SENTENCE


def _key_errors(key: str) -> Iterator[str]:
    prefix, slash, name = key.rpartition("/")
    if "/" in prefix:
        optional = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        yield f"a valid label key {_KEY_SENTENCE} {optional}"
        return
    if slash and not prefix:
        yield "prefix part must be non-empty"
    elif len(prefix) > 253:
        yield "prefix part must be no more than 253 bytes"
    elif slash and not re.fullmatch(_SUBDOMAIN, prefix):
        yield f"prefix part {_SUBDOMAIN_SENTENCE}"
    if not name:
        yield "name part must be non-empty"
    elif len(name) > 63:
        yield "name part must be no more than 63 bytes"
    if not re.fullmatch(_KEY, name):
        yield f"name part {_KEY_SENTENCE}"


def _label_errors(value: str) -> Iterator[str]:
    if len(value) > 63:
        yield "must be no more than 63 bytes"
    if not re.fullmatch(_VALUE, value):
        yield _VALUE_SENTENCE


def _go_kind(value: object) -> str:
    return _GO_KINDS.get(type(value), "object")


def _cannot_unmarshal(value: object, field: str, wanted: str) -> str:
    return (
        f"json: cannot unmarshal {_go_kind(value)} into Go struct field ObjectMeta.{field} of type {wanted}"
    )
