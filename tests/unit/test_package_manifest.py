"""There is one way to write a manifest, and nothing else is read."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.testbed.tiny_package import HEADER

from tunesmith_api.reasons import PackageInvalid
from tunesmith_package.manifest import (
    MANIFEST,
    REQUIRED_FILES,
    FileEntry,
    Manifest,
    describe_files,
    parse_manifest,
)


def valid_manifest() -> dict[str, object]:
    files = {name: FileEntry("0" * 64, 1) for name in REQUIRED_FILES}
    return dict(json.loads(Manifest("flowers", HEADER, files).to_bytes()))


def canonical(fields: object) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def with_file(name: str, entry: object) -> dict[str, object]:
    fields = valid_manifest()
    assert isinstance(fields["files"], dict)
    fields["files"][name] = entry
    return fields


def changed(**fields: object) -> bytes:
    return canonical({**valid_manifest(), **fields})


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        pytest.param(b"", "not JSON", id="nothing"),
        pytest.param(b"[" * 100_000, "not JSON", id="a deep nest"),
        pytest.param(b"{}", "format is not", id="no format"),
        pytest.param(b"x" * ((1 << 20) + 1), "larger than", id="too large"),
        pytest.param(changed(format="v2"), "format is not", id="another format"),
        pytest.param(changed(more=1), "unknown one", id="an unknown field"),
        pytest.param(changed(verified=1), "neither true nor false", id="verified is a number"),
        pytest.param(changed(name="../x"), "DNS label", id="a name with a path"),
        pytest.param(changed(backbone=["x"]), "backbone is not a text", id="a list for a text"),
        pytest.param(changed(files=[]), "not a map", id="files are a list"),
        pytest.param(changed(files={}), "lacks labels.json", id="no files"),
        pytest.param(json.dumps(valid_manifest()).encode(), "not written canonically", id="spaces"),
        pytest.param(changed() + b"\n", "not written canonically", id="a line break at the end"),
        pytest.param(
            changed().replace(b'"verified":true', b'"verified":false,"verified":true'),
            "not written canonically",
            id="a field twice",
        ),
    ],
)
def test_parse_manifest_of_anything_but_the_one_way_to_write_it_is_refused(
    data: bytes, sentence: str
) -> None:
    with pytest.raises(PackageInvalid, match=sentence):
        parse_manifest(data)


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/passwd", "a/b", "..", "a\0b", "x\n", "", "a" * 129, MANIFEST]
)
def test_parse_manifest_with_a_name_that_is_no_plain_file_name_is_refused(name: str) -> None:
    with pytest.raises(PackageInvalid, match="not a name"):
        parse_manifest(canonical(with_file(name, {"sha256": "0" * 64, "size": 1})))


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param({"sha256": "0" * 63, "size": 1}, id="a short sha256"),
        pytest.param({"sha256": "G" * 64, "size": 1}, id="no hexadecimal"),
        pytest.param({"sha256": "0" * 64, "size": -1}, id="a negative size"),
        pytest.param({"sha256": "0" * 64, "size": True}, id="true for a size"),
        pytest.param({"sha256": "0" * 64}, id="no size"),
        pytest.param(None, id="no entry"),
    ],
)
def test_parse_manifest_with_an_entry_that_is_no_sha256_and_size_is_refused(entry: object) -> None:
    with pytest.raises(PackageInvalid, match="entry of extra"):
        parse_manifest(canonical(with_file("extra", entry)))


names = st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,20}\Z").filter(lambda name: name != MANIFEST)
entries = st.builds(FileEntry, st.from_regex(r"\A[0-9a-f]{64}\Z"), st.integers(0, 1 << 50))


@given(st.dictionaries(names, entries, max_size=5), st.text(max_size=30), st.booleans())
def test_parse_manifest_of_a_written_one_gives_it_back(
    more: dict[str, FileEntry], text: str, verified: bool
) -> None:
    files = {**{name: FileEntry("a" * 64, 3) for name in REQUIRED_FILES}, **more}
    manifest = Manifest("flowers", replace(HEADER, created_by=text, verified=verified), files)

    assert parse_manifest(manifest.to_bytes()) == manifest


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*valid_manifest(), "x"]), json_values, max_size=4))
def test_parse_manifest_with_any_values_in_it_accepts_it_or_says_that_it_is_invalid(
    changes: dict[str, object],
) -> None:
    data = canonical({**valid_manifest(), **changes})
    try:
        manifest = parse_manifest(data)
    except PackageInvalid:
        return
    assert manifest.to_bytes() == data


def test_describe_files_hashes_each_file_but_the_manifest(tmp_path: Path) -> None:
    for name in [*REQUIRED_FILES, MANIFEST]:
        (tmp_path / name).write_bytes(b"{}")

    found = describe_files(tmp_path)

    assert set(found) == REQUIRED_FILES
    assert found["preprocess.json"] == FileEntry(
        "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", 2
    )
