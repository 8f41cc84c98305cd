"""Alerts over time: what makes each of them fire, what ends it, and what comes near and leaves it quiet.

Courses are written as `promtool test rules` has them, a sample every 15 seconds from the time 0 on: `1x3` is
four of 1, `0+2x3` is 0 2 4 6, `_x3` are three that are missing, and `stale` ends a series.
"""

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_deploy import PROMTOOL, RULES, WITHOUT_PROMTOOL, alerts

# Rules over one metric, as all processes see it.
_GAUGES = {
    "AutosNoMetrics": "autos_queue_oldest_age_seconds",
    "AutosNoSweep": "autos_sweep_last_timestamp_seconds",
    "AutosQueueIsOld": "autos_queue_oldest_age_seconds",
    "AutosPortalLeftAlone": "autos_portal_breaker_open",
    "AutosPortalTokenEnds": "autos_portal_token_expiry_timestamp_seconds",
    "AutosCredentialRefused": "autos_portal_token_is_refused",
    "AutosDeliveriesPileUp": "autos_deliveries_pending",
    "AutosDeliveriesLate": "autos_deliveries_oldest_age_seconds",
    "AutosErasureIsLate": "autos_erasures_oldest_age_seconds",
    "AutosJanitorIsLate": "autos_janitor_last_timestamp_seconds",
    "AutosCanaryIsLost": "autos_canary_last_success_timestamp_seconds",
    "AutosCanaryNeverCame": "autos_canary_last_success_timestamp_seconds",
}


@dataclass(frozen=True)
class Course:
    """What becomes of series, and when their alert fires (`12m+`) or does not (`3m-`)."""

    alert: str
    series: Mapping[str, str]
    at: str

    def looks(self) -> Iterator[tuple[str, bool]]:
        """The times at which somebody looks, and whether it fires then."""
        yield from ((look[:-1], look.endswith("+")) for look in self.at.split())


def _gauge(alert: str, values: str, at: str) -> Course:
    """The course of the only metric of a rule."""
    return Course(alert, {f'{_GAUGES[alert]}{{instance="api"}}': values}, at)


def _refused(reason: str) -> str:
    return f'autos_portal_request_failures_total{{operation="read_process",reason="{reason}"}}'


def _jobs(failed: str, completed: str, at: str) -> Course:
    ended = 'autos_jobs_ended_total{{status="{}"}}'.format
    return Course("AutosJobsFail", {ended("failed"): failed, ended("completed"): completed}, at)


def _api(failed: str, answered: str, at: str) -> Course:
    requests = 'autos_http_requests_total{{route="/jobs",status="{}"}}'.format
    return Course("AutosApiErrors", {requests("5xx"): failed, requests("2xx"): answered}, at)


def _calls(of: str, failed: str, asked: str, at: str) -> Course:
    failures, requests = f"autos_{of}_request_failures_total", f"autos_{of}_requests_total"
    return Course(
        {"s3": "AutosStoreFails", "redis": "AutosRedisFails"}[of], {failures: failed, requests: asked}, at
    )


COURSES = [
    _gauge("AutosNoMetrics", "0x8 stale _x20 0x20", "4m- 5m+ 9m-"),
    Course(
        "AutosPulseNotTaken",  # one of two does not see the whole
        {
            'autos_pulse_last_timestamp_seconds{instance="a"}': "0+15x60",
            'autos_pulse_last_timestamp_seconds{instance="b"}': "0+15x8 120x20 450+15x30",
        },
        "4m- 5m+ 9m-",
    ),
    _gauge("AutosNoSweep", "0+15x8 120x20 450+15x30", "5m- 6m+ 9m-"),
    _gauge("AutosNoSweep", "0+60x4 _x40", "4m-"),
    _gauge("AutosQueueIsOld", "0x4 301x30 0x10", "6m- 7m+ 10m-"),
    _gauge("AutosQueueIsOld", "300x40", "9m-"),
    # An outage: the breaker opens for longer and longer, up to five minutes, and each time a job comes back
    # to ask once more. What is in between can be a minute. Then the portal answers again.
    _gauge(
        "AutosPortalLeftAlone",
        "1 0 1x1 0x1 1x3 0x2 1x7 0x3 1x15 0x4 1x19 0x4 1x19 0x4 1x19 0x4 0x40",
        "7m- 9m+ 14m+ 20m+ 26m+ 34m-",
    ),
    _gauge("AutosPortalLeftAlone", "0x4 1 0x1 1x1 0x1 1x3 0x60", "3m- 6m- 9m- 12m-"),  # it recovers
    _gauge("AutosPortalTokenEnds", "7200x600", "59m- 62m+ 119m+ 125m+"),
    _gauge("AutosPortalTokenEnds", "7200x260 90000x40", "62m+ 66m-"),
    _gauge("AutosCredentialRefused", "0x4 1x20 0x10", "2m- 4m+ 8m-"),
    Course("AutosPortalRefusesUs", {_refused("upstream_auth"): "0x4 0+1x40 40x60"}, "3m- 10m+ 25m-"),
    Course("AutosPortalRefusesUs", {_refused("throttled"): "0+5x80"}, "10m- 20m-"),
    _jobs("0+1x120 120x80", "0+2x200", "9m- 20m+ 50m-"),
    _jobs("0+1x200", "0+9x200", "20m- 45m-"),
    _jobs("0x4 0+1x10 10x60", "0x80", "10m- 16m-"),  # all of ten
    Course("AutosWorkersDie", {"autos_leases_expired_total": "0x4 1 2 3 4 5x80"}, "1m- 3m+ 20m-"),
    Course("AutosWorkersDie", {"autos_leases_expired_total": "0x4 1 2x80"}, "3m- 10m-"),
    _api("0+1x60 60x60", "0+20x120", "4m- 10m+ 22m-"),
    _api("0+1x60", "0+99x60", "10m-"),
    _calls("s3", "0+1x80 80x60", "0+10x140", "9m- 15m+ 27m-"),
    _calls("s3", "0+1x80", "0+30x80", "15m-"),
    _calls("redis", "0+1x80 80x60", "0+10x140", "9m- 15m+ 27m-"),
    _calls("redis", "0+1x80", "0+30x80", "15m-"),
    _gauge("AutosDeliveriesPileUp", "0+20x200 4000-20x200", "40m- 45m+ 75m-"),
    _gauge("AutosDeliveriesPileUp", "5000-1x200", "45m-"),  # they are worked off
    _gauge("AutosDeliveriesLate", "0x4 301x60 0x10", "10m- 12m+ 17m-"),
    _gauge("AutosDeliveriesLate", "0x4 301x30 20x60", "8m- 15m-"),  # the hour's rush
    Course("AutosDeliveriesGivenUp", {'autos_deliveries_total{outcome="dead"}': "0x4 1x300"}, "1m- 3m+ 62m-"),
    Course("AutosDeliveriesGivenUp", {'autos_deliveries_total{outcome="again"}': "0+1x60"}, "10m-"),
    _gauge("AutosErasureIsLate", "86300+15x60 0x20", "11m- 13m+ 16m-"),
    _gauge("AutosErasureIsLate", "0+15x40 0x40", "9m- 18m-"),
    _gauge("AutosJanitorIsLate", "-172000x1800 27000x100", "7h- 7h20m+ 8h-"),
    _gauge("AutosCanaryIsLost", "60x280 4200x40", "61m- 67m+ 72m-"),
    _gauge("AutosCanaryIsLost", "0x300", "70m-"),  # that it never came is another's to say
    _gauge("AutosCanaryNeverCame", "0x280 4200x40", "59m- 61m+ 72m-"),
]


def _test(course: Course, rule: dict[str, Any]) -> dict[str, Any]:
    """A test as promtool reads it; what an alert says is what stands in its rule."""
    told = {"exp_labels": rule["labels"], "exp_annotations": rule["annotations"]}
    return {
        "name": f"{course.alert}: {course.at}",
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in course.series.items()],
        "alert_rule_test": [
            {"eval_time": time, "alertname": course.alert, "exp_alerts": [told] if fires else []}
            for time, fires in course.looks()
        ],
    }


def _write(rule: dict[str, Any], folder: Path) -> str:
    """Write the tests of an alert, and its rule alone: promtool computes all rules of a file in each test."""
    name, tests = rule["alert"], [_test(one, rule) for one in COURSES if one.alert == rule["alert"]]
    (folder / f"{name}.rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "one", "rules": [rule]}]}))
    file = {"rule_files": [f"{name}.rules.yaml"], "evaluation_interval": "15s", "tests": tests}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(file))
    return f"{name}.yaml"


def test_of_every_alert_a_course_is_known_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    seen = {(course.alert, fires) for course in COURSES for _, fires in course.looks()}
    assert seen == {(rule["alert"], fires) for rule in alerts() for fires in (True, False)}


@pytest.mark.skipif(PROMTOOL is None, reason=WITHOUT_PROMTOOL)
def test_alerts_fire_and_end_when_they_should(tmp_path: Path) -> None:
    files = [_write(rule, tmp_path) for rule in alerts()]
    for command in (["check", "rules", str(RULES)], ["test", "rules", *files]):
        run = subprocess.run(
            [str(PROMTOOL), *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stdout + run.stderr
