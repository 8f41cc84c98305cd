"""The API against a small model of it: what two clients, a worker, its death and the clock do in any order.

The test's own loop runs Autos; hypothesis plays in a thread and hands each step over to it.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from redis.asyncio import Redis

from service.core import jobs
from service.core.db import Connection
from service.core.errors import LeaseLostError
from service.core.jobs import Job
from service.sandbox.cases import Special, special_number
from tests.claims import claim_one
from tests.conftest import TABLES, MakeSettings
from tests.world import FINAL, Answer, Caller, World, open_world
from worker.context import Context, open_context
from worker.sweep import Sweep
from worker.tasks.fetch_process import fetch_process

# How a job of each process ends when nothing gets in its way.
ENDS = {
    special_number(Special.GROWING): "completed",
    special_number(Special.CODEX_SOME): "partial",
    special_number(Special.UNKNOWN): "failed",
}
HOOKS = (None, "https://hooks.example.com/a", "https://hooks.example.com/b")
CLIENTS = ("one", "two")
MAX_CRASHES = 3
_STEP_TIMEOUT_S = 60.0

T = TypeVar("T")


@dataclass
class Stage:
    """A running Autos whose worker is in the machine's hands."""

    loop: asyncio.AbstractEventLoop
    world: World
    context: Context
    emptied: Connection

    def do(self, step: Coroutine[Any, Any, T]) -> T:
        """Run a step on the test's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(step, self.loop).result(_STEP_TIMEOUT_S)

    async def start_afresh(self) -> dict[str, Caller]:
        """Forget everything; return new clients."""
        await self.emptied.execute(f"truncate {TABLES}")
        async with Redis.from_url(self.world.settings.redis_url.get_secret_value()) as redis:
            await redis.flushdb()
        return {name: await self.world.caller(name) for name in CLIENTS}

    async def execute(self, statement: str, *arguments: object) -> None:
        """Change rows, as the clock or an accident would."""
        async with self.world.db.connection() as conn:
            await conn.execute(statement, *arguments)

    async def fetch(self, query: str) -> list[dict[str, Any]]:
        """Read rows."""
        async with self.world.db.connection() as conn:
            return [dict(row) for row in await conn.fetch(query)]


@dataclass
class ModelJob:
    """What the model knows of a job."""

    id: str
    number: str
    status: str = "pending"
    crashes: int = 0
    clients: set[str] = field(default_factory=set)
    sequence: int = 0
    progress: float = 0.0


class Machine(RuleBasedStateMachine):
    """The rules are what can happen; each checks the answer against what the model expects."""

    stage: ClassVar[Stage]

    @initialize()
    def begin(self) -> None:
        self.callers = self.stage.do(self.stage.start_afresh())
        self.jobs: list[ModelJob] = []
        self.stale: set[str] = set()
        self.claims: list[Job] = []
        for number in ENDS:
            self.submit_one("one", number, HOOKS[1], force=False)

    # What the model expects ------------------------------------------------------------------------

    def _latest(self, number: str, client: str | None = None) -> ModelJob | None:
        found = [job for job in self.jobs if job.number == number]
        mine = [job for job in found if client is None or client in job.clients]
        return mine[-1] if mine else None

    def _active(self, number: str) -> ModelJob | None:
        latest = self._latest(number)
        return latest if latest and latest.status not in FINAL else None

    def _call(self, client: str, method: str, path: str, **options: Any) -> Answer:
        return self.stage.do(self.callers[client].call(method, path, **options))

    def _see(self, job: ModelJob, answer: Answer) -> None:
        """Look at a job's answer as a careful caller would."""
        shown = answer.json
        assert (shown["job_id"], shown["status"]) == (job.id, job.status)
        assert shown["sequence"] >= job.sequence
        assert shown["progress_percentage"] >= job.progress
        assert (shown["progress_percentage"] == 100) == (job.status in FINAL)
        job.sequence, job.progress = shown["sequence"], shown["progress_percentage"]

    def _submitted(self, client: str, number: str, answer: Answer, *, may_be_cached: bool) -> None:
        active, latest = self._active(number), self._latest(number)
        is_cached = may_be_cached and latest and latest.status == "completed" and number not in self.stale
        if active or is_cached:
            job = active or latest
            assert job
            assert answer.json["job_id"] == job.id
        else:
            job = ModelJob(answer.json["job_id"], number)
            assert job.id not in {one.id for one in self.jobs}
            self.jobs.append(job)
        assert answer.status == (202 if job.status not in FINAL else 200)
        job.clients.add(client)
        self._see(job, answer)

    # Callers --------------------------------------------------------------------------------------

    @rule(
        client=st.sampled_from(CLIENTS),
        number=st.sampled_from(list(ENDS)),
        hook=st.sampled_from(HOOKS),
        force=st.booleans(),
    )
    def submit(self, client: str, number: str, hook: str | None, force: bool) -> None:
        self.submit_one(client, number, hook, force=force)

    def submit_one(self, client: str, number: str, hook: str | None, *, force: bool) -> None:
        body = {"process_number": number, "webhook_url": hook, "force_refresh": force}
        answer = self._call(client, "POST", "/jobs", json=body)
        self._submitted(client, number, answer, may_be_cached=not force)

    @rule(client=st.sampled_from(CLIENTS), number=st.sampled_from(list(ENDS)))
    def poll(self, client: str, number: str) -> None:
        answer = self._call(client, "GET", f"/processes/{number}/status")
        job = self._latest(number, client)
        if job is None:
            assert answer.status == 404
        else:
            self._see(job, answer)

    @rule(client=st.sampled_from(CLIENTS), data=st.data())
    def look_at_a_job(self, client: str, data: st.DataObject) -> None:
        if job := self._some_job(data):
            answer = self._call(client, "GET", f"/jobs/{job.id}")
            if client not in job.clients:
                assert answer.status == 404
            else:
                self._see(job, answer)

    @rule(client=st.sampled_from(CLIENTS), data=st.data())
    def cancel(self, client: str, data: st.DataObject) -> None:
        if (job := self._some_job(data)) is None:
            return
        answer = self._call(client, "POST", f"/jobs/{job.id}/cancel")
        if client not in job.clients:
            assert answer.status == 404
        elif job.status in FINAL and job.status != "cancelled":
            assert _problem(answer) == (409, "job-final")
        elif job.status not in FINAL and len(job.clients) > 1:
            assert _problem(answer) == (409, "job-shared")
        else:
            job.status = "cancelled"
            self._see(job, answer)

    @rule(client=st.sampled_from(CLIENTS), data=st.data())
    def retry(self, client: str, data: st.DataObject) -> None:
        if (job := self._some_job(data)) is None:
            return
        answer = self._call(client, "POST", f"/jobs/{job.id}/retry")
        if client not in job.clients:
            assert answer.status == 404
        elif job.status not in FINAL or job.status == "completed":
            assert _problem(answer) == (409, "nothing-to-retry")
        else:
            self._submitted(client, job.number, answer, may_be_cached=True)

    def _some_job(self, data: st.DataObject) -> ModelJob | None:
        return data.draw(st.sampled_from(self.jobs)) if self.jobs else None

    # The worker, its death, the clock ----------------------------------------------------------------

    @rule()
    def a_worker_does_the_job_whose_turn_it_is(self) -> None:
        pending = {job.id: job for job in self.jobs if job.status == "pending"}
        self.stage.do(fetch_process(self.stage.context, uuid4()))
        done = [pending[job_id] for job_id in self.stage.do(self._final_of(list(pending)))]
        assert len(done) == min(1, len(pending))
        for job in done:
            job.status = ENDS[job.number]
            self.stale.discard(job.number)

    async def _final_of(self, job_ids: list[str]) -> list[str]:
        async with self.stage.world.db.connection() as conn:
            rows = await conn.fetch(
                "select id from jobs where id = any($1::uuid[]) and job_status_is_final(status)", job_ids
            )
        return [str(row["id"]) for row in rows]

    @rule()
    def a_worker_claims_a_job_and_says_no_more(self) -> None:
        pending = {job.id: job for job in self.jobs if job.status == "pending"}
        claimed = self.stage.do(self._claim())
        assert (claimed is not None) == bool(pending)
        if claimed:
            pending[str(claimed.id)].status = "processing"
            self.claims.append(claimed)

    async def _claim(self) -> Job | None:
        async with self.stage.world.db.connection() as conn:
            return await claim_one(conn, lease_s=3600)

    @rule(data=st.data())
    def a_worker_comes_back_to_its_job(self, data: st.DataObject) -> None:
        """It may write only as long as nobody took the job from it."""
        if not self.claims:
            return
        claimed = data.draw(st.sampled_from(self.claims))
        job = next(one for one in self.jobs if one.id == str(claimed.id))
        is_owner = job.status == "processing" and claimed is self._last_claim(claimed)
        assert self.stage.do(self._may_write(claimed)) == is_owner

    def _last_claim(self, claimed: Job) -> Job:
        return [one for one in self.claims if one.id == claimed.id][-1]

    async def _may_write(self, claimed: Job) -> bool:
        try:
            async with self.stage.world.db.transaction() as conn:
                await jobs.hold(conn, claimed)
        except LeaseLostError:
            return False
        return True

    @rule()
    def leases_run_out_and_the_sweep_comes(self) -> None:
        self.stage.do(self.stage.execute("update jobs set lease_until = lease_until - interval '2 h'"))
        self.stage.do(Sweep(self.stage.context).free_expired_leases())
        for job in self.jobs:
            if job.status == "processing":
                job.crashes += 1
                job.status = "failed" if job.crashes >= MAX_CRASHES else "pending"

    @rule()
    def the_lists_grow_old(self) -> None:
        self.stage.do(self.stage.execute("update processes set listed_at = listed_at - interval '1 d'"))
        self.stale.update(ENDS)

    # What holds at all times ---------------------------------------------------------------------------

    @invariant()
    def every_subscription_of_a_final_job_has_its_delivery(self) -> None:
        rows = self.stage.do(
            self.stage.fetch(
                """select j.status::text, count(d.id) as deliveries
                   from subscriptions s join jobs j on j.id = s.job_id
                   left join deliveries d on d.subscription_id = s.id
                   where s.webhook_url is not null group by s.id, j.status"""
            )
        )
        for row in rows:
            assert row["deliveries"] == (1 if row["status"] in FINAL else 0)

    @invariant()
    def the_rows_agree_with_the_model(self) -> None:
        rows = self.stage.do(self.stage.fetch("select id::text, status::text, process_number from jobs"))
        assert {row["id"]: row["status"] for row in rows} == {job.id: job.status for job in self.jobs}
        active = Counter(row["process_number"] for row in rows if row["status"] not in FINAL)
        assert set(active.values()) <= {1}

    @invariant()
    def no_document_is_unfinished_without_a_job(self) -> None:
        rows = self.stage.do(
            self.stage.fetch(
                """select 1 from documents d where status in ('pending', 'processing') and not exists (
                       select from jobs j where j.process_number = d.process_number
                                            and j.status in ('pending', 'processing'))"""
            )
        )
        assert rows == []


def _problem(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["type"].rpartition("/")[2]


@pytest.fixture
async def stage(empty: None, make_settings: MakeSettings, _emptied: Connection) -> AsyncIterator[Stage]:
    # Without retries every run settles; leases end only when a rule lets the clock move.
    autos = make_settings(job_retry_delays_s=(), lease_s=3600.0, max_crashes=MAX_CRASHES, fresh_s=3600)
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(open_world(autos, with_worker=False))
        context = await stack.enter_async_context(open_context(world.settings))
        yield Stage(asyncio.get_running_loop(), world, context, _emptied)


async def test_the_api_does_what_the_model_says_in_any_order(stage: Stage) -> None:
    Machine.stage = stage
    budget = settings(
        max_examples=int(os.environ.get("MODEL_EXAMPLES", "15")),
        stateful_step_count=40,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    await asyncio.to_thread(run_state_machine_as_test, Machine, settings=budget)
