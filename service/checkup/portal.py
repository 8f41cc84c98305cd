"""Each source of documents and its token: is there one, how long does it last, and is it accepted."""

import base64
import binascii
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
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
from service.core.settings import Settings, SourceSettings
from service.core.sign_on import Credential
from service.core.sources import open_adapter
from service.core.token_source import FixedToken, TokenSource, open_token_source

_SOON_S = 3600.0
_TIMEOUT_S = 8.0
_JWT = re.compile(r"[A-Za-z0-9_-]+\.([A-Za-z0-9_-]{1,16384})\.[A-Za-z0-9_-]*")


async def check_token(settings: Settings) -> Findings:
    """Look at the token for each source, without showing any of it."""
    return [await _look_at_token(settings, source) for source in settings.sources]


async def _look_at_token(settings: Settings, source: SourceSettings) -> Finding:
    name = f"{source.title} token"
    if credential := Credential.from_settings(source):
        return await _renewed(settings, credential, name)
    if source.token is None:
        return wrong(name, f"there is none, and every job will wait for one: {_set_token(source)}")
    return judge_end(end_of_token(source.token.get_secret_value()), now=datetime.now(UTC), name=name)


async def _renewed(settings: Settings, credential: Credential, name: str) -> Finding:
    try:
        async with open_database(settings) as database, database.connection() as conn:
            token = await portal_tokens.get(conn, credential.sha256)
    except (DatabaseUnavailableError, SchemaError) as error:
        return wrong(name, f"it is kept in the database: {error}")
    if token.refused_reason:
        words = f"the sign-on server refused the credential ({token.refused_reason}): configure another one"
        return wrong(name, words)
    if token.left_s > 0:
        return ok(name, f"renewed by the workers; this one lasts for {token.left_s / 60:.0f} min")
    if token.last_error:
        return warning(name, f"there is none now: {token.last_error}")
    return ok(name, "renewed by the workers; none was needed lately")


def end_of_token(token: str) -> datetime | None:
    """Return when a token ends by what it says itself (a JWT's `exp`); None when it does not say."""
    form = _JWT.fullmatch(token)
    try:
        said = orjson.loads(base64.urlsafe_b64decode(form[1] + "==")) if form else None
        return datetime.fromtimestamp(said["exp"], UTC) if isinstance(said, dict) else None
    except (binascii.Error, orjson.JSONDecodeError, KeyError, TypeError, ValueError, OverflowError, OSError):
        return None


def judge_end(ends_at: datetime | None, *, now: datetime, name: str = "portal token") -> Finding:
    """Say what the end of a token that nobody renews for us means."""
    if ends_at is None:
        return ok(name, "there is one; when it ends it does not say")
    left_s, when = (ends_at - now).total_seconds(), f"{ends_at:%Y-%m-%d %H:%M} UTC"
    if left_s <= 0:
        return wrong(name, f"it ended on {when}: set another one, and restart the workers")
    if left_s < _SOON_S:
        return warning(name, f"it ends within the hour, on {when}: set another one soon")
    return ok(name, f"it lasts until {when}")


async def check_portal(settings: Settings) -> Findings:
    """Ask each source for a process that there cannot be, beside the limit that the workers share."""
    return [await _ask(settings, source) for source in settings.sources]


async def _ask(settings: Settings, source: SourceSettings) -> Finding:
    name, prefix = source.title, f"AUTOS_{source.name.upper()}"
    impatient = replace(source, read_timeout_s=min(source.read_timeout_s, _TIMEOUT_S))
    try:
        async with _token_source(settings, source) as tokens, open_adapter(impatient, tokens) as adapter:
            await adapter.read_process(_number_of_none())
    except (ProcessNotFoundError, NoAccessError):
        pass  # it has understood us, and the token
    except PortalUnauthorizedError as error:
        return wrong(name, f"it does not accept our token, or there is none: {error}; {_set_token(source)}")
    except PortalBlockedError:
        return wrong(name, "its firewall refuses this machine's address")
    except PortalThrottledError:
        return warning(name, f"it answers that there were too many requests: {prefix}_CONCURRENCY")
    except PortalError as error:
        return wrong(name, f"{error}: is {prefix}_URL right, is the {name} up?")
    except (DatabaseUnavailableError, SchemaError) as error:
        return wrong(name, f"it cannot be asked without the token in the database: {error}")
    return ok(name, "it answers, and accepts the token")


@asynccontextmanager
async def _token_source(settings: Settings, source: SourceSettings) -> AsyncIterator[TokenSource]:
    """The tokens that the workers have; one that is fixed needs no database."""
    if Credential.from_settings(source) is None:
        yield FixedToken(source.token.get_secret_value() if source.token else None)
        return
    async with open_database(settings) as database, open_token_source(source, database) as tokens:
        yield tokens


def _set_token(source: SourceSettings) -> str:
    prefix = f"AUTOS_{source.name.upper()}_TOKEN"
    return f"set {prefix}, or {prefix}_URL with a credential"


def _number_of_none() -> str:
    """A well-formed number whose court of origin and year had no such process."""
    digits = "99999990019008269999"
    return digits[:7] + cnj.check_digits(digits) + digits[9:]
