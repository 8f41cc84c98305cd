"""Submissions of one moment, written together: they share the transaction that each would spend alone."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias
from uuid import UUID

from service.core import metrics, submission, subscriptions
from service.core.clients import Client
from service.core.crash_points import crash_point
from service.core.db import Connection, Database
from service.core.gather import Gatherer
from service.core.news import News
from service.core.queue import Queue
from service.core.settings import Settings
from service.core.submission import Outcome, Submission
from service.core.subscriptions import NO_WEBHOOK, WebhookState
from service.core.wishes import Wish

# A transaction of so many is over in a moment.
_MOST_AT_ONCE = 100
# The workers begin with so many jobs of a request; the sweep rings for the others a moment later.
_MOST_RINGS = 100


@dataclass(frozen=True, slots=True)
class Submitted:
    """What has become of a wish, and of the client's webhook for its job."""

    submission: Submission
    webhook: WebhookState


@dataclass(frozen=True, eq=False)
class _Ask:
    """One client's wish; never the same as another, whatever it says."""

    client_id: UUID
    most_active: int | None
    wish: Wish


_Answer: TypeAlias = Submitted | Exception


class Submissions:
    """Writes submissions and rings for them after the commit."""

    def __init__(self, db: Database, queue: Queue, news: News, settings: Settings) -> None:
        self._db = db
        self._queue = queue
        self._news = news
        self._settings = settings
        self._gatherer = Gatherer(self._write_all, most=_MOST_AT_ONCE)

    async def submit(self, wish: Wish, client: Client) -> Submitted:
        """Write one, with those that come at the same moment.

        Raises:
            TooManyActiveJobsError, UnknownEndpointError: as `submission.submit`.
        """
        answer = await self._gatherer.ask(_Ask(client.id, client.max_active_jobs, wish))
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ring(self, submissions: Sequence[Submission], destinations: Sequence[UUID] = ()) -> None:
        """Count, tell and ring for what was written; a ring that Redis does not take the sweep repeats."""
        crash_point("submission.committed")
        new = [one.job for one in submissions if one.outcome is Outcome.CREATED]
        metrics.JOBS_CREATED.inc(len(new))
        if new:
            self._news.begun()
        await self._queue.ring_jobs((job.id, job.fence) for job in new[:_MOST_RINGS])
        told = [destination for one in submissions for destination in one.destinations]
        await self._queue.ring_destinations([*told, *destinations][:_MOST_RINGS])
        crash_point("submission.rung")

    async def _write_all(self, asks: Sequence[_Ask]) -> Mapping[_Ask, _Answer]:
        by_client = defaultdict[tuple[UUID, int | None], list[_Ask]](list)
        for ask in asks:
            by_client[ask.client_id, ask.most_active].append(ask)
        answers: dict[_Ask, _Answer] = {}
        # A transaction for each client: the locks of one are taken in order, and what fails is its own.
        for those in by_client.values():
            try:
                answers |= await self._write(those)
            except Exception as error:  # told to those who asked, and to nobody else
                answers |= dict.fromkeys(those, error)
        met = [answer.submission for answer in answers.values() if isinstance(answer, Submitted)]
        if met:
            await self.ring(met)
        return answers

    async def _write(self, asks: Sequence[_Ask]) -> dict[_Ask, _Answer]:
        client_id, most_active = asks[0].client_id, asks[0].most_active

        async def write(conn: Connection) -> dict[_Ask, _Answer]:
            met = await submission.submit_many(
                conn,
                [ask.wish for ask in asks],
                client_id,
                settings=self._settings,
                most_active=most_active,
            )
            answers = dict(zip(asks, met, strict=True))
            webhooks = await _webhooks(conn, answers, client_id)
            crash_point("submission.written")
            return {
                ask: Submitted(one, webhooks[one.job.id]) if isinstance(one, Submission) else one
                for ask, one in answers.items()
            }

        return await self._db.in_transaction(write)


async def _webhooks(
    conn: Connection, answers: Mapping[_Ask, Submission | Exception], client_id: UUID
) -> dict[UUID, WebhookState]:
    """Return the client's webhook for each job that his wishes met."""
    met = [(ask.wish, one) for ask, one in answers.items() if isinstance(one, Submission)]
    if all(one.outcome is Outcome.CREATED and not wish.is_told for wish, one in met):
        # Of a new job without a webhook all is known.
        return {one.job.id: _as_wished(wish) for wish, one in met}
    return await subscriptions.webhook_states(conn, list({one.job.id for _, one in met}), client_id)


def _as_wished(wish: Wish) -> WebhookState:
    return replace(NO_WEBHOOK, reference=wish.reference, priority=wish.priority, filters=wish.filters)
