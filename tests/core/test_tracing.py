"""The recorder of spans: absent where nobody asked for it, and a collector gets what it recorded."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from service.core import tracing
from service.core.settings import Settings
from service.core.spans import Spans, open_export
from service.sandbox.children import free_port
from tests.faults.members import open_member
from tests.receiver import Receiver
from tests.world import World

CASE = "1003579-22.2025.8.26.0564"
ROOT = Path(__file__).parents[2]
OURS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

# Everything of both processes is read; then it is asked for traces, once without wanting any.
IMPORT_ALL = """
import sys
{before}
import service.serve, service.commands, worker.main
from service.core import tracing
from service.core.settings import Settings
with tracing.open_tracing(Settings(otlp_endpoint={endpoint!r}), service="x"):
    with tracing.within("run", None, kind="consumer") as part:
        assert len(part.traceparent) == 55
    assert not tracing.is_on()
print([name for name, module in sys.modules.items() if name.startswith("opentelemetry") and module])
"""


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_without_a_collector_nothing_of_the_sdk_is_imported() -> None:
    done = _run(IMPORT_ALL.format(before="", endpoint=None))
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_without_the_extra_everything_works_and_says_what_is_missing() -> None:
    before = "sys.modules['opentelemetry'] = None"
    done = _run(IMPORT_ALL.format(before=before, endpoint="http://127.0.0.1:1"))
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert "autos[otel]" in done.stderr


def test_where_nothing_is_recorded_a_part_hands_on_what_it_was_handed() -> None:
    with tracing.within("run", OURS, kind="consumer") as part:
        part.note({"autos.job.id": "1"})
        part.failed("x")
        assert part.traceparent == OURS
        assert tracing.current() is None
        assert tracing.begin_call("portal") is None


@dataclass
class Collector:
    """What an OTLP collector was sent."""

    url: str = ""
    requests: list[tuple[str, ExportTraceServiceRequest]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        sent = ExportTraceServiceRequest()
        sent.ParseFromString(await request.read())
        self.requests.append((request.path, sent))
        return web.Response(content_type="application/x-protobuf")


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    opened = Collector()
    app = web.Application()
    app.router.add_post("/{path:.*}", opened.take)
    server = TestServer(app)
    await server.start_server()
    opened.url = str(server.make_url("/")).rstrip("/")
    yield opened
    await server.close()


def _record_one(settings: Settings) -> None:
    with (
        tracing.open_tracing(settings, service="autos-worker"),
        tracing.within("run", OURS, kind="consumer"),
    ):
        assert tracing.is_on()


async def test_a_collector_gets_what_was_recorded_before_the_process_ends(collector: Collector) -> None:
    await asyncio.to_thread(_record_one, Settings(otlp_endpoint=f"{collector.url}/otlp/"))
    ((path, sent),) = collector.requests
    assert path == "/otlp/v1/traces"
    (of_one,) = sent.resource_spans
    names = {one.key: one.value.string_value for one in of_one.resource.attributes}
    assert names["service.name"] == "autos-worker"
    (span,) = of_one.scope_spans[0].spans
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == ("run", *OURS.split("-")[1:3])
    assert not tracing.is_on()


async def test_the_operators_own_name_of_the_service_goes_before_ours(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "autos-north")
    await asyncio.to_thread(_record_one, Settings(otlp_endpoint=collector.url))
    attributes = collector.requests[0][1].resource_spans[0].resource.attributes
    assert {one.value.string_value for one in attributes if one.key == "service.name"} == {"autos-north"}


async def test_both_processes_send_their_parts_of_one_trace_before_they_end(
    api: World, collector: Collector, receiver: Receiver, tmp_path: Path
) -> None:
    settings = api.settings.model_copy(update={"otlp_endpoint": collector.url, "port": free_port()})
    async with (
        open_member("service", settings, tmp_path / "service.log"),
        open_member("worker", settings, tmp_path / "worker.log"),
    ):
        caller = replace(await api.caller(), base_url=f"http://127.0.0.1:{settings.port}")
        body = {"process_number": CASE, "webhook_url": receiver.url}
        assert (await caller.post("/jobs", json=body, headers={"traceparent": OURS})).status == 202
        await receiver.wait_for(1)
    sent = {
        (service.value.string_value, span.name)
        for _, request in collector.requests
        for of_one in request.resource_spans
        for service in of_one.resource.attributes
        for scope in of_one.scope_spans
        for span in scope.spans
        if service.key == "service.name" and span.trace_id.hex() == OURS.split("-")[1]
    }
    assert {("autos-api", "POST /jobs"), ("autos-worker", "run"), ("autos-worker", "deliver")} <= sent


def test_of_an_error_a_span_tells_the_kind_and_not_the_text() -> None:
    exporter = InMemorySpanExporter()
    spans = Spans(SimpleSpanProcessor(exporter), service="x")
    with (
        pytest.raises(ValueError, match="hush"),
        tracing.recording(spans),
        tracing.within("run", OURS, kind="consumer"),
    ):
        raise ValueError("hush")
    (span,) = exporter.get_finished_spans()
    assert span.attributes == {"error.type": "ValueError"}
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
    assert "hush" not in span.to_json()


async def test_a_collector_that_never_answers_does_not_keep_a_process_from_ending(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    # It would try for an hour.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3600")

    def record() -> None:
        with (
            open_export("http://127.0.0.1:1", service="x", last_export_s=0.2) as spans,
            tracing.recording(spans),
            tracing.within("run", None, kind="consumer"),
        ):
            pass

    async with asyncio.timeout(20):
        await asyncio.to_thread(record)
