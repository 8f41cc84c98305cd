"""The way to a source of documents over HTTP: one host, its token, its pace. No answer of it is trusted."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TypeVar

import aiohttp
from yarl import URL

from service import __version__
from service.core import media, metrics
from service.core.errors import (
    BadContentError,
    DocumentNotReadyError,
    LinkRefusedError,
    PortalError,
    PortalUnauthorizedError,
    PortalUnavailableError,
    RefusedError,
)
from service.core.portal_answers import error_in_content, error_of
from service.core.settings import SourceSettings
from service.core.telemetry import Calls
from service.core.token_source import TokenSource

_CONNECT_TIMEOUT_S = 5.0
# Whole answers, and the beginning of a document: three silences as long as one read may be.
_READS_PER_ANSWER = 3
_MOST_JSON_BYTES = 32 * 1024 * 1024
_MOST_TEXT_BYTES = 8 * 1024 * 1024
_MOST_ERROR_BYTES = 64 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 3
# What a place that a link leads to says when the link has run out: S3 and Azure 403, Google 400.
_LINK_REFUSALS = frozenset({400, 401, 403})
_HEAD_BYTES = 4096
_CHUNK_BYTES = 256 * 1024
_OPERATOR = "X-PDPJ-CPF-USUARIO-OPERADOR"
_LINK = re.compile(r"[\x21-\x7e]{1,8192}")
# A HEAD saves work or is not worth waiting for.
_HEAD_TIMEOUT_S = 5.0
# What changed in the last minute may change again within the same second: RFC 9110 §8.8.2.2.
_SETTLED = timedelta(seconds=60)


def _reason_of(error: Exception) -> str | None:
    # A document that is not ready yet is no failure: it was asked for in time.
    is_failure = isinstance(error, PortalError) and not isinstance(error, DocumentNotReadyError)
    return error.code if isinstance(error, PortalError) and is_failure else None


CALLS = Calls(
    "portal",
    requests=metrics.PORTAL_REQUESTS,
    failures=metrics.PORTAL_FAILURES,
    seconds=metrics.PORTAL_SECONDS,
    reason_of=_reason_of,
)

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DocumentStream:
    """A document on its way; `chunks` gives the whole body once.

    Attributes:
        media_type: what the first bytes are, `extension` the suffix for it without a dot.
        declared_type: what the answer's header says, if anything.
        declared_bytes: the length by the answer's header, if any; the body had that length when it ended.
    """

    media_type: str
    extension: str
    declared_type: str | None
    declared_bytes: int | None
    chunks: AsyncIterator[bytes]


class Upstream:
    """The API under one base URL. Where it leads to is checked before anybody goes there."""

    def __init__(self, session: aiohttp.ClientSession, source: SourceSettings, tokens: TokenSource) -> None:
        self._session = session
        self._source = source
        self._base = URL(source.url)
        self._tokens = tokens
        self._redirect_hosts = frozenset(host.lower() for host in source.redirect_hosts)
        self._rate_window_s = source.read_timeout_s / 2
        self._answer_timeout_s = source.read_timeout_s * _READS_PER_ANSWER
        cpf = source.operator_cpf
        self._operator = {_OPERATOR: cpf.get_secret_value()} if cpf else {}

    async def read(self, path: str) -> bytes:
        """Return a whole answer, up to 32 MiB of it, as it is.

        Raises:
            PortalError: of the kind that the answer stands for.
        """
        return await self._with_token(lambda token: self._read_answer(path, token))

    async def read_text(self, path: str) -> str:
        """Return a text, up to 8 MiB of it.

        Raises:
            ProcessNotFoundError: there is none, which says nothing of the document itself.
            PortalError: of the kind that the answer stands for; `too_large`.
        """
        with CALLS.of("read_text"):
            return await self._with_token(lambda token: self._read_text(path, token))

    async def read_last_modified(self, path: str) -> datetime | None:
        """Return the `Last-Modified` of a path by HEAD, if there is one that can be relied on.

        Raises:
            PortalError: it wants another token, or patience; or it did not answer.
        """
        return await self._with_token(lambda token: self._read_last_modified(path, token))

    def open_document(self, path: str) -> AbstractAsyncContextManager[DocumentStream]:
        """Open the body of one document, after a look at its beginning.

        What goes wrong inside the block is the caller's own and passes as it is.

        Raises:
            PortalError: at opening or while the chunks are read.
        """
        return self._opened(
            lambda stack: self._with_token(lambda token: self._begin(self._base / path, token, stack))
        )

    def open_link(self, link: str) -> AbstractAsyncContextManager[DocumentStream]:
        """Open the body that a temporary link leads to, as `open_document` does; no token goes there.

        Raises:
            LinkRefusedError: it may have run out.
            RefusedError: it leads to a place that is not allowed.
        """
        return self._opened(lambda stack: self._begin(self._checked(link), None, stack, is_link=True))

    @asynccontextmanager
    async def _opened(
        self, begin: Callable[[ExitStack], Awaitable[tuple[aiohttp.ClientResponse, bytes]]]
    ) -> AsyncIterator[DocumentStream]:
        with ExitStack() as stack:
            with CALLS.of("open_document"):
                response, head = await begin(stack)
                if not head:
                    raise BadContentError("the portal answered with an empty document")
                if error := error_in_content(head, size=response.content_length):
                    raise error
            async with aclosing(self._chunks(response, head)) as chunks:
                yield _stream(response, head, chunks)

    async def _with_token(self, ask: Callable[[str | None], Awaitable[T]]) -> T:
        """Call `ask` with the token, and once more with another one when the portal refuses the first.

        Waiting for a token stands outside of `ask`, whose time-outs are there for the portal alone.
        """
        token = await self._tokens.bearer()
        try:
            return await ask(token)
        except PortalUnauthorizedError:
            if token is None or not await self._tokens.refused(token):
                raise
        return await ask(await self._tokens.bearer())

    async def _read_answer(self, path: str, token: str | None) -> bytes:
        with ExitStack() as stack, _passing_errors():
            async with asyncio.timeout(self._answer_timeout_s):
                return await _read(await self._get(self._base / path, token, stack), _MOST_JSON_BYTES)

    async def _read_text(self, path: str, token: str | None) -> str:
        with ExitStack() as stack, _passing_errors():
            async with asyncio.timeout(self._answer_timeout_s):
                response = await self._get(self._base / path, token, stack)
                body = await _read_beginning(response, _MOST_TEXT_BYTES + 1)
        if len(body) > _MOST_TEXT_BYTES:
            raise RefusedError("the text is too large", code="too_large")
        if error := error_in_content(body[:_HEAD_BYTES], size=len(body)):
            raise error
        return _decoded(body, response.charset)

    async def _read_last_modified(self, path: str, token: str | None) -> datetime | None:
        url = self._base / path
        headers = self._headers(token)
        with _passing_errors():
            async with (
                asyncio.timeout(_HEAD_TIMEOUT_S),
                self._session.head(url, headers=headers, allow_redirects=False) as response,
            ):
                if response.status in {401, 429}:
                    raise error_of(response.status, response.headers, b"")
                return _last_modified(response.headers) if response.status in {200, 204} else None

    async def _begin(
        self, url: URL, token: str | None, stack: ExitStack, *, is_link: bool = False
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        with _passing_errors():
            async with asyncio.timeout(self._answer_timeout_s):
                response = await self._get(url, token, stack, is_link=is_link)
                return response, await _read_beginning(response, _HEAD_BYTES)

    async def _chunks(self, response: aiohttp.ClientResponse, head: bytes) -> AsyncGenerator[bytes, None]:
        with CALLS.of("receive_document"):
            yield head
            received = len(head)
            pace = _Pace(self._source.min_bytes_per_s, self._rate_window_s)
            while chunk := await pace.read(response.content):
                received += len(chunk)
                yield chunk
            if response.content_length not in (None, received):
                raise PortalUnavailableError("the portal cut the document short")

    async def _get(
        self, url: URL, token: str | None, stack: ExitStack, *, is_link: bool = False
    ) -> aiohttp.ClientResponse:
        """Return the 200 after at most three checked redirects; other answers are raised as errors.

        The stack closes every response, so that a connection with an unread body is not used again.
        """
        for _ in range(_MOST_REDIRECTS + 1):
            # Decided at every hop: a host that a link or a redirect leads to must not see the token.
            is_elsewhere = is_link or url.origin() != self._base.origin()
            headers = {} if is_elsewhere else self._headers(token)
            response = await self._session.get(url, headers=headers, allow_redirects=False)
            stack.callback(response.close)
            if response.status == 200:
                _refuse_encoded(response)
                return response
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or not location:
                if is_elsewhere and response.status in _LINK_REFUSALS:
                    # That host never saw the token: its refusal says nothing of it.
                    raise LinkRefusedError("the place that the portal led to refused us")
                body = await _read_beginning(response, _MOST_ERROR_BYTES)
                raise error_of(response.status, response.headers, body)
            url = self._redirected(url, location)
        raise RefusedError("the portal redirected too often", code="bad_redirect")

    def _headers(self, token: str | None) -> dict[str, str]:
        return self._operator if token is None else {**self._operator, "Authorization": f"Bearer {token}"}

    def _checked(self, link: str) -> URL:
        """Read a link as it stands: encoding it again would break the signature in it."""
        try:
            if _LINK.fullmatch(link):
                return self._allowed(URL(link, encoded=True))
        except ValueError:  # no URL at all
            pass
        raise RefusedError("the portal gave a link that is none", code="bad_redirect")

    def _redirected(self, url: URL, location: str) -> URL:
        try:
            return self._allowed(url.join(URL(location)))
        except ValueError:  # no URL at all
            raise RefusedError("the portal led to a place that is not allowed", code="bad_redirect") from None

    def _allowed(self, url: URL) -> URL:
        """Return the URL.

        Raises:
            RefusedError: nobody may be led there.
        """
        is_known = url.origin() == self._base.origin() or url.host in self._redirect_hosts
        is_safe = url.scheme in {"https", self._base.scheme}
        if is_safe and is_known and url.raw_user is None and url.raw_password is None:
            return url
        log.warning(
            "the %s leads to %s://%s: AUTOS_%s_REDIRECT_HOSTS does not allow that",
            self._source.title,
            url.scheme,
            url.host,
            self._source.name.upper(),
        )
        raise RefusedError("the portal led to a place that is not allowed", code="bad_redirect")


class _Pace:
    """Reads a body and refuses one that drips, which keeps every time-out for a single read quiet.

    Only our waiting counts: while S3 is slow, it is not the portal that dawdles.
    """

    def __init__(self, min_bytes_per_s: int, window_s: float) -> None:
        self._min_bytes_per_s = min_bytes_per_s
        self._window_s = window_s
        self._received = 0
        self._waited_s = 0.0

    async def read(self, content: aiohttp.StreamReader) -> bytes:
        """Return the next bytes, or none at the end of the body."""
        begun = time.monotonic()
        with _passing_errors():
            chunk = await content.read(_CHUNK_BYTES)
        self._waited_s += time.monotonic() - begun
        self._received += len(chunk)
        if chunk and self._waited_s > self._window_s:
            if self._received < self._min_bytes_per_s * self._waited_s:
                raise PortalUnavailableError("the portal sent the document too slowly")
            self._received, self._waited_s = 0, 0.0
        return chunk


@asynccontextmanager
async def open_upstream(source: SourceSettings, tokens: TokenSource) -> AsyncIterator[Upstream]:
    """Open the client of this process; the token is asked of its source for each request."""
    timeout = aiohttp.ClientTimeout(
        total=None,
        # There are always connections to be had, so this bounds DNS, TCP and TLS together.
        connect=_CONNECT_TIMEOUT_S,
        sock_connect=_CONNECT_TIMEOUT_S,
        sock_read=source.read_timeout_s,
    )
    headers = {
        "User-Agent": f"Autos/{__version__}",
        "Accept": "application/json, */*",
        "Accept-Encoding": "identity",
    }
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=timeout,
        headers=headers,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    ) as session:
        yield Upstream(session, source, tokens)


@contextmanager
def _passing_errors() -> Iterator[None]:
    """Name what the network does to us. The cause is left out: its text may hold an address with a query."""
    try:
        yield
    except TimeoutError:
        raise PortalUnavailableError("the portal did not answer in time") from None
    except (aiohttp.ClientError, OSError) as error:
        raise PortalUnavailableError(f"no answer from the portal ({type(error).__name__})") from None


def _stream(response: aiohttp.ClientResponse, head: bytes, chunks: AsyncIterator[bytes]) -> DocumentStream:
    declared = response.headers.get("Content-Type")
    media_type = media.sniff(head, declared=declared, name=None)
    return DocumentStream(
        media_type=media_type,
        extension=media.extension(media_type),
        declared_type=declared,
        declared_bytes=response.content_length,
        chunks=chunks,
    )


def _decoded(body: bytes, charset: str | None) -> str:
    try:
        return body.decode(charset or "utf-8", errors="replace")
    except LookupError:  # no encoding that Python knows
        return body.decode("utf-8", errors="replace")


def _refuse_encoded(response: aiohttp.ClientResponse) -> None:
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in {"", "identity"}:
        raise BadContentError("the portal sent a compressed body that was not asked for")


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > most:
            raise BadContentError("the portal's answer is too large")
    return bytes(body)


async def _read_beginning(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Read so many bytes, or the whole of a shorter body."""
    beginning = bytearray()
    while len(beginning) < most and (chunk := await response.content.read(most - len(beginning))):
        beginning += chunk
    return bytes(beginning)


def _last_modified(headers: Mapping[str, str]) -> datetime | None:
    """Return the instant, if it can tell the state that it belongs to from any later one."""
    changed_at, answered_at = _http_date(headers, "Last-Modified"), _http_date(headers, "Date")
    if changed_at is None or answered_at is None:
        return None
    return changed_at if answered_at - changed_at >= _SETTLED else None


def _http_date(headers: Mapping[str, str], name: str) -> datetime | None:
    try:
        at = parsedate_to_datetime(headers.get(name, ""))
        return at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC)
    except (ValueError, TypeError, OverflowError):  # no date, or one at the very end of the calendar
        return None
