"""The portal and its token: is there one, how long does it last, and is it accepted."""

import base64
import binascii
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import orjson

from service.checkup.findings import Finding, Findings, ok, warning, wrong
from service.core import cnj, portal_tokens
from service.core.db import open_database
from service.core.errors import (
    DatabaseUnavailableError,
    NoAccessError,
    PortalBlockedError,
    PortalError,
    PortalThrottledError,
    PortalUnauthorizedError,
    ProcessNotFoundError,
    SchemaError,
)
from service.core.portal import open_portal
from service.core.settings import Settings
from service.core.sign_on import Credential
from service.core.token_source import FixedToken, TokenSource, open_token_source

_SOON_S = 3600.0
_TIMEOUT_S = 8.0
_JWT = re.compile(r"[A-Za-z0-9_-]+\.([A-Za-z0-9_-]{1,16384})\.[A-Za-z0-9_-]*")
_NO_TOKEN = "set AUTOS_PORTAL_TOKEN, or AUTOS_PORTAL_TOKEN_URL with a credential"  # noqa: S105  # no secret


async def check_token(settings: Settings) -> Findings:
    """Look at the token, without showing any of it."""
    if credential := Credential.from_settings(settings):
        return [await _renewed(settings, credential)]
    if settings.portal_token is None:
        return [wrong("portal token", f"there is none, and every job will wait for one: {_NO_TOKEN}")]
    ends_at = end_of_token(settings.portal_token.get_secret_value())
    return [judge_end(ends_at, now=datetime.now(UTC))]


async def _renewed(settings: Settings, credential: Credential) -> Finding:
    try:
        async with open_database(settings) as database, database.connection() as conn:
            token = await portal_tokens.get(conn, credential.sha256)
    except (DatabaseUnavailableError, SchemaError) as error:
        return wrong("portal token", f"it is kept in the database: {error}")
    if token.refused_reason:
        words = f"the sign-on server refused the credential ({token.refused_reason}): configure another one"
        return wrong("portal token", words)
    if token.left_s > 0:
        return ok("portal token", f"renewed by the workers; this one lasts for {token.left_s / 60:.0f} min")
    if token.last_error:
        return warning("portal token", f"there is none now: {token.last_error}")
    return ok("portal token", "renewed by the workers; none was needed lately")


def end_of_token(token: str) -> datetime | None:
    """Return when a token ends by what it says itself (a JWT's `exp`); None when it does not say."""
    form = _JWT.fullmatch(token)
    try:
        said = orjson.loads(base64.urlsafe_b64decode(form[1] + "==")) if form else None
        return datetime.fromtimestamp(said["exp"], UTC) if isinstance(said, dict) else None
    except (binascii.Error, orjson.JSONDecodeError, KeyError, TypeError, ValueError, OverflowError, OSError):
        return None


def judge_end(ends_at: datetime | None, *, now: datetime) -> Finding:
    """Say what the end of a token that nobody renews for us means."""
    if ends_at is None:
        return ok("portal token", "there is one; when it ends it does not say")
    left_s, when = (ends_at - now).total_seconds(), f"{ends_at:%Y-%m-%d %H:%M} UTC"
    if left_s <= 0:
        return wrong("portal token", f"it ended on {when}: set another one, and restart the workers")
    if left_s < _SOON_S:
        return warning("portal token", f"it ends within the hour, on {when}: set another one soon")
    return ok("portal token", f"it lasts until {when}")


async def check_portal(settings: Settings) -> Findings:
    """Ask the portal for a process that there cannot be, beside the limit that the workers share."""
    try:
        async with _token_source(settings) as tokens, open_portal(_impatient(settings), tokens) as portal:
            await portal.read_process(_number_of_none())
    except (ProcessNotFoundError, NoAccessError):
        pass  # it has understood us, and the token
    except PortalUnauthorizedError as error:
        return [wrong("portal", f"it does not accept our token, or there is none: {error}; {_NO_TOKEN}")]
    except PortalBlockedError:
        return [wrong("portal", "its firewall refuses this machine's address")]
    except PortalThrottledError:
        return [warning("portal", "it answers that there were too many requests: AUTOS_PORTAL_CONCURRENCY")]
    except PortalError as error:
        return [wrong("portal", f"{error}: is AUTOS_PORTAL_URL right, is the portal up?")]
    except (DatabaseUnavailableError, SchemaError) as error:
        return [wrong("portal", f"it cannot be asked without the token in the database: {error}")]
    return [ok("portal", "it answers, and accepts the token")]


@asynccontextmanager
async def _token_source(settings: Settings) -> AsyncIterator[TokenSource]:
    """The source that the workers have; one that is fixed needs no database."""
    if Credential.from_settings(settings) is None:
        yield FixedToken(settings.portal_token.get_secret_value() if settings.portal_token else None)
        return
    async with open_database(settings) as database, open_token_source(settings, database) as tokens:
        yield tokens


def _impatient(settings: Settings) -> Settings:
    read_timeout_s = min(settings.portal_read_timeout_s, _TIMEOUT_S)
    return settings.model_copy(update={"portal_read_timeout_s": read_timeout_s})


def _number_of_none() -> str:
    """A well-formed number whose court of origin and year had no such process."""
    digits = "99999990019008269999"
    return digits[:7] + cnj.check_digits(digits) + digits[9:]
