"""Court cases for tests that need many."""

from service.core import cnj


def case_numbers(count: int, *, first: int = 1_000_000) -> list[str]:
    """Return masked numbers of different cases, in ascending order."""
    return [_number(first + index) for index in range(count)]


def _number(first_part: int) -> str:
    rest = "20258260100"
    check = 98 - int(f"{first_part:07}{rest}00") % 97
    return cnj.mask(f"{first_part:07}{check:02}{rest}")
