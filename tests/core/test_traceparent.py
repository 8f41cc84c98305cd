"""The header of a trace, read as the W3C has it and no other way."""

import re
from uuid import uuid4

import pytest

from service.core import traceparent

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


@pytest.mark.parametrize("flags", ["00", "01", "02", "03"])
def test_what_is_valid_is_passed_on_as_it_is(flags: str) -> None:
    assert traceparent.accept([f"00-{TRACE}-{SPAN}-{flags}"]) == f"00-{TRACE}-{SPAN}-{flags}"


@pytest.mark.parametrize(
    "value",
    [
        "",
        TRACE,
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN.upper()}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}0-{SPAN}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"FF-{TRACE}-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"01-{TRACE}-{SPAN}-01more",
        f"00-{TRACE}-{SPAN}-\N{ARABIC-INDIC DIGIT ZERO}\N{ARABIC-INDIC DIGIT ONE}",
    ],
)
def test_what_is_invalid_is_not_accepted(value: str) -> None:
    assert traceparent.accept([value]) is None


def test_none_and_two_say_nothing() -> None:
    valid = f"00-{TRACE}-{SPAN}-01"
    assert traceparent.accept([]) is None
    assert traceparent.accept([valid, valid]) is None


@pytest.mark.parametrize("value", [f"01-{TRACE}-{SPAN}-01", f"fe-{TRACE}-{SPAN}-01-what-comes-one-day"])
def test_a_later_version_is_passed_on_in_ours(value: str) -> None:
    assert traceparent.accept([value]) == f"00-{TRACE}-{SPAN}-01"


def test_flags_that_mean_nothing_yet_are_not_passed_on() -> None:
    assert traceparent.accept([f"00-{TRACE}-{SPAN}-ff"]) == f"00-{TRACE}-{SPAN}-03"
    assert traceparent.accept([f"00-{TRACE}-{SPAN}-08"]) == f"00-{TRACE}-{SPAN}-00"


def test_each_new_one_is_valid_and_another() -> None:
    made = {traceparent.new() for _ in range(100)}
    assert len(made) == 100
    assert {traceparent.accept([one]) for one in made} == made
    assert all(re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", one) for one in made)


def test_the_one_of_an_id_is_valid_and_always_the_same() -> None:
    row_id = uuid4()
    made = traceparent.of_id(row_id)
    assert traceparent.accept([made]) == made == traceparent.of_id(row_id)
    assert made != traceparent.of_id(uuid4())
