"""Standard Webhooks signatures, against the specification's vector and an independent implementation."""

import json
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook

from service.core import signing

SECRET = signing.parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
BODY = b'{"test": 2432232314}'


def test_the_vector_of_the_specification_comes_out() -> None:
    signature = signing.sign(
        SECRET, message_id="msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp=1614265330, body=BODY
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_an_independent_library_verifies_what_we_sign() -> None:
    secret = signing.new_secret()
    now = int(datetime.now(UTC).timestamp())
    headers = signing.signed_headers([secret], message_id="msg_1", timestamp=now, body=BODY)
    assert Webhook(signing.show_secret(secret)).verify(BODY, headers) == json.loads(BODY)


def _headers(timestamp: int = 1_000_000) -> dict[str, str]:
    return signing.signed_headers([SECRET], message_id="msg_1", timestamp=timestamp, body=BODY)


def test_our_own_receiver_verifies_what_we_sign() -> None:
    assert signing.verify([SECRET], _headers(), BODY, now=1_000_000)


@pytest.mark.parametrize("age_s", [-301, 301])
def test_a_message_of_another_time_is_refused(age_s: int) -> None:
    assert not signing.verify([SECRET], _headers(), BODY, now=1_000_000 + age_s)


def test_one_right_signature_among_others_is_enough() -> None:
    headers = _headers()
    headers["webhook-signature"] = f"v1,bm90IGl0 {headers['webhook-signature']}"
    assert signing.verify([SECRET], headers, BODY, now=1_000_000)


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_message_without_one_of_the_headers_is_refused(missing: str) -> None:
    headers = _headers()
    del headers[missing]
    assert not signing.verify([SECRET], headers, BODY, now=1_000_000)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_header_that_is_no_text_is_refused(name: str) -> None:
    assert not signing.verify([SECRET], {**_headers(), name: "1\udcff"}, BODY, now=1_000_000)


def test_a_changed_body_is_refused() -> None:
    assert not signing.verify([SECRET], _headers(), BODY + b" ", now=1_000_000)


@pytest.mark.parametrize("text", ["whsec_***", "whsec_c2hvcnQ=", "whsec_" + "A" * 120])
def test_a_secret_of_a_wrong_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a signing secret"):
        signing.parse_secret(text)


def test_a_secret_is_read_back_with_and_without_its_prefix() -> None:
    shown = signing.show_secret(SECRET)
    assert signing.parse_secret(shown) == signing.parse_secret(shown.removeprefix("whsec_")) == SECRET
