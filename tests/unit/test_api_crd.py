"""The generated CRDs: up to date, structural, bounded, and telling in `kubectl get`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tunesmith_api.crd import DIRECTORY, KINDS, Kind, custom_resource_definition, main, render
from tunesmith_api.yaml_text import parse

EACH_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for inner in ("items", "additionalProperties"):
        if inner in schema:
            yield from nodes(schema[inner], f"{path}[]")


def ours(kind: Kind) -> Iterator[tuple[str, dict[str, Any]]]:
    version = custom_resource_definition(kind)["spec"]["versions"][0]
    for part in ("spec", "status"):
        yield from nodes(version["schema"]["openAPIV3Schema"]["properties"][part], part)


@EACH_KIND
def test_crd_file_is_what_the_models_make(kind: Kind) -> None:
    assert (DIRECTORY / kind.file_name).read_text(encoding="utf-8") == render(kind)


@EACH_KIND
def test_crd_read_back_is_the_same_object(kind: Kind) -> None:
    assert parse(render(kind)) == [custom_resource_definition(kind)]


@EACH_KIND
def test_crd_every_node_has_a_type_and_every_field_a_description(kind: Kind) -> None:
    for path, node in ours(kind):
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        if not path.endswith("[]"):
            assert len(node.get("description", "")) >= 8, path


@EACH_KIND
def test_crd_everything_is_bounded(kind: Kind) -> None:
    for path, node in ours(kind):
        match node.get("type"):
            case "string":
                assert {"maxLength", "enum", "format"} & set(node), path
            case "array":
                assert "maxItems" in node, path
            case "object" if "additionalProperties" in node:
                assert "maxProperties" in node, path
            case "integer" | "number" if path.startswith("spec"):
                assert {"minimum", "maximum"} <= set(node), path


@EACH_KIND
def test_crd_says_nothing_that_a_structural_schema_may_not(kind: Kind) -> None:
    for path, node in ours(kind):
        assert not {"$ref", "title", "oneOf", "allOf", "const", "propertyNames", "nullable"} & set(node), path
        assert node.get("additionalProperties") is not False, path
        assert ("anyOf" in node) == bool(node.get("x-kubernetes-int-or-string")), path


@EACH_KIND
def test_crd_no_defaults_inside_list_items_because_gitops_would_see_a_difference_for_ever(kind: Kind) -> None:
    assert [path for path, node in ours(kind) if "[]" in path and "default" in node] == []


@EACH_KIND
def test_crd_columns_tell_the_story(kind: Kind) -> None:
    version = custom_resource_definition(kind)["spec"]["versions"][0]
    narrow = [column["name"] for column in version["additionalPrinterColumns"] if "priority" not in column]
    expected = {
        "TrainingJob": ["STATE", "TRIALS", "BEST", "MODEL", "AGE"],
        "ModelDeployment": ["READY", "URL", "REVISION", "CANARY", "STABLE-INPUTS", "AGE"],
    }
    assert narrow == expected[kind.name]


@EACH_KIND
def test_crd_columns_point_at_fields_that_exist(kind: Kind) -> None:
    version = custom_resource_definition(kind)["spec"]["versions"][0]
    paths = {f".{path}" for path, _ in ours(kind)} | {".metadata.creationTimestamp"}
    for column in version["additionalPrinterColumns"]:
        plain = column["jsonPath"].split("[?")[0]
        assert plain in paths, column
    for path in kind.scale.values():
        assert path in paths, path


def test_crd_conditions_are_a_map_by_type_so_that_several_writers_can_share_them() -> None:
    for kind in KINDS:
        conditions = dict(ours(kind))["status.conditions"]
        assert conditions["x-kubernetes-list-type"] == "map"
        assert conditions["x-kubernetes-list-map-keys"] == ["type"]


def test_main_check_names_the_stale_file_and_writing_mends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--directory", str(tmp_path)]) == 0
    assert main(["--directory", str(tmp_path), "--check"]) == 0
    stale = tmp_path / KINDS[0].file_name
    stale.write_text("old", encoding="utf-8")
    capsys.readouterr()
    assert main(["--directory", str(tmp_path), "--check"]) == 1
    assert str(stale) in capsys.readouterr().out
    assert stale.read_text(encoding="utf-8") == "old"
