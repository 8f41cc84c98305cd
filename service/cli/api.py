"""The API as a caller on the command line sees it: an address, a key, and patience.

What is lost on the way is sent again when that can do no harm, and a wish for patience (429, 503) is heeded;
both for a bounded time. The key goes to the API alone, and into no text.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import UUID, uuid4

import aiohttp
import orjson
from pydantic import BaseModel, ValidationError
from yarl import URL

from service import __version__
from service.cli.errors import CallError, RefusedCallError, UnreachableError, UsageError
from service.cli.event_stream import Event, read_events
from service.cli.screen import note
from service.cli.words import plain
from service.schemas import Invalid

_PATIENCE_S = 120.0
_CONNECT_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 45.0
_ANSWER_TIMEOUT_S = 90.0
_MOST_ANSWER_BYTES = 64 * 1024 * 1024
_CHUNK_BYTES = 256 * 1024
_WAITS_AFTER_LOSS_S = (0.5, 1.0, 2.0)
_UNSAID_WAIT_S = 5.0
_FIRST_COME_AGAIN_S = 2.0
_LONGEST_COME_AGAIN_S = 30.0
_LOST_BEHIND_A_PROXY = (502, 504)

NO_TEXT = "what was given is no text in UTF-8"
"""Said of bytes that nobody can send on."""

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class _Problem(BaseModel):
    """What is shown of a problem (RFC 9457), whoever answered with it."""

    type: str = ""
    title: str
    detail: str
    errors: list[Invalid] = []


@dataclass(frozen=True, slots=True)
class _Call:
    """A request that may be sent more than once if `is_repeatable`."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes | None
    headers: dict[str, str]
    is_repeatable: bool


class Api:
    """The API under one address, for one key.

    Attributes:
        session: for requests elsewhere too; it carries no key by itself.
        patience_s: how long one call is tried, and how long a stream may be silent.
    """

    def __init__(self, session: aiohttp.ClientSession, address: str, key: str, *, patience_s: float) -> None:
        self.session = session
        self.patience_s = patience_s
        self._address = address
        self._key = key

    async def get(self, path: str, model: type[M], **query: str) -> M:
        """Ask for something.

        Raises:
            RefusedCallError: the API answered with a problem.
            CallError: no answer, or none that is as described.
        """
        return self.read(model, (await self.get_raw(path, **query)).body)

    async def get_raw(self, path: str, **query: str) -> Answer:
        """Ask for something, and have the answer as it came; raises like `get`."""
        return await self._answered(_Call("GET", path, query, None, {}, is_repeatable=True))

    async def submit(self, path: str, model: type[M], body: Mapping[str, Any]) -> M:
        """Send something that an `Idempotency-Key` makes safe to send again.

        Raises:
            UsageError: the body holds what is no text.
            RefusedCallError, CallError: as `get`.
        """
        headers = {"Content-Type": "application/json", "Idempotency-Key": f'"{uuid4()}"'}
        call = _Call("POST", path, {}, _encoded(body), headers, is_repeatable=True)
        return self.read(model, (await self._answered(call)).body)

    async def post(self, path: str, model: type[M], body: Mapping[str, Any] | None = None) -> M:
        """Send something once; raises like `get`."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        data = None if body is None else _encoded(body)
        call = _Call("POST", path, {}, data, headers, is_repeatable=False)
        return self.read(model, (await self._answered(call)).body)

    async def delete(self, path: str, model: type[M], **query: str) -> M:
        """Delete something, and read what is said of it; raises like `get`."""
        return self.read(model, (await self._answered(_Call("DELETE", path, query, None, {}, True))).body)

    async def link(self, document_id: UUID) -> str:
        """Return a fresh link to a document, which needs no key; raises like `get`."""
        answer = await self.get_raw(f"/documents/{document_id}/content")
        if answer.status != 302 or not (link := answer.headers.get("Location")):
            raise CallError(f"the API at {self._address} gave no link to a document")
        return link

    def read(self, model: type[M], text: bytes | str) -> M:
        """Read an answer; members that this version does not know are passed over.

        Raises:
            CallError: it is not as described.
        """
        try:
            return model.model_validate_json(text)
        except ValidationError:
            # The cause is left out: its text holds what came.
            raise CallError(
                f"the API at {self._address} answered with something else than expected"
            ) from None

    async def follow(self, path: str) -> AsyncGenerator[Event, None]:
        """Yield the events of a stream, those without a name too that say where it stands.

        A lost connection is made anew and goes on there. It ends when the API says that there is no more.

        Raises:
            RefusedCallError: the API answered with a problem.
            UnreachableError: nothing came for as long as there is patience.
        """
        follower = _Follower(self, path)
        while not follower.has_ended:
            try:
                async with aclosing(follower.read()) as events:
                    async for event in events:
                        yield event
            except UnreachableError as error:
                follower.refuse_silence(error)
            if not follower.has_ended:
                await asyncio.sleep(follower.wait_s)

    @asynccontextmanager
    async def opened(self, call: _Call) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request once; redirects are answers, but those to the same path elsewhere.

        Raises:
            CallError: the API is at another address.
            UnreachableError: no answer came, or the block lost it while reading.
        """
        headers = {"X-API-Key": self._key, **call.headers}
        url = URL(self._address + call.path, encoded=True).with_query(call.query)
        with self._naming_losses():
            async with self.session.request(
                call.method, url, data=call.body, headers=headers, allow_redirects=False
            ) as response:
                self._refuse_move(url, response)
                yield response

    def _refuse_move(self, asked: URL, response: aiohttp.ClientResponse) -> None:
        """Follow nobody who would have the key brought elsewhere; say where that is."""
        place = _place(asked, response)
        if place is None or place.raw_path != asked.raw_path:
            return
        there = plain(str(place.origin()))
        said = f"the API at {self._address} has moved to {there}: name it by AUTOS_URL or --url"
        if asked.scheme == "http" and place.scheme == "https":
            said += "; the key has been sent in clear text just now"
        raise CallError(said)

    async def refusal(self, response: aiohttp.ClientResponse) -> RefusedCallError:
        """Read an answer that is a problem."""
        return self._refusal(Answer(response.status, response.headers, await _read(response)))

    async def _answered(self, call: _Call) -> Answer:
        """Send until an answer says something else than that it should be tried again."""
        patience = _Patience(self.patience_s)
        while True:
            try:
                answer = await self._send(call)
            except UnreachableError as error:
                if not call.is_repeatable or not await patience.waits_after_loss(error):
                    raise
                continue
            if answer.status < 400:
                return answer
            refusal = self._refusal(answer)
            if not await patience.waits_for(answer, refusal, is_repeatable=call.is_repeatable):
                raise refusal

    async def _send(self, call: _Call) -> Answer:
        with self._naming_losses():
            async with asyncio.timeout(_ANSWER_TIMEOUT_S), self.opened(call) as response:
                return Answer(response.status, response.headers, await _read(response))

    @contextmanager
    def _naming_losses(self) -> Iterator[None]:
        """Name what the network does to us. The cause is left out: its text may hold a whole address."""
        try:
            yield
        except TimeoutError:
            raise UnreachableError(f"no answer in time from the API at {self._address}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise UnreachableError(f"no answer from the API at {self._address}: {lost(error)}") from None

    def _refusal(self, answer: Answer) -> RefusedCallError:
        try:
            problem = _Problem.model_validate_json(answer.body)
        except ValidationError:
            said = f"the API at {self._address} answered with the status {answer.status}"
            return RefusedCallError(said, status=answer.status)
        said = f"{problem.title}: {problem.detail}"
        if pointers := ", ".join(one.pointer for one in problem.errors):
            said += f" ({pointers})"
        # A proxy's or a stranger's words, too: what they repeat of the request is blotted out.
        return RefusedCallError(
            plain(said).replace(self._key, "[the key]"),
            status=answer.status,
            code=problem.type.rpartition("/")[2],
        )


class _Patience:
    """How long one call may still be tried."""

    def __init__(self, patience_s: float) -> None:
        self._clock = asyncio.get_running_loop().time
        self._until = self._clock() + patience_s
        self._waits = iter(_WAITS_AFTER_LOSS_S)

    async def waits_after_loss(self, error: CallError) -> bool:
        """Wait before another try; False when there were enough."""
        wait_s = next(self._waits, None)
        if wait_s is None or self._clock() + wait_s > self._until:
            return False
        note(f"{error}; trying again")
        await asyncio.sleep(wait_s)
        return True

    async def waits_for(self, answer: Answer, refusal: RefusedCallError, *, is_repeatable: bool) -> bool:
        """Wait as the API asks, within bounds; False when it does not ask, or for too long."""
        if answer.status in _LOST_BEHIND_A_PROXY or refusal.code == "idempotency-key-in-use":
            return is_repeatable and await self.waits_after_loss(refusal)
        if answer.status not in (429, 503):
            return False
        wait_s = retry_after_s(answer.headers)
        if self._clock() + wait_s > self._until:
            return False
        note(f"{refusal}; trying again in {wait_s:.0f} s")
        await asyncio.sleep(wait_s)
        return True


class _Follower:
    """Where somebody stands in a stream.

    Attributes:
        wait_s: how long to wait before coming again.
        has_ended: whether nothing more will come.
    """

    def __init__(self, api: Api, path: str) -> None:
        self._api = api
        self._path = path
        self._last_id: str | None = None
        self._clock = asyncio.get_running_loop().time
        self._heard_at = self._clock()
        self.wait_s = _FIRST_COME_AGAIN_S
        self.has_ended = False

    async def read(self) -> AsyncGenerator[Event, None]:
        """Yield what comes over one connection."""
        async with self._api.opened(self._call()) as response:
            if response.status == 204:
                self.has_ended = True
                return
            if response.status != 200:
                await self._wait_or_refuse(response)
                return
            try:
                async for event in read_events(response.content.iter_any()):
                    self._heed(event)
                    if event.name or event.last_id is not None:
                        yield event
            except ValueError as error:
                raise CallError(f"the stream of the API cannot be read: {error}") from None
        # A stream of nothing but "come again" is one that cannot be served now.
        self.refuse_silence(UnreachableError("the API says again and again to come later"))

    def _call(self) -> _Call:
        headers = {"Accept": "text/event-stream"}
        if self._last_id is not None:
            headers["Last-Event-ID"] = self._last_id
        return _Call("GET", self._path, {}, None, headers, is_repeatable=True)

    def _heed(self, event: Event) -> None:
        if event.retry_ms is None:
            self._heard_at = self._clock()
        else:
            self.wait_s = min(event.retry_ms / 1000, _LONGEST_COME_AGAIN_S)
        if event.last_id is not None:
            self._last_id = event.last_id

    async def _wait_or_refuse(self, response: aiohttp.ClientResponse) -> None:
        refusal = await self._api.refusal(response)
        if response.status not in (429, *range(502, 505)):
            raise refusal
        self.wait_s = min(retry_after_s(response.headers), _LONGEST_COME_AGAIN_S)
        self.refuse_silence(refusal)

    def refuse_silence(self, error: CallError) -> None:
        """Raise the error when nothing has been heard for too long."""
        if self._clock() - self._heard_at > self._api.patience_s:
            raise error


@asynccontextmanager
async def open_api(address: str, key: str, *, patience_s: float = _PATIENCE_S) -> AsyncIterator[Api]:
    """Open a client of the API; it follows no redirect and heeds no proxy variables.

    Args:
        patience_s: see `Api`.

    Raises:
        UsageError: the address is none, or the key cannot be one.
    """
    address = _checked_address(address)
    if not key.isascii() or not key.isprintable() or " " in key or not 0 < len(key) <= 512:
        raise UsageError("what was given as key is none: AUTOS_KEY, or --key")
    timeout = aiohttp.ClientTimeout(
        total=None, connect=_CONNECT_TIMEOUT_S, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_READ_TIMEOUT_S
    )
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=timeout,
        headers={"User-Agent": f"Autos/{__version__} (command line)", "Accept-Encoding": "identity"},
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    ) as session:
        yield Api(session, address, key, patience_s=patience_s)


def path_of(number: str) -> str:
    """Return the path of a process, whatever was written for its number."""
    # What is no text is no number either, which the API says.
    return f"/processes/{quote(number, safe='', errors='replace')}"


def lost(error: aiohttp.ClientError | OSError) -> str:
    """Say how a connection was lost, in words that hold nothing of where it led."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return "no trusted TLS connection"
    cause = getattr(error, "os_error", error)
    if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, ssl.SSLError):
        return cause.strerror
    return type(error).__name__


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Return how long an answer asks to wait."""
    said = headers.get("Retry-After", "")
    return float(said) if said.isascii() and said.isdecimal() and len(said) < 9 else _UNSAID_WAIT_S


def as_json(body: bytes) -> str:
    """Write an answer again for a program or a person, in ASCII: no byte of it can move a cursor.

    Raises:
        CallError: it is no JSON.
    """
    try:
        return json.dumps(orjson.loads(body), indent=2)
    except orjson.JSONDecodeError:
        raise CallError("the API answered with something else than JSON") from None


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError:
        raise UsageError(NO_TEXT) from None


def _place(asked: URL, response: aiohttp.ClientResponse) -> URL | None:
    """Return where a redirect leads; None when it is none."""
    location = response.headers.get("Location")
    if response.status not in (301, 302, 303, 307, 308) or not location:
        return None
    try:
        place = asked.join(URL(location))
    except ValueError:
        return None
    return place if place.scheme in ("http", "https") and place.host else None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > _MOST_ANSWER_BYTES:
            raise CallError("the API's answer is too large")
    return bytes(body)


def _checked_address(text: str) -> str:
    """Return the address without a slash at its end; one that is refused may hold a password."""
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    is_whole = url.scheme in ("http", "https") and url.host and not url.query_string and not url.fragment
    if not is_whole or url.raw_user is not None or url.raw_password is not None:
        raise UsageError("the API's address has to be http://… or https://…, without user name and query")
    return str(url).rstrip("/")
