"""After an erasure its number, and all that the court named in it, is found nowhere."""

import json
from typing import Any

from service.core import erasures
from service.core.cnj import parse_process_number
from service.sandbox.cases import Special, documents_of, special_number
from tests.cases import case_numbers
from tests.erasures import ERASER, erased, finished, where_found
from tests.log_lines import log_lines
from tests.receiver import Receiver
from tests.world import Caller, World

(CASE,) = case_numbers(1, first=1_270_000)
# Without documents: names come again and again in all cases.
OTHER = special_number(Special.EMPTY)
DIGITS = parse_process_number(CASE)


async def _use_all_there_is(caller: Caller, receiver: Receiver) -> None:
    """Submit, poll, wait, list, download, and be told; keys, references and batches name the case."""
    key = {"Idempotency-Key": f"fetch {CASE}"}
    told: dict[str, Any] = {
        "webhook_url": receiver.url,
        "webhook_events": ["job.started", "document.available", "document.failed"],
        "reference": f"about {DIGITS}",
    }
    answer = await caller.post("/jobs", json={"process_number": CASE, **told}, headers=key)
    job_id = answer.json["job_id"]
    await caller.get(f"/jobs/{job_id}", params={"wait": "2"})
    status = await caller.wait_until_final(CASE)
    assert status["status"] == "completed"
    content = f"/documents/{status['documents'][0]['id']}/content"
    assert (await caller.get(content)).status == 302
    for path in (f"/processes/{CASE}", f"/processes/{DIGITS}/files", f"/jobs/{job_id}/manifest", "/jobs"):
        assert (await caller.get(path)).status == 200
    batch = {"process_numbers": [DIGITS, OTHER], "batch_webhook_url": receiver.url, "max_age_s": 0}
    await caller.post("/jobs/batch", json=batch, headers={"Idempotency-Key": "a batch"})
    for number in (CASE, OTHER):
        assert (await caller.wait_until_final(number))["status"] == "completed"
    await caller.post(f"/jobs/{job_id}/retry")
    await receiver.wait_for(4)  # started, documents, completed, and the batch


async def test_of_an_erased_process_nothing_is_found_anywhere_but_the_receipt(
    world: World, receiver: Receiver
) -> None:
    caller = await world.caller(scopes=ERASER)
    uuids = {str(one.uuid) for one in documents_of(DIGITS)}
    names = uuids | {one.replace("-", "") for one in uuids}
    with log_lines() as lines:
        await _use_all_there_is(caller, receiver)
        files = (await caller.get(f"/processes/{CASE}/files")).json["documents"]
        await world.until("select bool_and(status = 'delivered') from deliveries")
        # Not our own ids: of what is gone they say nothing, and a log that is never changed may hold them.
        needles = {CASE, DIGITS, *names, *(one["name"] for one in files)}
        before = await where_found(world, needles)
        # That the search finds what there is: in rows of every kind, and in S3.
        assert {"s3 key", "idempotency_keys.key", "subscriptions.reference"} <= before[DIGITS] | before[CASE]
        assert {"deliveries.payload", "idempotency_keys.body", "batch_items.process_number"} <= before[CASE]
        assert all(before[one["name"]] and before[one["uuid"]] for one in files)
        async with world.db.connection() as conn:
            told = await conn.fetchval("select count(*) from deliveries where job_id is not null")
        receipt_id = await erased(caller, CASE)
        await finished(world, receipt_id)
    assert {needle: places for needle, places in (await where_found(world, needles)).items() if places} == {}
    # Those of the test's own servers are none of ours.
    logged = json.dumps([one for one in lines if one["logger"] != "aiohttp.access"], ensure_ascii=False)
    assert f"erasure {receipt_id} is finished" in logged
    assert [one for one in (CASE, DIGITS, *names) if one in logged] == []
    receipt = (await caller.get(f"/erasures/{receipt_id}")).json
    assert erasures.is_about(receipt["proof"], DIGITS)
    assert not erasures.is_about(receipt["proof"], parse_process_number(OTHER))
    assert receipt["counts"] == {
        "jobs": 2,
        "documents": len(files),
        "webhooks": told,
        "batch_items": 1,
        "kept_answers": 2,
    }
    # What is about another process is all there.
    assert (await caller.get(f"/processes/{OTHER}/status")).json["status"] == "completed"
