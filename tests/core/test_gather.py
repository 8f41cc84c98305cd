"""Gathering: one query for many who ask at once, and to each his own answer."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from service.core.gather import Gatherer


class _Source:
    """Answers with ten times the number, when it may; remembers what it was asked at a time."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.may_answer = asyncio.Event()
        self.error: Exception | None = None

    async def find(self, keys: Sequence[int]) -> Mapping[int, int]:
        self.asked.append(sorted(keys))
        await self.may_answer.wait()
        if self.error:
            raise self.error
        return {key: key * 10 for key in keys}


async def _all_ask(gatherer: Gatherer[int, int], keys: Sequence[int]) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(gatherer.ask(key)) for key in keys]
    await asyncio.sleep(0)
    return tasks


async def test_who_asks_alone_is_answered_at_once() -> None:
    source = _Source()
    source.may_answer.set()
    assert await Gatherer(source.find).ask(7) == 70
    assert source.asked == [[7]]


async def test_who_asks_while_queries_are_under_way_shares_the_next_one() -> None:
    source = _Source()
    gatherer = Gatherer(source.find)
    first = await _all_ask(gatherer, [1])
    await asyncio.sleep(0)
    second = await _all_ask(gatherer, [2])
    await asyncio.sleep(0)
    others = await _all_ask(gatherer, [3, 4, 5, 3])
    await asyncio.sleep(0)
    assert source.asked == [[1], [2]]
    source.may_answer.set()
    assert await asyncio.gather(*first, *second, *others) == [10, 20, 30, 40, 50, 30]
    assert source.asked == [[1], [2], [3, 4, 5]]


async def test_an_answer_is_never_older_than_the_question() -> None:
    """Who asks for a key whose query is under way already is answered by another query."""
    source = _Source()
    gatherer = Gatherer(source.find)
    tasks = await _all_ask(gatherer, [1])
    await asyncio.sleep(0)
    tasks += await _all_ask(gatherer, [1])
    source.may_answer.set()
    assert await asyncio.gather(*tasks) == [10, 10]
    assert source.asked == [[1], [1]]


async def test_a_query_asks_for_no_more_than_it_may() -> None:
    source = _Source()
    gatherer = Gatherer(source.find, most=3)
    tasks = await _all_ask(gatherer, range(8))
    source.may_answer.set()
    assert await asyncio.gather(*tasks) == [key * 10 for key in range(8)]
    assert max(len(keys) for keys in source.asked) == 3
    assert sorted(key for keys in source.asked for key in keys) == list(range(8))


async def test_an_error_is_raised_to_all_who_asked_and_to_nobody_after_them() -> None:
    source = _Source()
    gatherer = Gatherer(source.find)
    tasks = await _all_ask(gatherer, [1, 2])
    source.error = OSError("away")
    source.may_answer.set()
    for task in tasks:
        with pytest.raises(OSError, match="away"):
            await task
    source.error = None
    assert await gatherer.ask(3) == 30


async def test_who_gives_up_waiting_takes_nothing_from_the_others() -> None:
    source = _Source()
    gatherer = Gatherer(source.find)
    gone, stays = await _all_ask(gatherer, [1, 1])
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    source.may_answer.set()
    assert await stays == 10


async def test_a_key_without_an_answer_is_an_error_and_no_endless_wait() -> None:
    async def find(_: Sequence[int]) -> Mapping[int, int]:
        return {}

    with pytest.raises(KeyError):
        await Gatherer(find).ask(1)


async def test_nobody_is_forgotten_who_asks_as_the_last_queries_end() -> None:
    source = _Source()
    gatherer = Gatherer(source.find)

    async def ask_twice() -> list[int]:
        return [await gatherer.ask(1), await gatherer.ask(2)]

    twice = asyncio.create_task(ask_twice())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    (once,) = await _all_ask(gatherer, [5])
    await asyncio.sleep(0)
    assert source.asked == [[1], [5]]
    source.may_answer.set()
    async with asyncio.timeout(10):
        assert (await twice, await once) == ([10, 20], 50)
