"""One trace from the request to the webhook: what is handed on, and which spans are recorded."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service.core import traceparent, tracing
from service.core.spans import Spans
from service.sandbox.cases import Special, special_number
from tests.receiver import Receiver
from tests.world import Caller, World, until

CASE = "1003579-22.2025.8.26.0564"
TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
OURS = f"00-{TRACE}-{SPAN}-01"


class Recording:
    """The spans that have ended in this process."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def all(self, name: str = "") -> list[ReadableSpan]:
        """Return those of a name, in the order in which they began."""
        found = [one for one in self._exporter.get_finished_spans() if name in ("", one.name)]
        return sorted(found, key=lambda one: one.start_time or 0)

    async def wait_for(self, name: str, count: int = 1) -> list[ReadableSpan]:
        """Return them once there are so many."""
        await until(lambda: len(self.all(name)) >= count)
        return self.all(name)


@pytest.fixture
def recorded() -> Iterator[Recording]:
    """Spans are recorded."""
    with _recording() as recording:
        yield recording


@contextmanager
def _recording() -> Iterator[Recording]:
    exporter = InMemorySpanExporter()
    spans = Spans(SimpleSpanProcessor(exporter), service="autos-test")
    with tracing.recording(spans):
        yield Recording(exporter)
    spans.provider.shutdown()


def _ids(header: str) -> tuple[str, str]:
    """Return the ids of trace and span."""
    assert traceparent.accept([header]) == header
    return header.split("-")[1], header.split("-")[2]


def _trace(span: ReadableSpan) -> str:
    return f"{_context(span).trace_id:032x}"


def _id(span: ReadableSpan) -> str:
    return f"{_context(span).span_id:016x}"


def _context(span: ReadableSpan) -> Any:
    return span.get_span_context()


def _parent(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"


async def _submit(caller: Caller, receiver: Receiver, number: str = CASE, **headers: str) -> str:
    body = {"process_number": number, "webhook_url": receiver.url}
    answer = await caller.post("/jobs", json=body, headers=headers)
    assert answer.status == 202, answer.text
    job_id: str = answer.json["job_id"]
    return job_id


async def _traceparents(world: World) -> list[str]:
    async with world.db.connection() as conn:
        rows = await conn.fetch("select traceparent from jobs order by created_at")
    return [row["traceparent"] for row in rows]


# Without an SDK -------------------------------------------------------------------------------------


async def test_the_header_of_the_caller_reaches_the_receiver_with_every_attempt(
    world: World, receiver: Receiver
) -> None:
    receiver.statuses = [500, 400, 204]
    await _submit(await world.caller(), receiver, traceparent=OURS)
    received = await receiver.wait_for(3)
    assert {one.headers["traceparent"] for one in received} == {OURS}
    assert await _traceparents(world) == [OURS]


@pytest.mark.parametrize(
    "invalid", [None, "nonsense", f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", OURS.upper()]
)
async def test_who_brings_no_valid_header_gets_one_that_is_made_for_him(
    world: World, receiver: Receiver, invalid: str | None
) -> None:
    await _submit(await world.caller(), receiver, **({"traceparent": invalid} if invalid else {}))
    (got,) = await receiver.wait_for(1)
    (made,) = await _traceparents(world)
    assert got.headers["traceparent"] == made
    assert traceparent.accept([made]) == made
    assert TRACE not in made


async def test_two_headers_are_none(api: World) -> None:
    caller = await api.caller()
    headers = [("Authorization", f"Bearer {caller.key}"), ("traceparent", OURS), ("traceparent", OURS)]
    url = f"{api.base_url}/processes/{CASE}"
    async with api.http.get(url, headers=headers) as response:
        assert response.status == 200
    (made,) = await _traceparents(api)
    assert TRACE not in made


async def test_all_jobs_of_a_batch_are_parts_of_one_trace(api: World) -> None:
    caller = await api.caller()
    numbers = [special_number(one) for one in (Special.EMPTY, Special.SLOW, Special.FLAKY)]
    await caller.post("/jobs/batch", json={"process_numbers": numbers})
    made = await _traceparents(api)
    assert len(made) == 3
    assert len(set(made)) == 1


async def test_a_retry_at_a_callers_wish_is_part_of_the_trace_of_that_wish(
    world: World, receiver: Receiver
) -> None:
    number = special_number(Special.NO_ACCESS)
    caller = await world.caller()
    job_id = await _submit(caller, receiver, number, traceparent=OURS)
    await caller.wait_until_final(number)
    other = f"00-{TRACE[::-1]}-{SPAN}-01"
    await caller.post(f"/jobs/{job_id}/retry", headers={"traceparent": other})
    received = await receiver.wait_for(2)
    assert [one.headers["traceparent"] for one in received] == [OURS, other]


async def test_who_joins_a_job_leaves_it_in_the_trace_that_it_is_part_of(api: World) -> None:
    caller = await api.caller()
    for header in (OURS, f"00-{TRACE[::-1]}-{SPAN}-01"):
        await caller.post("/jobs", json={"process_number": CASE}, headers={"traceparent": header})
    assert await _traceparents(api) == [OURS]


async def test_what_tells_of_no_job_has_a_header_too_the_same_with_each_attempt(
    world: World, receiver: Receiver
) -> None:
    caller = await world.caller()
    await caller.post("/jobs", json={"process_number": CASE})
    await caller.wait_until_final(CASE)
    receiver.statuses = [400, 204]
    await caller.post("/jobs/batch", json={"process_numbers": [CASE], "batch_webhook_url": receiver.url})
    received = await receiver.wait_for(2)
    assert {one.event["type"] for one in received} == {"batch.finished"}
    (header,) = {one.headers["traceparent"] for one in received}
    assert traceparent.accept([header]) == header


async def test_a_test_event_is_part_of_the_trace_of_who_asked_for_it(api: World, receiver: Receiver) -> None:
    caller = await api.caller()
    body = {"webhook_url": receiver.url}
    await caller.post("/webhooks/webhook-send-test", json=body, headers={"traceparent": OURS})
    (got,) = await receiver.wait_for(1)
    assert got.headers["traceparent"] == OURS


async def test_the_database_refuses_what_is_no_traceparent(api: World) -> None:
    await (await api.caller()).post("/jobs", json={"process_number": CASE})
    for invalid in (OURS.upper(), f"01{OURS[2:]}", f"{OURS}\n", ""):
        async with api.db.connection() as conn:
            with pytest.raises(Exception, match="jobs_traceparent_check"):
                await conn.execute("update jobs set traceparent = $1", invalid)


async def test_it_is_no_news_for_callers(api: World) -> None:
    await (await api.caller()).post("/jobs", json={"process_number": CASE})
    async with api.db.connection() as conn:
        before = await conn.fetchval("select sequence from jobs")
        await conn.execute("update jobs set traceparent = $1", OURS)
        assert await conn.fetchval("select sequence from jobs") == before


# With spans -----------------------------------------------------------------------------------------


async def test_one_trace_leads_from_the_request_to_the_webhook(
    recorded: Recording, world: World, receiver: Receiver
) -> None:
    caller = await world.caller()
    job_id = await _submit(caller, receiver, traceparent=OURS)
    (got,) = await receiver.wait_for(1)
    (request,) = recorded.all("POST /jobs")
    (run,) = await recorded.wait_for("run")
    (deliver,) = await recorded.wait_for("deliver")
    (sent,) = recorded.all("webhook send")

    assert _trace(request) == TRACE
    assert _parent(request) == SPAN
    assert (request.kind, run.kind, deliver.kind) == (SpanKind.SERVER, SpanKind.CONSUMER, SpanKind.PRODUCER)
    assert (await _traceparents(world))[0].split("-")[2] == _id(request)
    assert {_trace(one) for one in (run, deliver, sent)} == {TRACE}
    assert (_parent(run), _parent(deliver), _parent(sent)) == (_id(request), _id(request), _id(deliver))
    for name, count in (
        ("portal read_process", 1),
        ("portal open_document", 26),
        ("portal receive_document", 26),
        ("s3 put_object", 26),
    ):
        made = recorded.all(name)
        assert len(made) == count
        assert {(_trace(one), _parent(one), one.kind) for one in made} == {(TRACE, _id(run), SpanKind.CLIENT)}
    assert _id(run) in {_parent(one) for one in recorded.all("database transaction")}
    # One conversation with Redis serves all runs of the process.
    assert not recorded.all("redis portal_limit")
    assert _ids(got.headers["traceparent"]) == (TRACE, _id(sent))
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/jobs",
        "http.response.status_code": 202,
    }
    assert run.attributes == {"autos.job.id": job_id}
    assert request.resource.attributes["service.name"] == "autos-test"


async def test_without_a_header_the_request_begins_the_trace(
    recorded: Recording, world: World, receiver: Receiver
) -> None:
    await _submit(await world.caller(), receiver)
    (got,) = await receiver.wait_for(1)
    (request,) = recorded.all("POST /jobs")
    assert request.parent is None
    assert _ids(got.headers["traceparent"])[0] == _trace(request)


async def test_a_later_run_has_a_trace_of_its_own_with_a_link_to_the_request(
    recorded: Recording, world: World, receiver: Receiver
) -> None:
    number = special_number(Special.CODEX_SOME)
    await _submit(await world.caller(), receiver, number, traceparent=OURS)
    (got,) = await receiver.wait_for(1)
    first, *later = await recorded.wait_for("run", 3)
    (request,) = recorded.all("POST /jobs")
    assert (_trace(first), _parent(first), list(first.links)) == (TRACE, _id(request), [])
    assert len({_trace(one) for one in later} | {TRACE}) == 3
    for run in later:
        assert run.parent is None
        assert [(one.context.trace_id, one.context.span_id) for one in run.links] == [
            (int(TRACE, 16), int(_id(request), 16))
        ]
        assert [one for one in recorded.all("portal read_process") if _parent(one) == _id(run)]
    # The webhook tells of the end for the first time, and is part of what the caller asked for.
    assert _ids(got.headers["traceparent"])[0] == TRACE


async def test_a_webhook_that_is_sent_again_has_a_trace_of_its_own_with_a_link(
    recorded: Recording, world: World, receiver: Receiver
) -> None:
    receiver.statuses = [400]
    caller = await world.caller()
    await _submit(caller, receiver, traceparent=OURS)
    await receiver.wait_for(2)
    first, second = await recorded.wait_for("deliver", 2)
    (request,) = recorded.all("POST /jobs")
    (listed,) = (await caller.get("/webhooks/deliveries")).json["items"]
    await caller.post(f"/webhooks/deliveries/{listed['id']}/redeliver")
    received = await receiver.wait_for(3)
    by_hand = (await recorded.wait_for("deliver", 3))[2]
    assert _parent(first) == _id(request)
    for again in (second, by_hand):
        assert again.parent is None
        assert [f"{one.context.span_id:016x}" for one in again.links] == [_id(request)]
    traces = [_ids(one.headers["traceparent"])[0] for one in received]
    assert traces == [TRACE, _trace(second), _trace(by_hand)]
    assert len(set(traces)) == 3


async def test_each_attempt_is_a_span_that_the_receiver_can_go_on_from(
    recorded: Recording, world: World, receiver: Receiver
) -> None:
    receiver.statuses = [500, 204]
    await _submit(await world.caller(), receiver, traceparent=OURS)
    received = await receiver.wait_for(2)
    (deliver,) = await recorded.wait_for("deliver")
    sent = recorded.all("webhook send")
    assert [_ids(one.headers["traceparent"]) for one in received] == [(TRACE, _id(one)) for one in sent]
    assert {_parent(one) for one in sent} == {_id(deliver)}
    assert [(one.status.status_code, (one.attributes or {}).get("error.type")) for one in sent] == [
        (StatusCode.ERROR, "5xx"),
        (StatusCode.UNSET, None),
    ]


async def test_a_failure_is_told_by_its_code_and_nothing_more(
    recorded: Recording, world: World, receiver: Receiver
) -> None:
    number = special_number(Special.NO_ACCESS)
    await _submit(await world.caller(), receiver, number)
    await receiver.wait_for(1)
    (read,) = recorded.all("portal read_process")
    assert (read.status.status_code, read.status.description) == (StatusCode.ERROR, None)
    assert read.attributes == {"error.type": "no_access"}
    assert not read.events


async def test_no_span_tells_a_secret_a_url_or_a_process(
    recorded: Recording, world: World, receiver: Receiver
) -> None:
    receiver.statuses = [500, 400]
    caller = await world.caller()
    body = {"process_number": CASE, "webhook_url": f"{receiver.url}?token=hush"}
    await caller.post("/jobs", json=body)
    await caller.get(f"/processes/{CASE}/status?fields=summary")
    await caller.get(f"/processes/{special_number(Special.UNKNOWN)}")
    await caller.wait_until_final(CASE)
    await caller.wait_until_final(special_number(Special.UNKNOWN))
    await receiver.wait_for(3)
    await recorded.wait_for("deliver", 2)
    told = [one.to_json() for one in recorded.all()]
    assert len(told) > 50
    for text in told:
        assert not re.search(r"hush|://|127\.0\.0\.1|portal-token|autos_sandbox|whsec_", text), text
        assert caller.key not in text
        assert "1003579" not in text, text
        assert "9000001" not in text, text


async def test_what_the_caller_does_not_want_recorded_is_not(
    recorded: Recording, world: World, receiver: Receiver
) -> None:
    await _submit(await world.caller(), receiver, traceparent=f"00-{TRACE}-{SPAN}-00")
    (got,) = await receiver.wait_for(1)
    trace_id, span_id = _ids(got.headers["traceparent"])
    assert trace_id == TRACE
    assert got.headers["traceparent"].endswith("-00")
    assert not [one for one in recorded.all() if _trace(one) == TRACE]
    assert span_id != SPAN


async def test_a_request_that_fails_is_a_span_that_failed(recorded: Recording, api: World) -> None:
    api.load.under_way = api.settings.max_requests
    assert (await (await api.caller()).get("/jobs")).status == 503
    (request,) = recorded.all("GET /jobs")
    assert request.status.status_code is StatusCode.ERROR
    assert (request.attributes or {})["error.type"] == "503"


async def test_what_many_ask_together_is_part_of_nobodys_trace(recorded: Recording, api: World) -> None:
    caller = await api.caller()
    job_id = (await caller.post("/jobs", json={"process_number": CASE})).json["job_id"]
    await asyncio.gather(*(caller.get(f"/jobs/{job_id}") for _ in range(5)))
    requests = recorded.all("GET /jobs/{job_id}")
    assert len({_trace(one) for one in requests}) == 5
    # Who calls, and which job, is looked up for all of them at once.
    assert not [one for one in recorded.all() if _parent(one) in {_id(request) for request in requests}]


async def test_requests_of_one_connection_are_traces_of_their_own(recorded: Recording, api: World) -> None:
    caller = await api.caller()
    for _ in range(3):
        await caller.get("/jobs")
    made = recorded.all("GET /jobs")
    assert len({_trace(one) for one in made}) == 3
    assert {one.parent for one in made} == {None}
    for request in made:
        assert [one.name for one in recorded.all() if _parent(one) == _id(request)] == ["database statements"]
