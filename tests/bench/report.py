"""What was measured: a table of medians with their spread, goals that are met or not, and both as JSON."""

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Figure:
    """One thing that was measured in each round.

    Attributes:
        workload: its letter and title.
        who: which contender.
        what: with its unit, as in `documents/s`.
    """

    workload: str
    who: str
    what: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Of all rounds."""
        return statistics.median(self.values)


@dataclass(frozen=True)
class Goal:
    """A ratio, or a figure, and what it ought to be."""

    name: str
    value: float
    goal: float
    is_at_least: bool = True

    @property
    def is_met(self) -> bool:
        """Whether it is as it ought to be."""
        return self.value >= self.goal if self.is_at_least else self.value <= self.goal


class Report:
    """Collects figures in the order in which they come."""

    def __init__(self) -> None:
        self._figures: dict[tuple[str, str, str], Figure] = {}
        self.goals: list[Goal] = []

    def note(self, workload: str, who: str, **figures: float) -> None:
        """Note the figures of one round; in their names `__` stands for `/` and `_` for a space."""
        for name, value in figures.items():
            what = name.replace("__", "/").replace("_", " ")
            key = (workload, who, what)
            self._figures.setdefault(key, Figure(*key)).values.append(value)
            print(f"  {who}: {value:,.2f} {what}", flush=True)

    def median(self, workload: str, who: str, name: str) -> float:
        """Return the median of a figure that was noted."""
        return self._figures[workload, who, name.replace("__", "/").replace("_", " ")].median

    def judge(self, name: str, value: float, goal: float, *, is_at_least: bool = True) -> None:
        """Hold a value against its goal."""
        self.goals.append(Goal(name, value, goal, is_at_least))

    def lines(self) -> Iterator[str]:
        """Yield the tables as text."""
        workload = ""
        for one in self._figures.values():
            if one.workload != workload:
                workload = one.workload
                yield f"\n{workload}"
            spread = f"{min(one.values):,.2f} to {max(one.values):,.2f}" if len(one.values) > 1 else ""
            yield f"  {one.who:<28} {one.median:>14,.2f} {one.what:<34} {spread}"
        if self.goals:
            yield "\nGoals"
        for goal in self.goals:
            sign, verdict = ("≥" if goal.is_at_least else "≤"), ("met" if goal.is_met else "NOT MET")
            yield f"  {goal.name:<64} {goal.value:>9,.2f} {sign} {goal.goal:<8g} {verdict}"

    def write(self) -> Path:
        """Write everything as JSON; return where."""
        RESULTS.mkdir(exist_ok=True)
        at = datetime.now(UTC)
        path = RESULTS / f"{at:%Y%m%dT%H%M%SZ}.json"
        content = {
            "at": at.isoformat(),
            "figures": [
                {"workload": one.workload, "who": one.who, "what": one.what, "median": one.median}
                | {"values": one.values}
                for one in self._figures.values()
            ],
            "goals": {
                one.name: {"value": one.value, "goal": one.goal, "met": one.is_met} for one in self.goals
            },
        }
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return path
