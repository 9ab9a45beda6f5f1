"""The cache: the newest version wins, whatever order the watches tell it in."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith_operator.cache import Cache
from tunesmith_operator.kinds import JOB_LABEL, POD, TRAINING_JOB, Key

OWNER = Key("team", "flowers")


def pod(name: str = "a", version: int = 1, uid: str = "u1", owner: str = "flowers") -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": uid,
            "resourceVersion": str(version),
            "labels": {JOB_LABEL: owner},
            "managedFields": [{"manager": "kubelet"}],
        },
        "status": {"version": version},
    }


def test_cache_keeps_children_by_their_owner_and_nothing_of_managed_fields() -> None:
    cache = Cache()
    cache.put(POD, pod("b"))
    cache.put(POD, pod("a"))
    cache.put(POD, pod("c", owner="other"))
    found = cache.children(POD, OWNER)
    assert [one["metadata"]["name"] for one in found] == ["a", "b"]
    assert "managedFields" not in found[0]["metadata"]


@given(versions=st.lists(st.integers(1, 50), min_size=1))
def test_cache_in_any_order_of_events_ends_with_the_newest_version(versions: list[int]) -> None:
    cache = Cache()
    for version in versions:
        cache.put(POD, pod(version=version))
    found = cache.get(POD, "team", "a")
    assert found is not None
    assert found["status"]["version"] == max(versions)


@pytest.mark.parametrize("size", [0, 10_000, 300_000])
def test_cache_gives_back_objects_smaller_and_larger_than_the_window_of_their_compression(size: int) -> None:
    typical = json.dumps(pod()).encode() * 40
    cache = Cache(typical)
    words = "".join(random.Random(7).choices("abcdefgh ", k=size))
    told = {**pod(), "spec": {"words": words}}
    cache.put(POD, told)
    found = cache.get(POD, "team", "a")
    assert found is not None
    assert found["spec"] == told["spec"]
    assert found["status"] == told["status"]


def test_cache_takes_a_list_as_it_is_because_etcd_may_have_been_restored() -> None:
    cache = Cache()
    cache.put(POD, pod(version=90))
    assert cache.put(POD, pod(version=7), listed=True)
    assert cache.get(POD, "team", "a") == {**pod(version=7), "metadata": _without_managed(pod(version=7))}


def test_cache_calls_the_echo_of_our_own_write_no_news() -> None:
    cache = Cache()
    assert cache.put(POD, pod(version=5))
    assert not cache.put(POD, pod(version=5))
    assert not cache.put(POD, pod(version=5), listed=True)


def test_cache_late_deletion_of_an_earlier_object_of_the_name_removes_nothing() -> None:
    cache = Cache()
    cache.put(POD, pod(version=9, uid="second"))
    cache.remove(POD, pod(version=8, uid="first"))
    assert cache.get(POD, "team", "a") is not None
    cache.remove(POD, pod(version=10, uid="second"))
    assert cache.get(POD, "team", "a") is None
    assert cache.children(POD, OWNER) == []


def test_cache_forgets_what_a_live_read_did_not_find() -> None:
    cache = Cache()
    cache.put(POD, pod())
    cache.discard(POD, "team", "a")
    assert cache.children(POD, OWNER) == []


def test_cache_keeps_only_what_a_list_holds_and_what_is_newer_than_it() -> None:
    cache = Cache()
    for name, version in (("kept", 5), ("gone", 5), ("newer", 30)):
        cache.put(POD, pod(name, version, uid=name))
    assert cache.keep_only(POD, {("team", "kept")}, version=20) == {OWNER}
    assert [one["metadata"]["name"] for one in cache.children(POD, OWNER)] == ["kept", "newer"]
    assert cache.keep_only(POD, set(), version=99, namespace="another") == set()


def test_cache_lists_training_jobs_as_keys() -> None:
    cache = Cache()
    cache.put(TRAINING_JOB, {"metadata": {"name": "flowers", "namespace": "team", "resourceVersion": "1"}})
    cache.put(POD, pod())
    assert list(cache.resources()) == [OWNER]


def _without_managed(obj: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
