"""CNJ process numbers: NNNNNNN-DD.AAAA.J.TR.OOOO, 20 digits (Resolução CNJ 65/2008).

Inside Autos a number is its 20 digits; the mask is for showing and for the portal's paths.
"""

import re
from datetime import UTC, datetime

from service.core.errors import InvalidProcessNumberError

_MASKED = re.compile(r"(\d{1,7})-(\d{2})\.(\d{4})\.(\d)\.(\d{2})\.(\d{4})", re.ASCII)
_DIGITS = re.compile(r"\d{20}", re.ASCII)

# Which TR codes exist under each J; OOOO (the court of origin) is never checked against a list.
_TRIBUNALS: dict[str, frozenset[int]] = {
    "1": frozenset({0}),  # STF
    "2": frozenset({0}),  # CNJ
    "3": frozenset({0}),  # STJ
    "4": frozenset({*range(1, 7), 90}),  # TRF1-TRF6, CJF
    "5": frozenset({*range(25), 90}),  # TST, TRT1-TRT24, CSJT
    "6": frozenset(range(28)),  # TSE, TREs
    "7": frozenset(range(13)),  # STM, military districts
    "8": frozenset(range(1, 28)),  # the states and the Federal District
    "9": frozenset({13, 21, 26}),  # TJMMG, TJMRS, TJMSP
}


def parse_process_number(text: str) -> str:
    """Return the 20 digits of a number given masked or as 20 digits.

    A masked number may have lost the left zeros of its first part; they are put back.

    Raises:
        InvalidProcessNumberError: with a reason for the caller; a wrong check digit names the right one.
    """
    if match := _MASKED.fullmatch(text):
        digits = match[1].zfill(7) + "".join(match.groups()[1:])
    elif _DIGITS.fullmatch(text):
        digits = text
    else:
        raise InvalidProcessNumberError("write it as NNNNNNN-DD.AAAA.J.TR.OOOO or as its 20 digits")
    _refuse_wrong_parts(digits)
    return digits


def mask(digits: str) -> str:
    """Show 20 digits as NNNNNNN-DD.AAAA.J.TR.OOOO."""
    return f"{digits[:7]}-{digits[7:9]}.{digits[9:13]}.{digits[13]}.{digits[14:16]}.{digits[16:]}"


def spellings(digits: str) -> list[str]:
    """Return every way in which a caller can have written 20 digits: bare, masked, with lost left zeros."""
    masked = mask(digits)
    zeros = len(masked[:6]) - len(masked[:6].lstrip("0"))
    return [digits, *(masked[lost:] for lost in range(zeros + 1))]


def check_digits(digits: str) -> str:
    """Return the two check digits that belong to 20 digits (whatever stands in their place)."""
    rest = digits[:7] + digits[9:] + "00"
    return f"{98 - int(rest) % 97:02d}"


def _refuse_wrong_parts(digits: str) -> None:
    # The two digits are compared: the shorter "% 97 == 1" would also let 00, 01 and 99 through.
    if digits[7:9] != (expected := check_digits(digits)):
        raise InvalidProcessNumberError(f"its check digits are {digits[7:9]}, they should be {expected}")
    year, last_year = int(digits[9:13]), datetime.now(UTC).year + 1
    if not 1900 <= year <= last_year:
        raise InvalidProcessNumberError(f"its year is {year}, it should be between 1900 and {last_year}")
    segment, tribunal = digits[13], int(digits[14:16])
    if segment not in _TRIBUNALS:
        raise InvalidProcessNumberError(f"no branch of the judiciary has the number {segment}")
    if tribunal not in _TRIBUNALS[segment]:
        raise InvalidProcessNumberError(f"branch {segment} of the judiciary has no court {tribunal:02d}")
