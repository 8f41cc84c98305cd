"""What a round of sending means for its endpoint, and the ways in which an endpoint comes to be disabled."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from service.core import audit, deliveries, endpoints, events, signing_secrets
from service.core.db import Connection
from service.core.deliveries import ENDPOINT_DELETED, ENDPOINT_DISABLED, Claimed, Round
from service.core.endpoints import DisabledReason, Endpoint
from service.core.settings import Settings

GONE = 410


async def record_successes(conn: Connection, rounds: Sequence[tuple[Claimed, Round]]) -> None:
    """Write how rounds ended that say no ill of an endpoint: its successes, and what concerns none."""
    # The endpoints' rows before the deliveries': see the order of locks in schema.sql.
    successes = {claimed.endpoint_id for claimed, ended in rounds if ended.attempts and claimed.endpoint_id}
    if successes:
        await endpoints.note_successes(conn, successes)
    await deliveries.record_rounds(conn, rounds)


async def record_failure(
    conn: Connection, endpoint_id: UUID, claimed: Claimed, ended: Round, settings: Settings
) -> list[UUID]:
    """Write that an endpoint took no event; disable it when that is due. Returns where to ring for.

    What was answered by the URL that it had before, or to a sender that was too late, says nothing of it.
    """
    url = await endpoints.lock_url(conn, endpoint_id)
    noted = await deliveries.record_rounds(conn, [(claimed, ended)])
    if not noted or url != claimed.url:
        return []
    failing = await endpoints.note_failure(conn, endpoint_id)
    if ended.attempts[-1].status_code == GONE:
        return await disable(conn, endpoint_id, DisabledReason.GONE)
    if failing >= timedelta(seconds=settings.endpoint_patience_s):
        return await disable(conn, endpoint_id, DisabledReason.FAILING)
    return []


async def disable(
    conn: Connection, endpoint_id: UUID, reason: DisabledReason, *, key_id: str | None = None
) -> list[UUID]:
    """Send an endpoint nothing from now on, and tell the client's others that want to know.

    What waited for it is dead, and can be redelivered when it is enabled again. Returns where to ring for.
    """
    endpoint = await endpoints.disable(conn, endpoint_id, reason)
    if endpoint is None:
        return []
    await deliveries.give_up_for_endpoint(conn, endpoint.id, ENDPOINT_DISABLED)
    await audit.note(
        conn, endpoint.client_id, "endpoint.disabled", endpoint.id, key_id=key_id, details={"reason": reason}
    )
    return await deliveries.create_for_endpoints(
        conn, endpoint.client_id, event="endpoint.disabled", payload=events.disabled_event(endpoint)
    )


async def delete(conn: Connection, endpoint: Endpoint, *, key_id: str) -> None:
    """Delete an endpoint that the caller has locked, with its secrets; what waited for it is dead."""
    await endpoints.delete(conn, endpoint.id)
    await deliveries.give_up_for_endpoint(conn, endpoint.id, ENDPOINT_DELETED)
    await signing_secrets.forget(conn, endpoint.client_id, endpoint.id)
    await audit.note(conn, endpoint.client_id, "endpoint.deleted", endpoint.id, key_id=key_id)
