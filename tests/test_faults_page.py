"""The page of faults names tests that exist, and every fault and crash point that there is."""

import re
from pathlib import Path

from service.core.crash_points import POINTS
from tests.faults.faults import FAULTS

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "faults.md").read_text()


def _rows() -> list[list[str]]:
    lines = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| Fault ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_row_names_at_least_one_test_and_all_of_them_exist() -> None:
    assert len(_rows()) > 40
    for fault, _, tests, _ in _rows():
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
        assert named, fault
        for path, name in named:
            source = (TESTS / path).read_text()
            assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), f"{path}::{name}"


def test_the_page_names_every_fault_of_chaos_and_no_other() -> None:
    named = {fault.strip() for row in _rows() for fault in row[3].split(",") if fault.strip()}
    assert named == set(FAULTS)


def test_the_page_names_every_crash_point() -> None:
    assert set(re.findall(r"`(\w+\.\w+)`", PAGE)) >= set(POINTS)
