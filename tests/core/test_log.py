"""No secret reaches a log line, not even through a traceback."""

import io
import json
import logging

import pytest

from service.core.log import JsonFormatter, LineFormatter, redact

SECRETS = [
    "autos_live_abc123_SECRETSECRETSECRET",
    "autos_sandbox_key",
    "whsec_U0VDUkVUU0VDUkVUU0VDUkVU",
    "Bearer eyJhbGciOiJSUzI1NiJ9.U0VDUkVU.U0VDUkVU",
    "eyJhbGciOiJSUzI1NiJ9.U0VDUkVU.U0VDUkVU",
    "https://hooks.example.com/in?token=SECRET",
    "http://s3.example.com/b/k?X-Amz-Signature=SECRET&X-Amz-Expires=60",
    "postgresql://user:SECRET@db.example.com/autos",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_blotted_out(secret: str) -> None:
    assert "SECRET" not in redact(f"before {secret} after").upper().replace("[REDACTED", "")
    assert redact(f"before {secret} after") != f"before {secret} after"


def test_a_process_number_is_shortened() -> None:
    assert redact("1003579-22.2025.8.26.0564 and 10035792220258260564") == "1003579… and 1003579…"


@pytest.mark.parametrize("formatter", [LineFormatter(), JsonFormatter()])
def test_a_secret_in_a_traceback_is_blotted_out(formatter: logging.Formatter) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    log = logging.Logger("test")  # noqa: LOG001  # one of its own, so that no other handler sees the secret
    log.addHandler(handler)
    try:
        raise ValueError("cannot reach https://hooks.example.com/in?token=HIDDEN")
    except ValueError:
        log.exception("failed for %s", "whsec_SElEREVOSElEREVOSElEREVO")
    line = stream.getvalue()
    assert "ValueError" in line
    assert "HIDDEN" not in line
    assert "SElEREVO" not in line


def test_the_json_form_is_one_object_a_line() -> None:
    record = logging.LogRecord("name", logging.INFO, "", 0, "said %s", ("this",), None)
    event = json.loads(JsonFormatter().format(record))
    assert (event["level"], event["logger"], event["message"]) == ("INFO", "name", "said this")
