"""Alerts: which of the rules over the pulse hold, in the states that they are there for and in no other."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families as read_text

from service.core import metrics, pulse
from service.core.canary import Outcome
from service.core.db import Connection
from service.core.pulse import Pulse
from service.core.settings import Settings
from tests.test_deploy import alerts

LONGEST_CANARY_S = 1800
OVER_TIME = re.compile(r"\b(rate|increase|deriv)\(")

Vector = Sequence[float]
"""Values of series, or of one number; rules over the pulse look at no labels."""


def _compute(expression: Any, series: Mapping[str, Vector], now: float) -> Vector:
    """Evaluate as much of PromQL as the rules over the pulse are written in."""
    match expression:
        case promql_parser.NumberLiteral():
            return [expression.val]
        case promql_parser.ParenExpr():
            return _compute(expression.expr, series, now)
        case promql_parser.VectorSelector():
            return series.get(expression.name or "", [])
        case promql_parser.AggregateExpr():
            values = _compute(expression.expr, series, now)
            return [{"max": max, "min": min}[str(expression.op)](values)] if values else []
        case promql_parser.Call():
            if expression.func.name == "time":
                return [now]
            if expression.func.name == "max_over_time":  # over what is shown now alone
                return _compute(expression.args[0].vector_selector, series, now)
            assert expression.func.name == "absent"
            return [] if _compute(expression.args[0], series, now) else [1.0]
    assert isinstance(expression, promql_parser.BinaryExpr), expression
    left = _compute(expression.lhs, series, now)
    right = _compute(expression.rhs, series, now)
    return [kept for a, b in zip(left, right, strict=False) for kept in _joined(str(expression.op), a, b)]


def _joined(operator: str, a: float, b: float) -> Vector:
    """Return what is left of a pair; a comparison keeps its left side or nothing."""
    if operator == "-":
        return [a - b]
    is_so = {">": a > b, "<": a < b, "==": a == b, "and": True}[operator]
    return [a] if is_so else []


def _holding(now: datetime) -> set[str]:
    """Return the rules over the pulse that hold for what this process shows."""
    series: dict[str, list[float]] = {}
    for family in read_text(metrics.render("")[1].decode()):
        for sample in family.samples:
            series.setdefault(sample.name, []).append(sample.value)
    return {
        rule["alert"]
        for rule in alerts()
        # The others need a past: test_alert_courses.py.
        if not OVER_TIME.search(rule["expr"])
        and _compute(promql_parser.parse(rule["expr"]), series, now.timestamp())
    }


def _patience(alert: str) -> timedelta:
    """For how long a rule has to hold before anybody is told."""
    (rule,) = (rule for rule in alerts() if rule["alert"] == alert)
    return promql_parser.parse_duration(rule["for"])


@pytest.fixture
async def new(conn: Connection, settings: Settings) -> Pulse:
    """The pulse of an Autos that has done nothing yet, with a canary to come."""
    return replace(await pulse.take(conn, None, settings), canary=Outcome())


@pytest.fixture
def well(new: Pulse) -> Pulse:
    """The pulse of one that has done everything just now."""
    now = new.taken_at
    return replace(
        new, swept_at=now, cleaned_at=now, canary=Outcome(succeeded_at=now), token_is_refused=False
    )


async def test_while_all_is_well_no_rule_holds(well: Pulse) -> None:
    pulse.show(well)
    assert _holding(well.taken_at) == set()
    # The longest that the next canary, sweep and janitor may take.
    canary_at = well.taken_at - timedelta(seconds=2 * LONGEST_CANARY_S - 1)
    pulse.show(
        replace(
            well,
            swept_at=well.taken_at - timedelta(seconds=15),
            cleaned_at=well.taken_at - timedelta(hours=12),
            canary=Outcome(succeeded_at=canary_at),
        )
    )
    assert _holding(well.taken_at) == set()


async def test_what_never_came_to_its_end_is_told_and_a_new_autos_is_given_the_time(
    new: Pulse, settings: Settings
) -> None:
    pulse.show(new)
    assert _holding(new.taken_at) == {"AutosNoSweep", "AutosJanitorIsLate", "AutosCanaryNeverCame"}
    assert _patience("AutosNoSweep") >= timedelta(seconds=60)
    assert _patience("AutosJanitorIsLate") > timedelta(seconds=settings.janitor_interval_s)
    assert _patience("AutosCanaryNeverCame") > timedelta(seconds=LONGEST_CANARY_S)


async def test_without_a_canary_nobody_misses_it(new: Pulse) -> None:
    pulse.show(replace(new, canary=None))
    assert _holding(new.taken_at) == {"AutosNoSweep", "AutosJanitorIsLate"}


async def test_what_came_to_its_end_once_and_no_more_is_told(well: Pulse) -> None:
    pulse.show(well)
    later = well.taken_at + timedelta(hours=49)
    pulse.show(replace(well, taken_at=later))
    assert _holding(later) == {"AutosNoSweep", "AutosJanitorIsLate", "AutosCanaryIsLost"}


@dataclass(frozen=True)
class _Wrong:
    """What is wrong in a pulse, and the rule that says so."""

    alert: str
    changes: Mapping[str, object]


@pytest.mark.parametrize(
    "wrong",
    [
        _Wrong("AutosQueueIsOld", {"oldest_job_s": 301.0}),
        _Wrong("AutosPortalLeftAlone", {"portal_shut_s": 4.0}),
        _Wrong("AutosCredentialRefused", {"token_is_refused": True}),
        _Wrong("AutosDeliveriesLate", {"oldest_delivery_s": 301.0}),
        _Wrong("AutosErasureIsLate", {"oldest_erasure_s": 86_401.0}),
    ],
    ids=lambda wrong: wrong.alert,
)
async def test_what_is_wrong_is_told_until_nobody_knows_any_more(well: Pulse, wrong: _Wrong) -> None:
    pulse.show(replace(well, **wrong.changes))  # type: ignore[arg-type]  # checked by the class itself
    assert _holding(well.taken_at) == {wrong.alert}
    metrics.hide_pulse()
    assert wrong.alert not in _holding(well.taken_at)


async def test_a_fixed_token_is_told_of_while_there_is_time_to_replace_it(well: Pulse) -> None:
    ends_at = well.taken_at + timedelta(minutes=61)
    fixed = replace(well, token_expires_at=ends_at, token_is_refused=None)
    pulse.show(fixed)
    assert _holding(well.taken_at) == set()
    pulse.show(replace(fixed, token_expires_at=ends_at - timedelta(minutes=2)))
    assert _holding(well.taken_at) == {"AutosPortalTokenEnds"}
    assert _patience("AutosPortalTokenEnds") < timedelta(minutes=5)


async def test_a_system_that_nobody_sees_is_told_of_at_once_and_who_does_not_see_it_a_minute_later(
    well: Pulse,
) -> None:
    pulse.show(well)
    metrics.hide_pulse()
    assert _holding(well.taken_at) == {"AutosNoMetrics"}
    assert "AutosPulseNotTaken" in _holding(well.taken_at + timedelta(seconds=61))
