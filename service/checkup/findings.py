"""What a check finds: a verdict, and words that say what to do."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from service.core.settings import Settings

Verdict: TypeAlias = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line; its words hold no secret, and no URL that could have one in it."""

    verdict: Verdict
    name: str
    words: str


Findings: TypeAlias = list[Finding]

Check: TypeAlias = Callable[[Settings], Awaitable[Findings]]
"""Looks at one thing. What it raises is found wrong under its name."""


def ok(name: str, words: str) -> Finding:
    """All is well."""
    return Finding("ok", name, words)


def warning(name: str, words: str) -> Finding:
    """It works, and may not be what is wanted."""
    return Finding("warning", name, words)


def wrong(name: str, words: str) -> Finding:
    """It does not work, or will not for long."""
    return Finding("wrong", name, words)
