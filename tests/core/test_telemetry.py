"""The seam: what is counted of a call, and what is not."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from service.core.telemetry import Calls


class _Party:
    """Somebody who is called, with a registry of his own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Calls(
            "party",
            requests=Counter("requests_total", "", ["operation"], registry=self.registry),
            failures=Counter("failures_total", "", ["operation", "reason"], registry=self.registry),
            seconds=Histogram("seconds", "", ["operation"], registry=self.registry),
            reason_of=lambda error: "broken" if isinstance(error, OSError) else None,
        )

    def seen(self) -> tuple[float, float, dict[str, float]]:
        """Return how many calls were counted, how many were timed, and the failures."""
        failures = {
            sample.labels["reason"]: sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == "failures_total"
        }
        counted = self.registry.get_sample_value("requests_total", {"operation": "ask"}) or 0
        timed = self.registry.get_sample_value("seconds_count", {"operation": "ask"}) or 0
        return counted, timed, failures


def test_a_call_that_ends_well_is_counted_and_timed() -> None:
    party = _Party()
    for _ in range(2):
        with party.calls.of("ask"):
            pass
    assert party.seen() == (2, 2, {})


def test_a_failure_of_the_other_party_is_counted_by_its_kind_and_passes() -> None:
    party = _Party()
    with pytest.raises(OSError, match="cut"), party.calls.of("ask"):
        raise OSError("cut")
    assert party.seen() == (1, 1, {"broken": 1})


def test_an_error_that_is_none_of_his_is_no_failure() -> None:
    party = _Party()
    with pytest.raises(KeyError), party.calls.of("ask"):
        raise KeyError("ours")
    assert party.seen() == (1, 1, {})


def test_an_answer_can_be_a_failure() -> None:
    party = _Party()
    with party.calls.of("ask") as call:
        call.failed("5xx")
    assert party.seen() == (1, 1, {"5xx": 1})


async def test_a_call_that_was_cancelled_is_not_counted() -> None:
    party = _Party()
    begun = asyncio.Event()

    async def ask() -> None:
        with party.calls.of("ask"):
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(ask())
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert party.seen() == (0, 0, {})


def test_without_a_trace_there_is_nothing_to_hand_on() -> None:
    with _Party().calls.of("ask") as call:
        assert call.traceparent is None
