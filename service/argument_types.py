"""What the arguments of commands can be."""

import argparse
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  # argparse has no name for it


def between(text: str, least: int, most: int) -> int:
    """Read a whole number of at most nine digits.

    Raises:
        ArgumentTypeError: it is none, or out of bounds.
    """
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"should be {least} to {most}")
    return number


def positive(text: str) -> int:
    """Read a positive whole number that PostgreSQL's integers hold.

    Raises:
        ArgumentTypeError: it is none.
    """
    number = int(text)
    if not 0 < number < 2**31:
        raise argparse.ArgumentTypeError("should be a positive number")
    return number


def moment(text: str) -> datetime:
    """Read a time; without a zone it is meant as the clock on the wall has it.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        at = datetime.fromisoformat(text)
        return at if at.tzinfo else at.astimezone()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError("should be like 2026-03-02T12:00:00Z") from None
