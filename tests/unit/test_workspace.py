"""A run's markers and places."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith_api.reasons import StoreError
from tunesmith_package.file_store import FileStore
from tunesmith_trainer.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(FileStore(tmp_path / "store"), "jobs/flowers/abc/", tmp_path / "cache")


def test_marker_of_an_unfinished_stage_is_none(workspace: Workspace) -> None:
    assert workspace.read_marker("prepare") is None


def test_marker_that_was_written_is_read_back_and_replaced(workspace: Workspace) -> None:
    workspace.write_marker("search", {"trials": 3, "name": "ü"})
    workspace.write_marker("search", {"trials": 4})
    assert workspace.read_marker("search") == {"trials": 4}
    assert [each.key for each in workspace.store.list()] == ["jobs/flowers/abc/search.json"]


@pytest.mark.parametrize("data", [b"{half", b"[1]", b"\xff"])
def test_marker_that_is_not_ours_is_an_error_that_names_it(workspace: Workspace, data: bytes) -> None:
    workspace.store.put("jobs/flowers/abc/verify.json", data)
    with pytest.raises(StoreError, match=r"jobs/flowers/abc/verify\.json is not a marker"):
        workspace.read_marker("verify")


def test_cache_path_has_its_folder_made(workspace: Workspace, tmp_path: Path) -> None:
    path = workspace.cache("pixels", "abc", "pixels.u8")
    assert path == tmp_path / "cache" / "pixels" / "abc" / "pixels.u8"
    assert path.parent.is_dir()
