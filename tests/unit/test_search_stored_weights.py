"""Weights fetched from the store: whole, or told to be damaged."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from tunesmith_api.reasons import ObjectMissing
from tunesmith_package.file_store import FileStore
from tunesmith_trainer.search.stored_weights import fetch_weights
from tunesmith_trainer.workspace import ObjectDamaged

WHOLE = save({"head": np.arange(6, dtype=np.float32)})


def test_whole_weights_arrive(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    store.put("checkpoint", WHOLE)
    fetch_weights(store, "checkpoint", tmp_path / "here", "")
    assert load_file(tmp_path / "here")["head"].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(WHOLE[:-1], id="cut off by a byte"),
        pytest.param(WHOLE[:10], id="cut off in its header"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff" * 64, id="something else"),
    ],
)
def test_damaged_weights_are_an_error_that_names_them_and_the_way_out(tmp_path: Path, data: bytes) -> None:
    store = FileStore(tmp_path / "store")
    store.put("checkpoint", data)
    with pytest.raises(ObjectDamaged, match=r"store/checkpoint are damaged .* Delete it\.$"):
        fetch_weights(store, "checkpoint", tmp_path / "here", "Delete it.")


def test_missing_weights_are_missing(tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing):
        fetch_weights(FileStore(tmp_path / "store"), "checkpoint", tmp_path / "here", "")
