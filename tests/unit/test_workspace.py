"""A run's markers and places."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith_api.reasons import RETRYABLE, RunInProgress
from tunesmith_package.file_store import FileStore
from tunesmith_trainer.workspace import ObjectDamaged, Workspace


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
    with pytest.raises(ObjectDamaged, match=r"jobs/flowers/abc/verify\.json is not a marker") as caught:
        workspace.read_marker("verify")
    assert caught.value.reason not in RETRYABLE


def test_marker_without_what_its_reader_needs_is_an_error_that_names_it(workspace: Workspace) -> None:
    workspace.write_marker("search", {"trials": 4})
    marker = workspace.read_marker("search")
    assert marker is not None
    with pytest.raises(ObjectDamaged, match=r"search\.json .*'facts'"), workspace.reading("search"):
        marker["facts"]


def test_marker_is_not_written_once_another_process_has_the_run(workspace: Workspace) -> None:
    def lost() -> None:
        raise RunInProgress("Taken over.")

    theirs = Workspace(workspace.store, workspace.prefix, workspace.cache_dir, lost)
    with pytest.raises(RunInProgress):
        theirs.write_marker("publish", {"uri": "file:///model"})
    assert workspace.read_marker("publish") is None


def test_cache_path_has_its_folder_made(workspace: Workspace, tmp_path: Path) -> None:
    path = workspace.cache("pixels", "abc", "pixels.u8")
    assert path == tmp_path / "cache" / "pixels" / "abc" / "pixels.u8"
    assert path.parent.is_dir()
