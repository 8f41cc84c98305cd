"""Secrets at rest: sealed under a ring of keys, each bound to its row."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.errors import SecretUnreadableError
from service.core.key_ring import KeyRing, new_key, parse_keys

OLD, NEW = b"o" * 32, b"n" * 32


@given(st.binary(min_size=1, max_size=64), st.text(max_size=40))
def test_what_is_sealed_can_be_opened_and_read_by_nobody_else(secret: bytes, row: str) -> None:
    sealed = KeyRing([NEW]).seal(secret, row=row)
    assert KeyRing([NEW]).open(sealed, row=row) == secret
    assert len(secret) < 4 or secret not in sealed


def test_the_same_secret_is_never_sealed_alike() -> None:
    ring = KeyRing([NEW])
    assert len({ring.seal(b"secret", row="a") for _ in range(100)}) == 100


def test_a_secret_that_was_moved_to_another_row_is_refused() -> None:
    ring = KeyRing([NEW])
    with pytest.raises(SecretUnreadableError, match="changed or moved"):
        ring.open(ring.seal(b"secret", row="a"), row="b")


@pytest.mark.parametrize("at", [5, 16, 17, 30, -1])
def test_a_secret_of_which_one_bit_was_changed_is_refused(at: int) -> None:
    ring = KeyRing([NEW])
    sealed = bytearray(ring.seal(b"a secret of some length", row="a"))
    sealed[at] ^= 1
    with pytest.raises(SecretUnreadableError):
        ring.open(bytes(sealed), row="a")


@pytest.mark.parametrize("length", [0, 1, 4, 5, 16, 20])
def test_a_secret_that_was_cut_short_is_refused(length: int) -> None:
    ring = KeyRing([NEW])
    with pytest.raises(SecretUnreadableError):
        ring.open(ring.seal(b"secret", row="a")[:length], row="a")


def test_the_first_key_seals_and_every_key_opens() -> None:
    before = KeyRing([OLD]).seal(b"secret", row="a")
    rotated = KeyRing([NEW, OLD])
    assert rotated.open(before, row="a") == b"secret"
    assert not rotated.is_sealed_last(before)
    after = rotated.seal(b"secret", row="a")
    assert rotated.is_sealed_last(after)
    assert KeyRing([NEW]).open(after, row="a") == b"secret"


def test_a_key_that_is_missing_is_named_and_shown_to_nobody() -> None:
    sealed = KeyRing([OLD]).seal(b"secret", row="a")
    with pytest.raises(SecretUnreadableError, match=r"sealed with a key \([0-9a-f]{8}\)") as caught:
        KeyRing([NEW]).open(sealed, row="a")
    assert OLD.decode() not in str(caught.value)
    assert base64.b64encode(OLD).decode() not in str(caught.value)


def test_without_keys_secrets_are_kept_as_they_are_and_sealed_once_there_is_one() -> None:
    kept = KeyRing([]).seal(b"secret", row="a")
    assert KeyRing([]).open(kept, row="a") == b"secret"
    assert KeyRing([]).is_sealed_last(kept)
    assert KeyRing([NEW]).open(kept, row="a") == b"secret"
    assert not KeyRing([NEW]).is_sealed_last(kept)


def test_keys_are_read_as_they_are_made() -> None:
    keys = [new_key(), new_key()]
    assert parse_keys(", ".join(keys)) == [base64.b64decode(one) for one in keys]
    assert parse_keys("") == []


@pytest.mark.parametrize("text", ["short", "not base64!", base64.b64encode(b"k" * 31).decode()])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="each key has to"):
        parse_keys(text)
