"""The invariants, asserted from outside after a run: what callers and receivers saw, S3, and the rows."""

import base64
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, TypeAlias
from urllib.parse import quote
from uuid import UUID

from standardwebhooks import Webhook

from service.core.db import Connection
from service.core.settings import Settings
from tests.faults.evidence import Evidence, Hook, Poll
from tests.faults.scene import Row, Scene, look_at

FINAL = frozenset({"completed", "partial", "failed", "cancelled"})
_MOST_SHOWN = 5
_DEFECTS = (
    "Task exception was never retrieved",
    "Task was destroyed but it is pending",
    "Unhandled exception",
    "coroutine ignored GeneratorExit",
    "was never awaited",
)
# The pools to PostgreSQL, Redis, S3 and the portal keep what they opened; a leak grows with every fault.
_SPARE_FDS = 40
_SPARE_BYTES = 100 * 1024 * 1024

Invariant: TypeAlias = Callable[[Scene], Iterator[str]]
"""Yields one line for each violation."""

INVARIANTS: dict[str, Invariant] = {}


@dataclass(frozen=True)
class Violation:
    """An invariant that does not hold, and where."""

    invariant: str
    detail: str


async def check(
    evidence: Evidence,
    *,
    conn: Connection,
    storage_settings: Settings,
    signing_secrets: dict[UUID, bytes],
    schedule_rounds: int,
) -> list[Violation]:
    """Look at everything and ask every invariant; a few violations of each are returned."""
    scene = await look_at(
        evidence,
        conn=conn,
        settings=storage_settings,
        signing_secrets=signing_secrets,
        schedule_rounds=schedule_rounds,
    )
    return [
        Violation(name, detail)
        for name, invariant in INVARIANTS.items()
        for detail in list(invariant(scene))[:_MOST_SHOWN]
    ]


def _invariant(name: str) -> Callable[[Invariant], Invariant]:
    def add(function: Invariant) -> Invariant:
        INVARIANTS[name] = function
        return function

    return add


# Jobs ---------------------------------------------------------------------------------------------


@_invariant("every acknowledged job exists and ends")
def _acknowledged_jobs_end(scene: Scene) -> Iterator[str]:
    for job_id in {call.job_id for call in scene.evidence.calls}:
        if job_id not in scene.jobs:
            yield f"job {job_id} does not exist"
    for job in scene.jobs.values():
        if job["status"] not in FINAL:
            yield f"job {job['id']} is {job['status']}"


@_invariant("no acknowledged job is ever unknown")
def _never_unknown(scene: Scene) -> Iterator[str]:
    since: dict[tuple[UUID, UUID], datetime] = {}
    for call in scene.evidence.calls:
        key = (call.client_id, call.job_id)
        since[key] = min(call.at, since.get(key, call.at))
    for poll in scene.evidence.polls:
        acknowledged_at = since.get((poll.client_id, poll.job_id))
        if poll.http_status == 404 and acknowledged_at and acknowledged_at < poll.at:
            yield f"job {poll.job_id} was not found by its own client"


@_invariant("one active job per process")
def _one_active_job(scene: Scene) -> Iterator[str]:
    by_process = defaultdict(list)
    for job in scene.jobs.values():
        by_process[job["process_number"]].append(job)
    for number, jobs in by_process.items():
        jobs.sort(key=lambda job: job["created_at"])
        for first, second in pairwise(jobs):
            if first["finished_at"] is None or first["finished_at"] > second["created_at"]:
                yield f"{number}: job {second['id']} began before {first['id']} ended"


@_invariant("no caller sees another's job")
def _no_foreign_jobs(scene: Scene) -> Iterator[str]:
    known = {(row["client_id"], row["job_id"]) for row in scene.subscriptions.values()}
    for poll in scene.evidence.polls:
        if poll.http_status == 200 and (poll.client_id, poll.job_id) not in known:
            yield f"client {poll.client_id} saw job {poll.job_id}"


# Documents and objects ----------------------------------------------------------------------------


@_invariant("available means stored, and its link works")
def _available_is_stored(scene: Scene) -> Iterator[str]:
    for row in scene.documents:
        if row["status"] != "available":
            continue
        got = scene.links[row["id"]]
        if got.status != 200:
            yield f"document {row['id']}: its link answered {got.status}"
        elif (got.size_bytes, got.sha256) != (row["size_bytes"], row["sha256"]):
            yield f"document {row['id']}: its object has other bytes"


@_invariant("nothing unreferenced is stored")
def _nothing_unreferenced(scene: Scene) -> Iterator[str]:
    known = {row["object_key"] for row in scene.documents}
    for key in sorted(scene.object_keys - known):
        yield f"object {key}"
    for key in sorted(scene.uploads):
        yield f"upload {key}"


@_invariant("an object belongs to one document of its own process")
def _objects_have_one_owner(scene: Scene) -> Iterator[str]:
    owners: dict[str, UUID] = {}
    for row in scene.documents:
        key = row["object_key"]
        if key is None:
            continue
        if owners.setdefault(key, row["id"]) != row["id"]:
            yield f"{key} has two owners"
        if not key.startswith(f"processes/{row['process_number']}/{row['portal_uuid']}/"):
            yield f"{key} is none of document {row['id']}"


@_invariant("nothing is kept that is too secret")
def _nothing_too_secret(scene: Scene) -> Iterator[str]:
    for row in scene.documents:
        level = max(row["secrecy_level"], scene.levels[row["process_number"]])
        if row["object_key"] is not None and level > scene.max_secrecy:
            yield f"document {row['id']} has level {level}"


@_invariant("no document is unfinished under a final job")
def _documents_are_finished(scene: Scene) -> Iterator[str]:
    active = {job["process_number"] for job in scene.jobs.values() if job["status"] not in FINAL}
    for row in scene.documents:
        if row["status"] in ("pending", "processing") and row["process_number"] not in active:
            yield f"document {row['id']} is {row['status']}"


@_invariant("a final status says what became of the documents")
def _status_tells_the_truth(scene: Scene) -> Iterator[str]:
    for job in scene.latest_jobs():
        rows = scene.documents_of(job["process_number"])
        available = sum(row["status"] == "available" for row in rows)
        counts = (job["total_documents"], job["completed_documents"], job["failed_documents"])
        if job["status"] in FINAL and counts != (len(rows), available, len(rows) - available):
            yield f"job {job['id']} counts {counts}, there are {len(rows)} with {available} available"
        if job["status"] == "completed" and available != len(rows):
            yield f"job {job['id']} is completed without {len(rows) - available} documents"
        if job["status"] == "partial" and available in (0, len(rows)):
            yield f"job {job['id']} is partial with {available} of {len(rows)}"


# Deliveries ---------------------------------------------------------------------------------------


@_invariant("each subscription of a final job has its one delivery")
def _one_delivery_each(scene: Scene) -> Iterator[str]:
    made = defaultdict(list)
    for delivery in scene.deliveries.values():
        made[delivery["subscription_id"]].append(delivery)
    for subscription in scene.subscriptions.values():
        job = scene.jobs[subscription["job_id"]]
        events = [delivery["event"] for delivery in made[subscription["id"]]]
        wanted = [f"job.{job['status']}"] if subscription["webhook_url"] and job["status"] in FINAL else []
        if events != wanted:
            yield f"subscription {subscription['id']} has {events}, not {wanted}"


@_invariant("a webhook with links was noted before it left")
def _links_were_noted(scene: Scene) -> Iterator[str]:
    for hook in scene.evidence.hooks:
        documents = json.loads(hook.body).get("documents", ())
        if any(one["content_url"] for one in documents) and _delivery_id(hook) not in scene.noted:
            yield f"{hook.headers['webhook-id']}"


@_invariant("delivered means that the receiver answered 2xx")
def _delivered_is_accepted(scene: Scene) -> Iterator[str]:
    accepted = {_delivery_id(hook) for hook in scene.evidence.hooks if 200 <= (hook.answered or 0) < 300}
    for delivery in scene.deliveries.values():
        if delivery["status"] == "delivered" and delivery["id"] not in accepted:
            yield f"delivery {delivery['id']}"


@_invariant("dead means that the schedule is spent, or 410")
def _dead_is_given_up(scene: Scene) -> Iterator[str]:
    for delivery in scene.deliveries.values():
        is_spent = delivery["rounds"] > scene.schedule_rounds or delivery["last_status_code"] == 410
        if delivery["status"] == "dead" and not is_spent:
            yield f"delivery {delivery['id']} after {delivery['rounds']} rounds"


@_invariant("repeats of a webhook are identical")
def _repeats_are_identical(scene: Scene) -> Iterator[str]:
    first: dict[UUID | None, bytes] = {}
    for hook in scene.evidence.hooks:
        body = _without_links(hook.body)
        if first.setdefault(_delivery_id(hook), body) != body:
            yield f"delivery {_delivery_id(hook)}"


@_invariant("every webhook is signed by its client's secret")
def _signatures_verify(scene: Scene) -> Iterator[str]:
    for hook in scene.evidence.hooks:
        delivery = scene.deliveries.get(_delivery_id(hook) or UUID(int=0))
        if delivery is None:
            yield f"{hook.headers.get('webhook-id')} is no delivery of ours"
            continue
        client_id = scene.subscriptions[delivery["subscription_id"]]["client_id"]
        if hook.headers.get("webhook-signature") != _signature(hook, scene.signing_secrets[client_id]):
            yield f"delivery {delivery['id']}"


@_invariant("no webhook is sent before its job has ended as it says")
def _never_before_the_commit(scene: Scene) -> Iterator[str]:
    for hook in scene.evidence.hooks:
        event = json.loads(hook.body)
        job = scene.jobs.get(UUID(event["job_id"]))
        if job is None or job["finished_at"] is None or job["finished_at"] > hook.at:
            yield f"{event['type']} of job {event['job_id']} came at {hook.at}"
        elif _told(event) != _told(job):
            yield f"job {job['id']} was told as {_told(event)}, it is {_told(job)}"


def _told(of: Row) -> tuple[Any, ...]:
    names = ("status", "sequence", "total_documents", "completed_documents", "failed_documents")
    return tuple(of[name] for name in names)


def _delivery_id(hook: Hook) -> UUID | None:
    try:
        return UUID(hook.headers.get("webhook-id", "").removeprefix("msg_"))
    except ValueError:
        return None


def _without_links(body: bytes) -> bytes:
    """A later round has fresh links; all else stays as it was."""
    event = json.loads(body)
    for document in event.get("documents", ()):
        document["download_url"] = document["download_url"] is not None
    return json.dumps(event).encode()


def _signature(hook: Hook, secret: bytes) -> str:
    # Another library's word; its `verify` would also ask for a time not long ago.
    at = datetime.fromtimestamp(int(hook.headers["webhook-timestamp"]), UTC)
    return Webhook(secret).sign(hook.headers["webhook-id"], at, hook.body.decode())


# What callers saw ---------------------------------------------------------------------------------


@_invariant("nobody sees a final job move")
def _final_is_final(scene: Scene) -> Iterator[str]:
    for before, after in _looks(scene):
        if before["status"] in FINAL and _told(before) != _told(after):
            yield f"job {after['job_id']}: {_told(before)}, then {_told(after)}"


@_invariant("progress and sequence never fall")
def _never_back(scene: Scene) -> Iterator[str]:
    for before, after in _looks(scene):
        for name in ("sequence", "progress_percentage"):
            if after[name] < before[name]:
                yield f"job {after['job_id']}: {name} {before[name]}, then {after[name]}"


@_invariant("one sequence is one state")
def _sequence_names_a_state(scene: Scene) -> Iterator[str]:
    seen: dict[tuple[str, int], tuple[Any, ...]] = {}
    for poll in scene.evidence.polls:
        if poll.http_status == 200:
            state = (*_told(poll.answer), poll.answer["progress_percentage"])
            key = (poll.answer["job_id"], poll.answer["sequence"])
            if seen.setdefault(key, state) != state:
                yield f"job {key[0]}: {seen[key]} and {state}"


@_invariant("100 % is said exactly of final jobs")
def _whole_is_final(scene: Scene) -> Iterator[str]:
    for poll in scene.evidence.polls:
        answer = poll.answer
        if poll.http_status == 200 and (answer["progress_percentage"] == 100) != (answer["status"] in FINAL):
            yield f"job {poll.job_id}: {answer['status']} at {answer['progress_percentage']}"


def _looks(scene: Scene) -> Iterator[tuple[Row, Row]]:
    """Every two successive looks of one client at one job; those of two clients may have overtaken."""
    by_pair = defaultdict(list)
    for poll in sorted(scene.evidence.polls, key=_at):
        if poll.http_status == 200:
            by_pair[poll.client_id, poll.job_id].append(poll.answer)
    for answers in by_pair.values():
        yield from pairwise(answers)


def _at(poll: Poll) -> datetime:
    return poll.at


# The processes ------------------------------------------------------------------------------------


@_invariant("no secret is in a log")
def _no_secrets(scene: Scene) -> Iterator[str]:
    for log in scene.evidence.logs:
        text = log.read_text(errors="replace")
        for number, secret in enumerate(scene.evidence.secrets):
            forms = (secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode())
            if any(form in text for form in forms):
                yield f"secret {number} in {log.name}"


@_invariant("no task is forgotten")
def _no_forgotten_tasks(scene: Scene) -> Iterator[str]:
    for log in scene.evidence.logs:
        text = log.read_text(errors="replace")
        for words in _DEFECTS:
            if words in text:
                yield f"{log.name}: {words}"


@_invariant("file descriptors and memory come back")
def _resources_come_back(scene: Scene) -> Iterator[str]:
    for name, (before, after) in scene.evidence.resources.items():
        most = 2 * before + _SPARE_BYTES if name.endswith("memory") else before + _SPARE_FDS
        if after > most:
            yield f"{name}: {before}, then {after}"
