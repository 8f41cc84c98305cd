"""The rate limit: never more than the limit and what has come back since, with Redis and without."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.queue import open_queue
from service.core.rate_limit import WINDOW_S, OwnRateLimit, RateLimit
from tests.conftest import MakeSettings


@settings(deadline=None)
@given(limit=st.integers(1, 500), pauses=st.lists(st.floats(0, 120), min_size=1, max_size=300))
def test_no_stretch_of_time_sees_more_than_the_limit_and_what_came_back(
    limit: int, pauses: list[float]
) -> None:
    own, now, admitted = OwnRateLimit(), 1000.0, []
    for pause in pauses:
        now += pause
        verdict = own.admit("key", limit=limit, now=now)
        assert 0 <= verdict.remaining <= limit
        if verdict.is_admitted:
            admitted.append(now)
        else:
            assert verdict.remaining == 0
            later = now + verdict.retry_after_s
            assert OwnRateLimit.admit(own, "key", limit=limit, now=later).is_admitted
            admitted.append(later)
            now = later
    for first, began in enumerate(admitted):
        for last in range(first, len(admitted)):
            most = limit + (admitted[last] - began) * limit / WINDOW_S
            assert last - first + 1 <= most + 1e-3


async def test_redis_counts_for_all_processes_together(empty: None, make_settings: MakeSettings) -> None:
    async with open_queue(make_settings()) as one, open_queue(make_settings()) as other:
        limits = [RateLimit(one), RateLimit(other)]
        verdicts = await asyncio.gather(*(limits[n % 2].admit("key", limit=10) for n in range(30)))
        admitted = [verdict for verdict in verdicts if verdict.is_admitted]
        assert len(admitted) == 10
        assert sorted(verdict.remaining for verdict in admitted) == list(range(10))
        refused = next(verdict for verdict in verdicts if not verdict.is_admitted)
        assert 1 <= refused.retry_after_s <= WINDOW_S / 10
        assert (await limits[0].admit("another", limit=10)).remaining == 9
        names = await one.redis.keys("autos:rate:*")
        assert all([0 < await one.redis.pttl(name) <= WINDOW_S * 1000 for name in names])


async def test_without_redis_each_process_counts_for_itself(make_settings: MakeSettings) -> None:
    async with open_queue(make_settings(redis_url="redis://127.0.0.1:1/0")) as queue:
        limit = RateLimit(queue)
        verdicts = [await limit.admit("key", limit=3) for _ in range(5)]
    assert [verdict.is_admitted for verdict in verdicts] == [True, True, True, False, False]
    assert [verdict.remaining for verdict in verdicts] == [2, 1, 0, 0, 0]


async def test_a_redis_that_says_nothing_holds_a_request_up_once(make_settings: MakeSettings) -> None:
    asked = 0

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, open_queue(make_settings(redis_url=f"redis://127.0.0.1:{port}/0")) as queue:
        before, limit = asked, RateLimit(queue)
        assert [(await limit.admit("key", limit=2)).is_admitted for _ in range(3)] == [True, True, False]
        assert asked - before <= 1
