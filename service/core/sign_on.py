"""The sign-on server's token endpoint (OAuth 2.0, RFC 6749): sends a form, reads a token, trusts nothing."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import aiohttp
import orjson

from service import __version__
from service.core.errors import CredentialRefusedError, SignOnError
from service.core.settings import SourceSettings

ANSWER_TIMEOUT_S = 20.0
"""For one whole request, so that an answer that drips ends too."""

READ_TIMEOUT_S = 10.0
"""For each silence in it."""

_CONNECT_TIMEOUT_S = 5.0
_MOST_ANSWER_BYTES = 64 * 1024
_REFUSALS = ("invalid_grant", "invalid_client", "unauthorized_client")
# What may stand behind "Bearer" (RFC 6750 §2.1), and what a refresh token is made of (RFC 6749 §A.17).
_ACCESS_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{1,16384}=*")
_REFRESH_TOKEN = re.compile(r"[\x20-\x7e]{1,16384}")
# RFC 6749 §5.1 lets the lifetime be left out; then it is taken for as short as such servers make it.
_UNSAID_LIFETIME_S = 300.0
_LONGEST_LIFETIME_S = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class Credential:
    """What was configured; the refresh token is the first one of its line."""

    token_url: str
    client_id: str
    client_secret: str | None = field(repr=False)
    refresh_token: str | None = field(repr=False)

    @classmethod
    def from_settings(cls, source: SourceSettings) -> "Credential | None":
        """Return the configured credential, or None when the source's token comes from elsewhere."""
        if source.token_url is None or source.client_id is None:
            return None
        secret, refresh_token = source.client_secret, source.refresh_token
        return cls(
            source.token_url,
            source.client_id,
            secret.get_secret_value() if secret else None,
            refresh_token.get_secret_value() if refresh_token else None,
        )

    @property
    def sha256(self) -> bytes:
        """What tells this credential from any other."""
        parts = [self.token_url, self.client_id, self.client_secret, self.refresh_token]
        return hashlib.sha256(orjson.dumps(parts)).digest()


@dataclass(frozen=True, slots=True)
class Grant:
    """A token that was given; without a `refresh_token` the one that was sent stays valid."""

    access_token: str = field(repr=False)
    lifetime_s: float
    refresh_token: str | None = field(repr=False)


class SignOn:
    """Asks for tokens with one credential."""

    def __init__(self, session: aiohttp.ClientSession, credential: Credential) -> None:
        self._session = session
        self._credential = credential

    async def ask(self, rotated: str | None) -> Grant:
        """Ask once.

        Args:
            rotated: the newest refresh token, if the configured one was ever replaced.

        Raises:
            SignOnError: no token came; asking again later can help.
            CredentialRefusedError: none will come for this credential.
        """
        try:
            async with (
                asyncio.timeout(ANSWER_TIMEOUT_S),
                self._session.post(
                    self._credential.token_url, data=self._form(rotated), allow_redirects=False
                ) as response,
            ):
                return _read_grant(response.status, await _read_answer(response))
        except TimeoutError:
            raise SignOnError("the sign-on server did not answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            # The cause is left out: its text may hold what was sent or where to.
            raise SignOnError(f"no answer from the sign-on server ({type(error).__name__})") from None

    def _form(self, rotated: str | None) -> dict[str, str]:
        form = {"grant_type": "client_credentials", "client_id": self._credential.client_id}
        if self._credential.client_secret is not None:
            form["client_secret"] = self._credential.client_secret
        if self._credential.refresh_token is not None:
            form["grant_type"] = "refresh_token"
            form["refresh_token"] = rotated or self._credential.refresh_token
        return form


@asynccontextmanager
async def open_sign_on(
    credential: Credential, *, read_timeout_s: float = READ_TIMEOUT_S
) -> AsyncIterator[SignOn]:
    """Open the client of this process; it follows no redirect and heeds no proxy variables."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(
            total=None,
            connect=_CONNECT_TIMEOUT_S,
            sock_connect=_CONNECT_TIMEOUT_S,
            sock_read=read_timeout_s,
        ),
        headers={
            "User-Agent": f"Autos/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        },
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    ) as session:
        yield SignOn(session, credential)


async def _read_answer(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(_MOST_ANSWER_BYTES):
        body += chunk
        if len(body) > _MOST_ANSWER_BYTES:
            raise SignOnError("the sign-on server's answer is too large")
    return bytes(body)


def _read_grant(status: int, body: bytes) -> Grant:
    said = _members(body)
    if status in {400, 401} and (reason := said.get("error")) in _REFUSALS:
        raise CredentialRefusedError(reason)
    if status != 200:
        raise SignOnError(f"the sign-on server answered {status}")
    access_token, refresh_token = said.get("access_token"), said.get("refresh_token")
    lifetime_s = said.get("expires_in", _UNSAID_LIFETIME_S)
    if (
        not _is_token(access_token, _ACCESS_TOKEN)
        or not (refresh_token is None or _is_token(refresh_token, _REFRESH_TOKEN))
        or isinstance(lifetime_s, bool)
        or not isinstance(lifetime_s, int | float)
        or lifetime_s <= 0
    ):
        raise SignOnError("the sign-on server answered with something else than a token")
    return Grant(access_token, min(float(lifetime_s), _LONGEST_LIFETIME_S), refresh_token)


def _members(body: bytes) -> dict[str, Any]:
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) else {}


def _is_token(value: object, form: re.Pattern[str]) -> TypeGuard[str]:
    return isinstance(value, str) and form.fullmatch(value) is not None
