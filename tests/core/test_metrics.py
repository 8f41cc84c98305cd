"""The metrics: their names, and what Prometheus' own parsers make of them."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from service import __version__
from service.core import metrics
from service.core.metrics import OPENMETRICS, REGISTRY, TEXT, hide_pulse, may_see, render, show_pulse

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
LABELS = {"method", "route", "status", "operation", "reason", "outcome", "state", "version"}
COUNTED = ("_total", "_info")
# What Prometheus calls base units.
UNITS = re.compile(r"_(milliseconds|ms|minutes|hours|percent|kilobytes|kb|mb|megabytes)(_|$)")


@pytest.fixture
def pulse() -> Iterator[None]:
    """Every gauge has a value."""
    now = datetime(2026, 3, 2, 12, tzinfo=UTC)
    show_pulse(
        queue_jobs={"pending": 3, "processing": 2},
        queue_oldest_age_s=12.5,
        leases=2,
        portal_concurrency_limit=8,
        portal_in_flight=5,
        is_portal_breaker_open=True,
        portal_token_expires_at=now,
        is_portal_token_refused=True,
        swept_at=now,
        cleaned_at=now,
        deliveries_pending=4,
        deliveries_oldest_age_s=7.5,
        erasures_oldest_age_s=90.0,
        canary_succeeded_at=now,
        canary_duration_s=1.5,
        taken_at=now,
    )
    yield
    show_pulse(queue_jobs={})


def full_name(family: Metric) -> str:
    """The name by which it is asked for."""
    return family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")


def _families() -> list[Metric]:
    return [family for family in REGISTRY.collect() if not family.name.startswith("process_")]


def test_every_name_follows_the_rules(pulse: None) -> None:
    for family in _families():
        name = full_name(family)
        assert name.startswith("autos_"), name
        assert re.fullmatch(r"[a-z][a-z0-9_]*[a-z0-9]", name), name
        assert not UNITS.search(name), name
        assert name.endswith("_total") == (family.type == "counter"), name
        assert family.documentation.endswith("."), name
        if family.type == "histogram":
            assert name.endswith(("_seconds", "_bytes")), name
        if family.type == "gauge" and ("last" in name or "expiry" in name):
            assert name.endswith("_timestamp_seconds"), name


def test_beside_every_counter_of_failures_stands_one_of_what_was_tried() -> None:
    names = {full_name(family) for family in _families()}
    failures = {name for name in names if name.endswith("_failures_total")}
    assert len(failures) >= 7
    for name in failures:
        assert name.replace("_failures_total", "s_total") in names, name


def test_labels_are_of_a_few_kinds() -> None:
    used = {
        label
        for family in _families()
        for sample in family.samples
        for label in sample.labels
        if label != "le"
    }
    assert used <= LABELS


def test_nothing_is_told_of_when_a_series_began() -> None:
    assert not [name for name in _sample_names(REGISTRY.collect()) if name.endswith("_created")]


@pytest.mark.parametrize(
    ("accept", "media_type"), [("", TEXT), ("*/*", TEXT), (f"{OPENMETRICS};q=0.5", OPENMETRICS)]
)
def test_prometheus_own_parser_reads_what_is_shown(pulse: None, accept: str, media_type: str) -> None:
    content_type, body = render(accept)
    assert content_type.startswith(f"{media_type}; version=")
    read = read_openmetrics if media_type == OPENMETRICS else read_text
    found = {family.name: family for family in read(body.decode())}
    shown = list(_sample_names(REGISTRY.collect()))
    assert sorted(_sample_names(found.values())) == sorted(shown)
    assert f'autos_build_info{{version="{__version__}"}} 1.0' in body.decode()
    assert REGISTRY.get_sample_value("process_open_fds")


def _sample_names(families: object) -> Iterator[str]:
    assert hasattr(families, "__iter__")
    for family in families:
        for sample in family.samples:
            yield sample.name


def test_the_pulse_is_shown_as_it_was_told(pulse: None) -> None:
    noon = datetime(2026, 3, 2, 12, tzinfo=UTC).timestamp()
    expected = {
        "autos_queue_oldest_age_seconds": 12.5,
        "autos_leases": 2,
        "autos_portal_concurrency_limit": 8,
        "autos_portal_in_flight": 5,
        "autos_portal_breaker_open": 1,
        "autos_portal_token_expiry_timestamp_seconds": noon,
        "autos_portal_token_is_refused": 1,
        "autos_sweep_last_timestamp_seconds": noon,
        "autos_janitor_last_timestamp_seconds": noon,
        "autos_deliveries_pending": 4,
        "autos_deliveries_oldest_age_seconds": 7.5,
        "autos_erasures_oldest_age_seconds": 90,
        "autos_canary_last_success_timestamp_seconds": noon,
        "autos_canary_duration_seconds": 1.5,
        "autos_pulse_last_timestamp_seconds": noon,
    }
    assert {name: REGISTRY.get_sample_value(name) for name in expected} == expected
    assert REGISTRY.get_sample_value("autos_queue_jobs", {"state": "pending"}) == 3
    assert REGISTRY.get_sample_value("autos_queue_jobs", {"state": "processing"}) == 2


def test_of_a_pulse_that_is_hidden_the_last_times_stay(pulse: None) -> None:
    before = _gauges()
    hide_pulse()
    hide_pulse()
    last = {
        "autos_sweep_last_timestamp_seconds",
        "autos_janitor_last_timestamp_seconds",
        "autos_canary_last_success_timestamp_seconds",
        "autos_pulse_last_timestamp_seconds",
    }
    assert before.keys() > last
    assert _gauges() == {name: value for name, value in before.items() if name in last}


def test_who_never_took_a_pulse_says_so() -> None:
    show_pulse(queue_jobs={})
    hide_pulse()
    assert REGISTRY.get_sample_value("autos_pulse_last_timestamp_seconds") == 0
    show_pulse(queue_jobs={})


def _gauges() -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in _families()
        if family.type == "gauge"
        for sample in family.samples
    }


def test_what_is_not_known_is_not_shown() -> None:
    show_pulse(queue_jobs={"pending": 0})
    assert REGISTRY.get_sample_value("autos_queue_jobs", {"state": "pending"}) == 0
    assert REGISTRY.get_sample_value("autos_portal_token_expiry_timestamp_seconds") is None
    assert b"autos_canary" not in render("")[1]
    show_pulse(queue_jobs={})


@pytest.mark.parametrize(
    ("given", "token", "may"),
    [
        ("", None, True),
        ("Bearer anything", None, True),
        ("Bearer s3cret", "s3cret", True),
        ("bearer  s3cret ", "s3cret", True),
        ("", "s3cret", False),
        ("Bearer", "s3cret", False),
        ("Bearer s3cre", "s3cret", False),
        ("Bearer s3crets", "s3cret", False),
        ("Bearer \udcff", "s3cret", False),
        ("Basic s3cret", "s3cret", False),
        ("s3cret", "s3cret", False),
    ],
)
def test_who_may_see_them(given: str, token: str | None, may: bool) -> None:
    assert may_see(given, token) is may


def test_the_page_for_operators_has_every_metric_and_no_other(pulse: None) -> None:
    listed = re.findall(r"^\| `(autos_\w+)(?:\{[\w, ]+\})?` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(full_name(family) for family in _families())


def test_the_page_for_operators_names_the_labels_of_each(pulse: None) -> None:
    listed = dict(re.findall(r"^\| `(autos_\w+)\{([\w, ]+)\}` \|", PAGE.read_text(), re.MULTILINE))
    labels = {
        full_name(family): ", ".join(one for one in family.samples[0].labels if one != "le")
        for family in _families()
        if family.samples
    }
    assert {name: words for name, words in listed.items() if name in labels} == {
        name: words for name, words in labels.items() if words
    }


def test_every_instrument_is_in_the_one_module() -> None:
    """So that dashboards and rules can be held against it without a process that has seen everything."""
    sources = Path(metrics.__file__).parents[2]
    for folder in ("service", "worker"):
        for path in (sources / folder).rglob("*.py"):
            made = re.search(r"\b(?:Counter|Gauge|Histogram|Info)\(\s*\"", path.read_text())
            assert not made or path.name == "metrics.py", path
