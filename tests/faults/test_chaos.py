"""A short chaos run: every kind of fault has its chance over time, since each run has another seed."""

import random
from pathlib import Path

import pytest

from tests.faults.chaos import run


@pytest.mark.long
async def test_under_load_and_faults_no_invariant_breaks(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    report = await run(tmp_path, load_s=12, seed=seed)
    assert report.violations == [], "\n".join(report.lines())
    assert report.jobs.total() > 10
    assert report.deliveries["delivered"] > 0
    assert report.faults.total() > 2
