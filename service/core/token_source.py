"""Where the bearer token for the portal comes from: the settings as it is, or the sign-on server."""

import asyncio
import base64
import binascii
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

import orjson

from service.core import metrics, portal_tokens
from service.core.db import Connection, Database
from service.core.errors import (
    CredentialRefusedError,
    DatabaseUnavailableError,
    PortalUnauthorizedError,
    SignOnError,
)
from service.core.portal_tokens import RENEW_BEFORE_S, Claimed, PortalToken, TokenState
from service.core.settings import Settings, SourceSettings
from service.core.sign_on import ANSWER_TIMEOUT_S, READ_TIMEOUT_S, Credential, SignOn, open_sign_on

# Longer than one request and the writing of its answer: a claim runs out when its holder is dead.
_HOLD_S = 2 * ANSWER_TIMEOUT_S
# The shortest time between two attempts, over all workers.
_PACE_S = 5.0
# A token that the portal refuses is replaced before its end only when it is this old.
_FORCED_AFTER_S = 300.0
_POLL_S = (0.1, 0.3)
_RETRY_WAIT_S = 0.5
_CLOSING_S = ANSWER_TIMEOUT_S + 5.0

T = TypeVar("T")

log = logging.getLogger(__name__)


class FixedToken:
    """The token that was configured, or none."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    async def bearer(self) -> str | None:
        """Return it."""
        return self._token

    async def refused(self, _token: str) -> bool:
        """There is no other one."""
        return False


@dataclass(frozen=True, slots=True)
class _Held:
    """A token as this process knows it, shown nowhere; the instants are of the monotonic clock."""

    token: str = field(repr=False)
    fresh_until: float
    valid_until: float


_NOTHING = _Held("", 0.0, 0.0)


class RenewedToken:
    """The token of one credential, renewed in time, by one request over all workers."""

    def __init__(self, db: Database, sign_on: SignOn, credential: Credential) -> None:
        self._db = db
        self._sign_on = sign_on
        self._key = credential.sha256
        self._held = _NOTHING
        self._renewal: asyncio.Task[_Held] | None = None
        self._closing = asyncio.Event()

    async def bearer(self) -> str:
        """Return a token that the portal should accept.

        Raises:
            PortalUnauthorizedError: there is none now; the message says whether the sign-on server refused
                the credential, gave no token, or could not be asked.
        """
        if time.monotonic() < self._held.fresh_until:
            return self._held.token
        try:
            return (await asyncio.shield(self._the_one_renewal())).token
        except PortalUnauthorizedError:
            if time.monotonic() < self._held.valid_until:
                return self._held.token
            raise

    async def refused(self, token: str) -> bool:
        """Note that the portal refused this token; return whether `bearer` may come by another one.

        Raises:
            PortalUnauthorizedError: the database did not answer.
        """
        is_another = await self._in_database(
            lambda conn: portal_tokens.reject(conn, self._key, token, min_age_s=_FORCED_AFTER_S)
        )
        if token == self._held.token:
            self._held = _NOTHING
        return is_another

    def _the_one_renewal(self) -> "asyncio.Task[_Held]":
        # A task of its own: a caller that is cancelled must not take the answer, which may hold the only
        # valid refresh token, with it.
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew())
            self._renewal.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._renewal

    async def _renew(self) -> _Held:
        """Look at the row until it holds a fresh token; ask for one when nobody else does."""
        while (row := await self._look()).left_s <= RENEW_BEFORE_S:
            if row.is_claimed:
                await self._wait()
            elif row.refused_reason:
                raise CredentialRefusedError(row.refused_reason)
            elif row.is_too_early:
                raise SignOnError(row.last_error or "the last token ended before another may be asked for")
            elif claimed := await self._claim():
                await self._ask(claimed)
        return self._held

    async def _look(self) -> PortalToken:
        begun = time.monotonic()
        row = await self._in_database(lambda conn: portal_tokens.get(conn, self._key))
        self._held = _NOTHING
        if row.access_token is not None and row.left_s > 0:
            ends = begun + row.left_s
            self._held = _Held(row.access_token, fresh_until=ends - RENEW_BEFORE_S, valid_until=ends)
        return row

    async def _claim(self) -> Claimed | None:
        return await self._in_database(
            lambda conn: portal_tokens.claim(conn, self._key, hold_s=_HOLD_S, pace_s=_PACE_S)
        )

    async def _wait(self) -> None:
        """Wait a moment, without a connection, while another worker asks."""
        with suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(*_POLL_S)):  # noqa: S311  # no secret
                await self._closing.wait()
        if self._closing.is_set():
            raise SignOnError("this process is stopping")

    async def _ask(self, claimed: Claimed) -> None:
        """Ask the sign-on server and write what came of it; who needs the token reads it in the row."""
        metrics.TOKEN_RENEWALS.inc()
        try:
            grant = await self._sign_on.ask(claimed.refresh_token)
        except CredentialRefusedError as error:
            metrics.TOKEN_RENEWAL_FAILURES.labels("refused").inc()
            log.error("%s", error)  # noqa: TRY400  # its text says all
            reason = error.reason
            await self._write(lambda conn: portal_tokens.record_refusal(conn, claimed, reason))
        except SignOnError as error:
            metrics.TOKEN_RENEWAL_FAILURES.labels("unavailable").inc()
            log.warning("no token for the portal: %s", error)
            text = str(error)
            await self._write(lambda conn: portal_tokens.record_failure(conn, claimed, text, delay_s=_PACE_S))
        else:
            await self._write(
                lambda conn: portal_tokens.save(
                    conn,
                    claimed,
                    access_token=grant.access_token,
                    lifetime_s=grant.lifetime_s,
                    refresh_token=grant.refresh_token,
                )
            )
            log.info("the portal's token was renewed, for %.0f s", grant.lifetime_s)

    async def _write(self, write: Callable[[Connection], Awaitable[None]]) -> None:
        """Write before anything else is done, however long the database is away."""
        while True:
            try:
                async with self._db.connection() as conn:
                    return await write(conn)
            except DatabaseUnavailableError as error:
                log.warning("the sign-on server's answer waits to be written: %s", error)
                await asyncio.sleep(_RETRY_WAIT_S)

    async def _in_database(self, call: Callable[[Connection], Awaitable[T]]) -> T:
        try:
            async with self._db.connection() as conn:
                return await call(conn)
        except DatabaseUnavailableError as error:
            raise PortalUnauthorizedError("the database, which has the portal's token, is away") from error

    async def close(self) -> None:
        """Let an answer that is on its way be written."""
        self._closing.set()
        if self._renewal is not None and not self._renewal.done():
            await asyncio.wait([self._renewal], timeout=_CLOSING_S)
            self._renewal.cancel()
            await asyncio.wait([self._renewal])


TokenSource = FixedToken | RenewedToken


@asynccontextmanager
async def open_token_source(
    source: SourceSettings, db: Database, *, read_timeout_s: float = READ_TIMEOUT_S
) -> AsyncIterator[TokenSource]:
    """Open where the token for a source of documents comes from, by its settings.

    Args:
        read_timeout_s: the longest silence of the sign-on server.
    """
    credential = Credential.from_settings(source)
    if credential is None:
        yield FixedToken(source.token.get_secret_value() if source.token else None)
        return
    async with open_sign_on(credential, read_timeout_s=read_timeout_s) as sign_on:
        tokens = RenewedToken(db, sign_on, credential)
        try:
            yield tokens
        finally:
            await tokens.close()


async def token_state(conn: Connection, settings: Settings) -> TokenState:
    """Return what is known of the token; with two sources of documents, of the one that is worse off."""
    return min([await _token_state(conn, source) for source in settings.sources], key=_outlook)


async def _token_state(conn: Connection, source: SourceSettings) -> TokenState:
    credential = Credential.from_settings(source)
    if credential is not None:
        return await portal_tokens.state(conn, credential.sha256)
    token = source.token
    return TokenState(_expiry(token.get_secret_value()) if token else None, is_refused=None)


def _outlook(state: TokenState) -> tuple[int, datetime]:
    """Order a refused one first, then those that nobody renews, by their end."""
    place = {True: 0, None: 1, False: 2}[state.is_refused]
    return place, state.expires_at or datetime.max.replace(tzinfo=UTC)


def _expiry(token: str) -> datetime | None:
    """Return the `exp` of a JWT (RFC 7519 §4.1.4), unchecked; None for any other token."""
    _, _, rest = token.partition(".")
    payload = rest.partition(".")[0]
    try:
        claims = orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return datetime.fromtimestamp(claims["exp"], UTC)
    except (binascii.Error, ValueError, TypeError, KeyError, OverflowError, OSError):
        return None
