"""The time line of a job that did not go straight to its end."""

import re
from itertools import pairwise
from uuid import UUID

from service.core import documents, job_events, job_upkeep, jobs, subscriptions
from service.core.db import Connection
from service.core.job_events import RUNS_KEPT, Move
from tests.claims import claim_one
from tests.conftest import MakeSettings
from tests.dashboard.reader import signed_in
from tests.world import Caller, World
from worker.context import open_context
from worker.sweep import Sweep

CASE = "1003579-22.2025.8.26.0564"

_ENGLISH = (
    "The job was submitted",
    "A worker took the job<",
    "The job waits: the portal refuses our token (next try after 50 ms)",
    "A worker took the job again: run 2",
    "The job waits: the portal refuses our token (next try after 50 ms)",
    "A worker took the job again: run 3",
    "No sign of the worker came any more",
    "A worker took the job again: run 4",
    "The run did not get everything: the portal does not answer (next try after 5.0 s)",
    "The job was cancelled",
)
_PORTUGUESE = (
    "A tarefa foi solicitada",
    "Um executor assumiu a tarefa<",
    "A tarefa espera: o portal recusa nosso token (próxima tentativa após 50 ms)",
    "Um executor assumiu a tarefa de novo: execução 2",
    "A tarefa espera: o portal recusa nosso token (próxima tentativa após 50 ms)",
    "Um executor assumiu a tarefa de novo: execução 3",
    "O executor não deu mais sinal: a tarefa foi tirada dele",
    "Um executor assumiu a tarefa de novo: execução 4",
    "A execução não obteve tudo: o portal não responde (próxima tentativa após 5,0 s)",
    "A tarefa foi cancelada",
)


async def _submitted(caller: Caller) -> UUID:
    return UUID((await caller.post("/jobs", json={"process_number": CASE})).json["job_id"])


async def _run(conn: Connection, move: Move, reason: str | None = None, delay_s: float = 0.0) -> None:
    """Claim the job and hand it back."""
    job = await claim_one(conn)
    assert job
    counts = await documents.count(conn, job.id)
    await jobs.hand_back(conn, job, counts, delay_s=delay_s, waiting_reason=reason, move=move)


async def test_what_a_job_waited_for_and_who_lost_it_is_shown_in_order_when_it_has_ended(
    api: World, make_settings: MakeSettings
) -> None:
    caller = await api.caller()
    job_id = await _submitted(caller)
    for _ in range(2):
        async with api.db.transaction() as conn:
            await _run(conn, Move.WAITS, "upstream_auth", 0.05)
        await api.until("select next_attempt_at <= now() from jobs")
    async with api.db.connection() as conn:
        assert await claim_one(conn, lease_s=-1)
    async with open_context(make_settings(max_crashes=2)) as context:
        await Sweep(context).free_expired_leases()
    async with api.db.transaction() as conn:
        await _run(conn, Move.RETRIED, "portal_unavailable", 5.0)
    assert (await caller.post(f"/jobs/{job_id}/cancel")).status == 200
    async with signed_in(api, caller.key) as reader:
        for language, texts in (("en", _ENGLISH), ("pt-BR", _PORTUGUESE)):
            page = await reader.get(f"/dashboard/jobs/{job_id}", **{"Accept-Language": language})
            shown = re.findall("<li.*?</time> <span>(.*?)</li>", page.text)
            assert len(shown) == len(texts), shown
            for text, one in zip(texts, shown, strict=True):
                assert one.startswith(text), one


async def test_a_job_that_is_claimed_once_has_no_events(api: World) -> None:
    job_id = await _submitted(await api.caller())
    async with api.db.transaction() as conn:
        assert await claim_one(conn)
        assert await job_events.list_of_job(conn, job_id) == []


async def test_of_a_job_that_waits_for_ever_the_last_runs_are_kept_and_go_with_it(api: World) -> None:
    caller = await api.caller()
    job_id = await _submitted(caller)
    async with api.db.transaction() as conn:
        for _ in range(RUNS_KEPT + 3):
            await _run(conn, Move.WAITS, "throttled")
        await claim_one(conn)
        events = await job_events.list_of_job(conn, job_id)
    assert [one.run for one in events[::2]] == list(range(4, RUNS_KEPT + 5))
    assert {one.what for one in events[::2]} == {Move.CLAIMED}
    assert all(one.run <= two.run for one, two in pairwise(events))
    async with signed_in(api, caller.key) as reader:
        page = await reader.get(f"/dashboard/jobs/{job_id}")
    assert "What happened before is not kept" in page.text
    async with api.db.transaction() as conn:
        await subscriptions.forget(conn, [job_id])
        await job_upkeep.forget(conn, [job_id])
        assert await job_events.list_of_job(conn, job_id) == []
