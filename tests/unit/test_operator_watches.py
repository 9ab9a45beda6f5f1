"""Kopf's part of the operator, without a server."""

import asyncio

from tunesmith_operator.watches import NoRecords


def test_kopf_keeps_no_record_of_an_object() -> None:
    records = NoRecords()
    asyncio.run(_recall_twice(records))
    assert list(records.iter_all_memories()) == []


async def _recall_twice(records: NoRecords) -> None:
    body = {"metadata": {"uid": "1"}}
    first = await records.recall(body, noticed_by_listing=True)  # type: ignore[arg-type]
    again = await records.recall(body)  # type: ignore[arg-type]
    assert first is not again
    assert first.noticed_by_listing
