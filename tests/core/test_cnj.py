"""CNJ numbers: what is let in, what is refused, and what the refusal says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.cnj import check_digits, mask, parse_process_number
from service.core.errors import InvalidProcessNumberError


@pytest.mark.parametrize(
    "masked",
    [
        "1003579-22.2025.8.26.0564",
        "1000145-91.2023.8.26.0597",
        "0919992-11.2023.8.19.0001",
        "5316779-54.2023.8.13.0024",
        "1011745-77.2025.8.11.0041",
        "5046512-94.2016.4.04.7000",
        "0000001-93.1979.8.26.0495",
        "0005581-54.2022.2.00.0000",
    ],
)
def test_a_number_is_read_masked_and_bare_and_shown_masked(masked: str) -> None:
    digits = masked.replace("-", "").replace(".", "")
    assert parse_process_number(masked) == parse_process_number(digits) == digits
    assert mask(digits) == masked


def test_left_zeros_lost_from_a_masked_number_are_put_back() -> None:
    assert parse_process_number("1-93.1979.8.26.0495") == "00000019319798260495"


def test_a_wrong_check_digit_names_the_right_one() -> None:
    with pytest.raises(InvalidProcessNumberError, match=r"are 23, they should be 22"):
        parse_process_number("1003579-23.2025.8.26.0564")


@pytest.mark.parametrize("wrong", ["00", "01", "99"])
def test_digits_that_a_remainder_of_one_would_let_through_are_refused(wrong: str) -> None:
    """For some numbers 97 - x and 98 - x leave the same remainder; only comparing the digits is right."""
    for sequence in range(200):
        digits = f"{sequence:07d}{wrong}20258260100"
        digits = digits[:9] + "2025" + "8" + "26" + "0100"
        if check_digits(digits) != wrong:
            with pytest.raises(InvalidProcessNumberError, match="check digits"):
                parse_process_number(digits)


def _with_check_digits(rest: str) -> str:
    return rest[:7] + check_digits(rest[:7] + "00" + rest[7:]) + rest[7:]


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ("1003579" + "1899" + "8" + "26" + "0564", "year is 1899"),
        ("1003579" + "2999" + "8" + "26" + "0564", "year is 2999"),
        ("1003579" + "2025" + "0" + "26" + "0564", "no branch"),
        ("1003579" + "2025" + "8" + "28" + "0564", "no court 28"),
        ("1003579" + "2025" + "4" + "07" + "0564", "no court 07"),
        ("1003579" + "2025" + "9" + "14" + "0564", "no court 14"),
    ],
)
def test_a_year_branch_or_court_that_does_not_exist_is_refused(rest: str, reason: str) -> None:
    with pytest.raises(InvalidProcessNumberError, match=reason):
        parse_process_number(_with_check_digits(rest))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1003579",
        "100357922202582605",  # bare and short: which zeros are missing cannot be known
        "1003579-22.2025.8.26.0564 ",
        "1003579-22.2025.8.26.0564\n",
        "1003579-22/2025.8.26.0564",
        "１００３５７９-22.2025.8.26.0564",  # noqa: RUF001  # full-width digits are digits to Python
        "..%2f",
    ],
)
def test_what_has_not_the_form_of_a_number_is_refused(text: str) -> None:
    with pytest.raises(InvalidProcessNumberError, match="write it as"):
        parse_process_number(text)


@given(st.integers(0, 9_999_999), st.integers(1900, 2026), st.integers(1, 27), st.integers(0, 9999))
def test_exactly_one_pair_of_check_digits_belongs_to_a_number(
    sequence: int, year: int, court: int, origin: int
) -> None:
    rest = f"{sequence:07d}{year}8{court:02d}{origin:04d}"
    right = [
        pair for pair in (f"{value:02d}" for value in range(100)) if _is_number(rest[:7] + pair + rest[7:])
    ]
    assert right == [check_digits(rest[:7] + "00" + rest[7:])]


def _is_number(digits: str) -> bool:
    try:
        parse_process_number(digits)
    except InvalidProcessNumberError:
        return False
    return True
