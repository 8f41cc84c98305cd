"""What is deployed beside Autos asks for metrics that there are, by labels that they have."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from service.core import metrics
from service.core.errors import PortalUnauthorizedError

DEPLOY = Path(__file__).parents[1] / "deploy"
GRAFANA = DEPLOY / "grafana" / "autos.json"
RULES = DEPLOY / "prometheus" / "autos.rules.yaml"
PAGE = Path(__file__).parents[1] / "docs" / "operations.md"
DEPLOYMENT = PAGE.with_name("deployment.md")
PROMTOOL = shutil.which("promtool")
WITHOUT_PROMTOOL = "there is no promtool here (Debian's is in the package prometheus)"
# Grafana puts a time span in its place.
VARIABLES = {"$__rate_interval": "5m"}
# What every program has, and what Prometheus itself adds.
OF_ALL = {"process_resident_memory_bytes", "process_cpu_seconds_total"}
BY_PROMETHEUS = {"job", "instance"}
OF_HISTOGRAMS = re.compile(r"_(bucket|sum|count)$")


def _documented() -> dict[str, set[str]]:
    """Each metric with its labels; another test holds the page against the registry."""
    found = re.findall(r"^\| `(autos_[a-z0-9_]+)(?:\{(.*?)\})?`", PAGE.read_text(), re.MULTILINE)
    return {name: set(labels.split(", ")) - {""} for name, labels in found}


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = json.loads(GRAFANA.read_text())["panels"]
    return panels


def alerts() -> list[dict[str, Any]]:
    """The rules, each as it stands in the file."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _expressions() -> Iterator[str]:
    for panel in _panels():
        for target in panel.get("targets", ()):
            text: str = target["expr"]
            for name, value in VARIABLES.items():
                text = text.replace(name, value)
            yield text
    yield from (rule["expr"] for rule in alerts())


@pytest.mark.parametrize("expression", sorted(set(_expressions())))
def test_an_expression_is_promql_over_metrics_and_labels_that_there_are(expression: str) -> None:
    known = _documented()
    promql_parser.parse(expression)  # raises what is wrong
    names = set(re.findall(r"\b((?:autos|process)_[a-z0-9_]+)", expression))
    assert names
    families = {name if name in known else OF_HISTOGRAMS.sub("", name) for name in names}
    assert families <= known.keys() | OF_ALL
    labels = set(re.findall(r"[{,]\s*([a-z_]+)\s*(?:=~|!=|!~|=)", expression))
    for grouped in re.findall(r"\bby \((.*?)\)", expression):
        labels |= {label.strip() for label in grouped.split(",")}
    had = set[str]().union(*(known.get(family, set()) for family in families))
    assert labels <= had | {"le"} | (BY_PROMETHEUS if families & OF_ALL else set())


def test_a_legend_names_labels_that_its_expression_leaves() -> None:
    for panel in _panels():
        for target in panel.get("targets", ()):
            named = set(re.findall(r"\{\{(.*?)\}\}", target["legendFormat"]))
            left = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"by \((.*?)\)", target["expr"]))))
            is_bare = not re.search(r"\b(sum|max|count)\b", target["expr"])
            assert named <= (left | BY_PROMETHEUS if is_bare else left), panel["title"]


def test_every_metric_is_shown_somewhere() -> None:
    text = "\n".join(_expressions())
    assert {name for name in _documented() if name not in text} == set()


def test_a_figure_is_that_of_now_and_not_the_last_that_there_was() -> None:
    """The gauges of a system that nobody sees any more have ended."""
    figures = [panel for panel in _panels() if panel["type"] == "stat"]
    assert len(figures) >= 6
    for panel in figures:
        assert [target["instant"] for target in panel["targets"]] == [True], panel["title"]


def test_panels_have_ids_and_places_of_their_own() -> None:
    panels = _panels()
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    for number, one in enumerate(places):
        assert one["x"] + one["w"] <= 24
        for other in places[number + 1 :]:
            is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            is_above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
            assert is_beside or is_above


def test_an_alert_says_how_grave_it_is_and_what_to_do() -> None:
    rules = alerts()
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}


@pytest.mark.skipif(PROMTOOL is None, reason=WITHOUT_PROMTOOL)
def test_the_page_shows_a_configuration_that_prometheus_takes(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```yaml\n(rule_files.*?)```", DEPLOYMENT.read_text(), re.DOTALL)
    (tmp_path / "prometheus.yml").write_text(shown)
    shutil.copy(RULES, tmp_path)
    command = [str(PROMTOOL), "check", "config", "prometheus.yml"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_outcomes_that_are_asked_for_are_those_that_there_are() -> None:
    shown = metrics.render("")[1].decode()
    # As callers bring about, and as the portal does.
    elsewhere = {
        ("autos_http_requests_total", "status", "5xx"),
        ("autos_portal_request_failures_total", "reason", PortalUnauthorizedError.code),
    }
    for expression in _expressions():
        for name, label, value in re.findall(r'(autos_[a-z_]+)\{([a-z]+)="([^"]+)"\}', expression):
            if (name, label, value) not in elsewhere:
                assert f'{name}{{{label}="{value}"}}' in shown, expression
