"""What the lanes of one process ask of the database: those who ask at the same moment are served together."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from service.core import deliveries, endpoint_health, signing_secrets
from service.core.db import Database
from service.core.deliveries import Claimed, Round
from service.core.gather import Gatherer
from service.core.key_ring import KeyRing
from service.core.sending import QUICK_TRIES
from service.core.settings import Settings
from service.core.signing_secrets import Sealed
from service.core.states import DeliveryStatus

_MARGIN_S = 5.0


@dataclass(frozen=True, eq=False)
class _Lane:
    """One that asks for work."""

    destination: UUID


@dataclass(frozen=True, eq=False)
class _Ended:
    """A round to be noted."""

    claimed: Claimed
    round: Round


class Outbox:
    """Claims deliveries, finds their secrets, and notes how their rounds ended.

    Every method raises `DatabaseUnavailableError`, to all who were served together.
    """

    def __init__(self, db: Database, ring: KeyRing, settings: Settings) -> None:
        self._db = db
        self._ring = ring
        self._settings = settings
        self._claims = Gatherer(self._claim_all)
        self._owners = Gatherer(self._find_secrets)
        self._rounds = Gatherer(self._note_all)

    async def claim(self, destination: UUID) -> Claimed | None:
        """Take what is due the longest at a destination; None when nothing is."""
        return await self._claims.ask(_Lane(destination))

    async def secrets(self, client_id: UUID, endpoint_id: UUID | None) -> list[bytes]:
        """Return the secrets that sign now, the newest first.

        Raises:
            SecretUnreadableError: one of them cannot be opened.
        """
        # Opened by each lane for itself: one secret that cannot be opened keeps no other lane from sending.
        return signing_secrets.open_sealed(self._ring, await self._owners.ask(endpoint_id or client_id))

    async def note(self, claimed: Claimed, ended: Round) -> list[UUID]:
        """Write how a round ended, and what that means for its endpoint; return where to ring for."""
        if ended.status is DeliveryStatus.DELIVERED or claimed.endpoint_id is None or not ended.attempts:
            await self._rounds.ask(_Ended(claimed, ended))
            return []
        async with self._db.transaction() as conn:
            return await endpoint_health.record_failure(
                conn, claimed.endpoint_id, claimed, ended, self._settings
            )

    async def _claim_all(self, lanes: Sequence[_Lane]) -> dict[_Lane, Claimed | None]:
        settings = self._settings
        async with self._db.connection() as conn:
            claimed = await deliveries.claim(
                conn,
                Counter(lane.destination for lane in lanes),
                hold_s=QUICK_TRIES * (settings.webhook_timeout_s + _MARGIN_S) + 2 * _MARGIN_S,
                late_s=settings.link_ttl_s / 2,
            )
        taken: dict[UUID, list[Claimed]] = defaultdict(list)
        for one in claimed:
            taken[one.destination].append(one)
        return {lane: taken[lane.destination].pop() if taken[lane.destination] else None for lane in lanes}

    async def _find_secrets(self, owners: Sequence[UUID]) -> dict[UUID, list[Sealed]]:
        async with self._db.connection() as conn:
            return await signing_secrets.find_live(conn, owners)

    async def _note_all(self, ended: Sequence[_Ended]) -> dict[_Ended, None]:
        rounds = [(one.claimed, one.round) for one in ended]
        async with self._db.transaction() as conn:
            await endpoint_health.record_successes(conn, rounds)
        return dict.fromkeys(ended)
