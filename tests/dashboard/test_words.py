"""Every text of the dashboard is there in both languages."""

import ast
import re
from pathlib import Path
from typing import get_args

from service.answers import ErrorClass
from service.core.deliveries import ENDPOINT_DISABLED
from service.core.endpoints import DisabledReason
from service.core.outbound import DeliveryFailedError, Kind
from service.core.states import DeliveryStatus, DocumentStatus, JobStatus, Priority
from service.core.submission import Outcome
from service.dashboard.pages import Translator
from service.dashboard.reasons import REASONS
from service.dashboard.words_pt import PORTUGUESE
from service.words import BRAZILIAN

DASHBOARD = Path(__file__).resolve().parents[2] / "service" / "dashboard"
NAMES = {
    name.value for kind in (JobStatus, DocumentStatus, DeliveryStatus, Priority, Outcome) for name in kind
} | {reason.value for reason in DisabledReason}


# Why a webhook did not arrive: what the log of deliveries says of it, and of each try.
MISSED = {str(DeliveryFailedError(kind)) for kind in get_args(Kind)} | {ENDPOINT_DISABLED}


def _in_templates() -> set[str]:
    found = set[str]()
    for path in (DASHBOARD / "templates").iterdir():
        text = path.read_text()
        for in_double, in_single in re.findall(r"""\bt\(\s*(?:"([^"]*)"|'([^']*)')""", text):
            found.add(in_double or in_single)
        # The names in the navigation.
        found |= set(re.findall(r'\("/[a-z/-]*", "([^"]+)"\)', text))
    return found


def _of_moments() -> set[str]:
    """The texts of the time line, which stand in the code."""
    nodes = ast.walk(ast.parse((DASHBOARD / "jobs.py").read_text()))
    strings = {node.value for node in nodes if isinstance(node, ast.Constant)}
    return {one for one in strings if isinstance(one, str)} & PORTUGUESE.keys()


def test_every_text_of_a_template_is_translated() -> None:
    found = _in_templates()
    assert len(found) > 100
    assert found - PORTUGUESE.keys() == set()


def test_every_state_and_reason_is_translated() -> None:
    assert (NAMES | set(REASONS.values()) | MISSED) - PORTUGUESE.keys() == set()


def test_every_way_in_which_a_try_can_fail_has_its_words() -> None:
    errors = set(get_args(ErrorClass))
    assert errors - REASONS.keys() == set()
    assert {REASONS[error] for error in errors} <= MISSED


def test_nothing_is_translated_that_nobody_shows() -> None:
    shown = _in_templates() | _of_moments() | NAMES | set(REASONS.values()) | MISSED
    assert PORTUGUESE.keys() - shown == {"some documents could not be had"}


def test_a_translation_has_the_values_of_its_text() -> None:
    for english, portuguese in PORTUGUESE.items():
        assert english.count("{}") == portuguese.count("{}"), english


def test_numbers_sizes_and_times_are_written_as_the_language_has_it() -> None:
    english, portuguese = Translator("en"), Translator(BRAZILIAN)
    assert (english.number(1234.5, 1), portuguese.number(1234.5, 1)) == ("1,234.5", "1.234,5")
    sizes = (english.size(1536), portuguese.size(1536), english.size(512), english.size(5 * 2**40))
    assert [one.replace("\N{NO-BREAK SPACE}", " ") for one in sizes] == [
        "1.5 KiB",
        "1,5 KiB",
        "512 B",
        "5.0 TiB",
    ]
    spans = (0.25, 5.21, 59.6, 3661, 90_000)
    assert [english.duration(one) for one in spans] == ["250 ms", "5.2 s", "1 min", "1 h 1 min", "1 d 1 h"]
