"""Server-sent events as a reader sees them (HTML standard, section 9.2)."""

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass

_MOST_LINE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Event:
    """One event, or a sign of life without one.

    Attributes:
        name: empty for a comment, or for a block that has no data.
        last_id: where the reader stands from here on; None when the block does not say.
        retry_ms: how long to wait before coming again; None when the block does not say.
    """

    name: str = ""
    data: str = ""
    last_id: str | None = None
    retry_ms: int | None = None


async def read_events(chunks: AsyncIterable[bytes]) -> AsyncIterator[Event]:
    """Yield the events of a stream until it ends; one that was cut in its middle is dropped.

    Raises:
        ValueError: a line is longer than 16 MiB, or no UTF-8.
    """
    block: list[tuple[str, str]] = []
    async for line in _lines(chunks):
        name, _, value = line.partition(":")
        if not line:
            if block:
                yield _event(block)
            block = []
        elif not name:
            yield Event()
        else:
            block.append((name, value.removeprefix(" ")))


async def _lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[str]:
    left = bytearray()
    async for chunk in chunks:
        left += chunk
        if b"\n" in chunk:
            *whole, rest = left.split(b"\n")
            for line in whole:
                yield line.removesuffix(b"\r").decode()
            left = bytearray(rest)
        if len(left) > _MOST_LINE_BYTES:
            raise ValueError("a line of the stream has no end")


def _event(block: list[tuple[str, str]]) -> Event:
    fields = dict(block)
    retry = fields.get("retry", "")
    data = "\n".join(value for name, value in block if name == "data")
    return Event(
        name=fields.get("event", "message") if "data" in fields else "",
        data=data,
        last_id=fields.get("id"),
        retry_ms=int(retry) if retry.isascii() and retry.isdecimal() else None,
    )
