"""From text to validated resources: what kubectl and the API server would refuse is refused here alike."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from tunesmith_api.admission import Violation, unknown_fields, violations, with_defaults
from tunesmith_api.fields import API_VERSION, ApiModel
from tunesmith_api.metadata import FIELDS, decoding_errors, metadata_violations
from tunesmith_api.model_deployment import ModelDeployment
from tunesmith_api.reasons import SpecInvalid
from tunesmith_api.schema import structural_schema
from tunesmith_api.training_job import TrainingJob
from tunesmith_api.yaml_text import dump, parse

Resource = TrainingJob | ModelDeployment
MODELS: dict[str, type[TrainingJob] | type[ModelDeployment]] = {
    "TrainingJob": TrainingJob,
    "ModelDeployment": ModelDeployment,
}


def load_documents(text: str, source: str = "") -> list[Resource]:
    """The resources in a YAML or JSON text, in its order.

    Args:
        text: one or more documents, at most a mebibyte.
        source: the text's name, for the sentences.

    Raises:
        SpecInvalid: with every violation of every document; nothing is returned then.
    """
    where = f" in {source}" if source else ""
    documents = parse(text)
    if not documents:
        raise SpecInvalid(f"There is no resource{where}.", "Write a TrainingJob or a ModelDeployment.")
    resources: list[Resource] = []
    refusals: list[SpecInvalid] = []
    for document in documents:
        try:
            resources.append(validate_object(document))
        except SpecInvalid as refusal:
            refusals.append(refusal)
    refusals.extend(_repeated(resources))
    if len(refusals) == 1:
        raise refusals[0]
    if refusals:
        raise SpecInvalid(
            "\n".join(map(str, refusals)),
            violations=tuple(line for refusal in refusals for line in refusal.violations),
        )
    return resources


def validate_object(document: object, old: Mapping[str, Any] | None = None) -> Resource:
    """The resource that an object of JSON types describes.

    Args:
        document: the object as it was written; a status in it is ignored, as the API server ignores it.
        old: the same object before an update, for the rules about changes.

    Raises:
        SpecInvalid: the object breaks its schema or a rule.
    """
    model = _model_of(document)
    assert isinstance(document, Mapping)
    lines = tuple(_refusals(model, document, old))
    if lines:
        raise _invalid(document, lines)
    content = {key: value for key, value in document.items() if key != "status"}
    try:
        return model.model_validate(with_defaults(structural_schema(model), content))
    except ValidationError as error:
        lines = tuple(f"{_path(entry['loc'])}: {entry['msg']}" for entry in error.errors())
        raise _invalid(document, lines) from error


def to_yaml(*resources: ApiModel) -> str:
    """The resources as YAML that kubectl and ``load_documents`` read as the same."""
    return dump(*(resource.to_dict() for resource in resources))


def _model_of(document: object) -> type[TrainingJob] | type[ModelDeployment]:
    if not isinstance(document, Mapping):
        raise SpecInvalid("A resource must be a mapping with apiVersion, kind, metadata and spec.")
    missing = tuple(f"{field} not set" for field in ("apiVersion", "kind") if not document.get(field))
    if missing:
        raise SpecInvalid(
            f"error validating data: {', '.join(missing)}",
            f"Begin with apiVersion: {API_VERSION} and kind: TrainingJob or ModelDeployment.",
            missing,
        )
    kind, version = document["kind"], document["apiVersion"]
    if version != API_VERSION or kind not in MODELS:
        line = f'no matches for kind "{kind}" in version "{version}"'
        raise SpecInvalid(
            f"{line}.", f"Tunesmith reads {' and '.join(MODELS)} of apiVersion {API_VERSION}.", (line,)
        )
    return MODELS[kind]


def _refusals(
    model: type[ApiModel], document: Mapping[str, Any], old: Mapping[str, Any] | None
) -> Iterator[str]:
    """One line for each thing that is wrong."""
    schema = structural_schema(model)
    metadata = document.get("metadata")
    unknown = [*unknown_fields(schema, document)]
    if isinstance(metadata, Mapping):
        unknown += [f"metadata.{field}" for field in metadata if field not in FIELDS]
    yield from (f'unknown field "{path}"' for path in unknown)
    undecodable = list(decoding_errors(metadata))
    yield from undecodable
    found: tuple[Violation, ...] = ()
    if not undecodable:
        found = tuple(metadata_violations(metadata or {}))
    blocked = bool(undecodable) or any(violation.blocking for violation in found)
    yield from map(str, found)
    yield from map(str, violations(schema, _completed(schema, document), _completed(schema, old), blocked))


def _completed(schema: Mapping[str, Any], document: Mapping[str, Any] | None) -> Any:
    if document is None:
        return None
    content = {key: value for key, value in document.items() if key != "status"}
    return with_defaults(dict(schema), content)


def _invalid(document: Mapping[str, Any], lines: tuple[str, ...]) -> SpecInvalid:
    metadata = document.get("metadata")
    name = metadata.get("name", "") if isinstance(metadata, Mapping) else ""
    head = f'The {document["kind"]} "{name}" is invalid:'
    message = f"{head} {lines[0]}" if len(lines) == 1 else "\n* ".join((head, *lines))
    return SpecInvalid(message, violations=lines)


def _repeated(resources: list[Resource]) -> Iterator[SpecInvalid]:
    seen = set()
    for resource in resources:
        key = (resource.kind, resource.metadata.namespace, resource.name)
        if key in seen:
            line = f'{resource.kind} "{resource.name}" stands in the text twice'
            yield SpecInvalid(f"{line}.", "Keep one or rename the other.", (line,))
        seen.add(key)


def _path(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
