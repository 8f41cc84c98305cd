"""The portal's token: one row for each configured credential, shared by all workers.

Who holds the claim asks the sign-on server; its answer is written before the new token is used, because the
refresh token in it is the only valid one from then on. All times are by the database's clock.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from service.core.db import Connection

RENEW_BEFORE_S = 60.0
"""A token with less than this to live is renewed."""

# How long it may still be used; null without one, and when the portal refused it since it came.
_LEFT = "case when t.rejected_at >= t.obtained_at then null else t.expires_at - now() end"


@dataclass(frozen=True, slots=True)
class PortalToken:
    """The row as it is now.

    Attributes:
        left_s: seconds for which the access token may be used; none are left when the portal refused it.
        is_claimed: whether somebody is asking for a new one now.
        is_too_early: whether the last attempt was made so lately that nobody may make another.
        last_error: why the last attempt brought none, if it did not.
        refused_reason: why the sign-on server refused the credential, if it did.
    """

    access_token: str | None = field(repr=False)
    left_s: float
    is_claimed: bool
    is_too_early: bool
    last_error: str | None
    refused_reason: str | None


@dataclass(frozen=True, slots=True)
class TokenState:
    """What an operator may know of the token.

    Attributes:
        expires_at: None without a token, or when it does not say.
        is_refused: whether the portal refused it, or the sign-on server the credential; None when unknown.
    """

    expires_at: datetime | None
    is_refused: bool | None


@dataclass(frozen=True, slots=True)
class Claimed:
    """The right to ask once; `refresh_token` is None until the configured one was replaced."""

    credential_sha256: bytes
    fence: int
    refresh_token: str | None = field(repr=False)
    claimed_at: datetime


_NONE_YET = PortalToken(None, 0.0, is_claimed=False, is_too_early=False, last_error=None, refused_reason=None)


async def get(conn: Connection, credential_sha256: bytes) -> PortalToken:
    """Return the credential's row; before the first claim it is an empty one."""
    row = await conn.fetchrow(
        f"""select access_token, coalesce(extract(epoch from {_LEFT}), 0)::float8 as left_s,
                   coalesce(claimed_until > now(), false) as is_claimed,
                   next_attempt_at > now() as is_too_early, last_error, refused_reason
            from portal_tokens t where credential_sha256 = $1""",
        credential_sha256,
    )
    return _NONE_YET if row is None else PortalToken(**row)


async def state(conn: Connection, credential_sha256: bytes) -> TokenState:
    """Return what has become of the credential's token; before the first claim nothing has."""
    row = await conn.fetchrow(
        """select expires_at, refused_at is not null or coalesce(rejected_at >= obtained_at, false)
           from portal_tokens where credential_sha256 = $1""",
        credential_sha256,
    )
    return TokenState(None, is_refused=False) if row is None else TokenState(*row)


async def claim(
    conn: Connection, credential_sha256: bytes, *, hold_s: float, pace_s: float
) -> Claimed | None:
    """Take the right to ask for a token; None when none is needed, somebody has it, or it is too early.

    Args:
        hold_s: how long the claim of a worker that died keeps the others waiting.
        pace_s: the shortest time from one attempt to the next, over all workers.
    """
    row = await conn.fetchrow(
        f"""insert into portal_tokens as t (credential_sha256, fence, claimed_until, next_attempt_at)
            values ($1, 1, now() + $2::interval, now() + $3::interval)
            on conflict (credential_sha256) do update
            set fence = t.fence + 1, claimed_until = excluded.claimed_until,
                next_attempt_at = excluded.next_attempt_at
            where t.refused_at is null and t.next_attempt_at <= now()
              and (t.claimed_until is null or t.claimed_until <= now())
              and coalesce({_LEFT} <= $4::interval, true)
            returning credential_sha256, fence, refresh_token, now() as claimed_at""",
        credential_sha256,
        timedelta(seconds=hold_s),
        timedelta(seconds=pace_s),
        timedelta(seconds=RENEW_BEFORE_S),
    )
    return None if row is None else Claimed(**row)


async def save(
    conn: Connection, claimed: Claimed, *, access_token: str, lifetime_s: float, refresh_token: str | None
) -> None:
    """Write what the sign-on server gave; the lifetime counts from the claim, before it was asked.

    A claim that ran out may still bring in the refresh token that replaced the one in the row: nobody else
    can have got one, and without it there is none.
    """
    await conn.execute(
        """update portal_tokens
           set access_token = $3, obtained_at = now(), expires_at = $4::timestamptz + $5::interval,
               rejected_at = case when access_token = $3 then rejected_at end,
               refresh_token = coalesce($6, refresh_token), claimed_until = null, last_error = null,
               refused_at = null, refused_reason = null
           where credential_sha256 = $1
             and (fence = $2 or ($6::text is not null and refresh_token is not distinct from $7::text))""",
        claimed.credential_sha256,
        claimed.fence,
        access_token,
        claimed.claimed_at,
        timedelta(seconds=lifetime_s),
        refresh_token,
        claimed.refresh_token,
    )


async def record_failure(conn: Connection, claimed: Claimed, error: str, *, delay_s: float) -> None:
    """Give the claim back without a token; the next attempt may be made `delay_s` from now."""
    await conn.execute(
        """update portal_tokens
           set claimed_until = null, next_attempt_at = now() + $3::interval, last_error = $4
           where credential_sha256 = $1 and fence = $2""",
        claimed.credential_sha256,
        claimed.fence,
        timedelta(seconds=delay_s),
        error,
    )


async def record_refusal(conn: Connection, claimed: Claimed, reason: str) -> None:
    """Write that this credential will get no token any more, unless another refresh token came meanwhile."""
    await conn.execute(
        """update portal_tokens set claimed_until = null, refused_at = now(), refused_reason = $3
           where credential_sha256 = $1 and fence = $2 and refresh_token is not distinct from $4::text""",
        claimed.credential_sha256,
        claimed.fence,
        reason,
        claimed.refresh_token,
    )


async def reject(conn: Connection, credential_sha256: bytes, access_token: str, *, min_age_s: float) -> bool:
    """Note that the portal refused this token; return whether another one is there or may be asked for.

    A token has itself replaced once at most, and not before it is `min_age_s` old: one that is refused as
    soon as it is given would be refused after the next renewal too.
    """
    await conn.execute(
        """update portal_tokens set rejected_at = now()
           where credential_sha256 = $1 and access_token = $2 and rejected_at is null
             and obtained_at <= now() - $3::interval""",
        credential_sha256,
        access_token,
        timedelta(seconds=min_age_s),
    )
    is_another: bool | None = await conn.fetchval(
        """select coalesce(access_token <> $2 or rejected_at >= obtained_at, false)
           from portal_tokens where credential_sha256 = $1""",
        credential_sha256,
        access_token,
    )
    return bool(is_another)
