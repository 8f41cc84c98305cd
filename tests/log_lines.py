"""What a process writes into its log in the JSON form, read back."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from service.core.log import JsonFormatter


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))


@contextmanager
def log_lines(level: int = logging.INFO) -> Iterator[list[dict[str, Any]]]:
    """Yield the lines of this level and above, as they are written until the block ends."""
    root, kept = logging.getLogger(), _Kept()
    before = root.level
    root.addHandler(kept)
    root.setLevel(level)
    try:
        yield kept.lines
    finally:
        root.setLevel(before)
        root.removeHandler(kept)
