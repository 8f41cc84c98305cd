"""What the outside saw of a run: calls, polls, and what came to the receivers."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID


@dataclass(frozen=True)
class Call:
    """One submission that was answered."""

    client_id: UUID
    number: str
    job_id: UUID
    http_status: int
    webhook_url: str | None
    at: datetime


@dataclass(frozen=True)
class Poll:
    """One look at a job that was answered; `answer` is empty for errors."""

    client_id: UUID
    job_id: UUID
    http_status: int
    answer: dict[str, Any]
    at: datetime


@dataclass(frozen=True)
class Hook:
    """One request at a receiver; `answered` is None when it was given no answer."""

    url: str
    headers: dict[str, str]
    body: bytes
    answered: int | None
    at: datetime


@dataclass
class Evidence:
    """All of it, with the logs of the processes and what must not stand in them."""

    calls: list[Call] = field(default_factory=list)
    polls: list[Poll] = field(default_factory=list)
    hooks: list[Hook] = field(default_factory=list)
    logs: list[Path] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    resources: dict[str, tuple[int, int]] = field(default_factory=dict)
