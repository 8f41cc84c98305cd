"""Lanes and places: what one worker sends at a time, so that a slow receiver holds up nobody."""

import asyncio
from contextlib import ExitStack
from uuid import UUID, uuid4

from worker.destinations import LANES, Destinations


def _open(to: Destinations, destination: UUID, stack: ExitStack) -> bool:
    return stack.enter_context(to.lane(destination))


def test_a_destination_has_a_few_lanes_and_others_have_theirs() -> None:
    to, one, other = Destinations(places=1, slow_places=0), uuid4(), uuid4()
    with ExitStack() as stack:
        assert [_open(to, one, stack) for _ in range(LANES + 2)] == [True] * LANES + [False] * 2
        assert _open(to, other, stack)
        assert to.list_closed() == {one}
    assert to.list_closed() == set()


def test_after_a_failure_one_lane_is_open_and_one_more_with_each_success() -> None:
    to, destination = Destinations(places=1, slow_places=0), uuid4()
    with to.lane(destination):
        to.note(destination, is_success=False)
        assert to.may_go_on(destination)
        with to.lane(destination) as is_open:
            assert not is_open
    for number in range(2, LANES + 1):
        with to.lane(destination):
            to.note(destination, is_success=True)
        with ExitStack() as stack:
            assert [_open(to, destination, stack) for _ in range(number + 1)] == [True] * number + [False]


def test_a_destination_that_asks_for_a_pause_gets_nothing_until_it_is_over() -> None:
    to, destination = Destinations(places=1, slow_places=0), uuid4()
    with to.lane(destination):
        to.note(destination, is_success=False, pause_s=60)
        assert not to.may_go_on(destination)
    with to.lane(destination) as is_open:
        assert not is_open
    assert to.list_closed() == {destination}


async def test_a_place_is_given_to_whoever_waits_longest() -> None:
    to, order = Destinations(places=1, slow_places=0), list[int]()

    async def take(number: int) -> None:
        async with to.place():
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(take(number) for number in range(5)))
    assert order == [0, 1, 2, 3, 4]


async def test_what_is_slow_leaves_its_place_to_others_as_long_as_there_are_slow_places() -> None:
    to, other = Destinations(places=1, slow_places=2), Destinations(places=1, slow_places=1)
    hang, held, held_elsewhere = asyncio.Event(), asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def take(of: Destinations, held: asyncio.Semaphore) -> None:
        async with of.place():
            held.release()
            await hang.wait()

    tasks = [asyncio.create_task(take(to, held)) for _ in range(4)]
    async with asyncio.timeout(60):
        for _ in range(3):
            await held.acquire()
        # Where there is a slow place left, one that begins now leaves its place after the third would have.
        tasks += [asyncio.create_task(take(other, held_elsewhere)) for _ in range(2)]
        for _ in range(2):
            await held_elsewhere.acquire()
    # Two are slow, the third keeps the place, and the fourth waits for it.
    assert held.locked()
    hang.set()
    await asyncio.gather(*tasks)
    async with to.place():
        assert to._places.locked()
