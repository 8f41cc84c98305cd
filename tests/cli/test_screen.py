"""What is drawn fits, what is shown is harmless, and what is streamed is read however it is cut."""

import itertools
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cli.event_stream import Event, read_events
from service.cli.screen import bar_line
from service.cli.words import plain, size


@given(
    label=st.text("0123456789-.", max_size=30),
    percent=st.floats(-10, 200),
    details=st.text("abc 0", max_size=80),
    width=st.integers(1, 300),
)
def test_a_bar_is_never_wider_than_the_terminal(label: str, percent: float, details: str, width: int) -> None:
    line = bar_line(label, percent, details, width=width)
    assert len(line) <= width
    assert line.startswith(label) or label not in line


def test_a_bar_says_how_much_is_done_and_keeps_its_length() -> None:
    assert bar_line("case", 50, "13/26", width=58) == "case  [########--------]  50 %  13/26"
    assert bar_line("case", 100, "26/26", width=58) == "case  [################] 100 %  26/26"
    assert bar_line("case", 99.9, "", width=20) == "case   99 %  "
    assert bar_line("case", 7, "1/26", width=8) == "  7 %"


@given(text=st.text())
def test_no_text_of_strangers_moves_the_cursor(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable()
    assert shown == plain(shown)


@pytest.mark.parametrize(
    ("size_bytes", "written"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_398_490, "1.4 MB"), (2**40, "1099.5 GB")],
)
def test_sizes_are_written_for_people(size_bytes: int, written: str) -> None:
    assert size(size_bytes) == written


STREAM = (
    b'retry: 2000\n\n:\n\nid: 7\nevent: job\ndata: {"a":\ndata: 1}\n\nid: 8\n\nevent: documents\r\n'
    b"data:caf\xc3\xa9\r\n\r\ndata: cut in the mid"
)


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=20))
async def test_a_stream_is_read_the_same_however_it_is_cut(cuts: list[int]) -> None:
    ends = sorted({0, *cuts, len(STREAM)})

    async def chunks() -> AsyncIterator[bytes]:
        for start, end in itertools.pairwise(ends):
            yield STREAM[start:end]

    assert [event async for event in read_events(chunks())] == [
        Event(retry_ms=2000),
        Event(),
        Event("job", '{"a":\n1}', last_id="7"),
        Event(last_id="8"),
        Event("documents", "café"),
    ]


async def test_a_line_without_an_end_is_not_kept_in_memory() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1_000_000

    with pytest.raises(ValueError, match="has no end"):
        async for _ in read_events(chunks()):
            pass
