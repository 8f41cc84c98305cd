"""No secret reaches a log line, not even through a traceback; and each line says what it is about."""

import asyncio
import io
import json
import logging
from uuid import UUID

import pytest

from service.core.gather import Gatherer
from service.core.log import JsonFormatter, LineFormatter, bound, bound_ids, redact

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


JOB = UUID("3ae81e9f-263d-4aea-8ba6-a6aae79982ce")


def _record(error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("name", logging.INFO, "", 0, "said", None, info)


def test_a_line_says_what_it_is_about_in_both_forms() -> None:
    with bound(job_id=JOB), bound(request_id="mine", attempt=2):
        line = LineFormatter().format(_record(ValueError("wrong")))
        event = json.loads(JsonFormatter().format(_record()))
    assert line.splitlines()[0].endswith(f" name said [job={JOB} request=mine attempt=2]")
    assert line.endswith("ValueError: wrong")
    assert (event["job_id"], event["request_id"], event["attempt"]) == (str(JOB), "mine", "2")


def test_what_was_bound_is_forgotten_with_the_block_and_an_inner_block_has_the_last_word() -> None:
    with bound(job_id=1):
        with bound(job_id=2):
            assert bound_ids() == {"job_id": "2"}
        assert bound_ids() == {"job_id": "1"}
    assert bound_ids() == {}
    assert LineFormatter().format(_record()).endswith(" name said")


@pytest.mark.parametrize("formatter", [LineFormatter(), JsonFormatter()])
def test_an_id_that_a_caller_chose_to_be_a_secret_is_blotted_out(formatter: logging.Formatter) -> None:
    with bound(request_id="autos_live_abc123_SECRETSECRETSECRET"):
        assert "SECRET" not in formatter.format(_record())


async def test_a_task_keeps_what_was_bound_when_it_began_and_its_neighbours_are_another_matter() -> None:
    async def say(number: int) -> dict[str, str]:
        with bound(attempt=number):
            await asyncio.sleep(0)
            return bound_ids()

    with bound(worker_id="w"):
        tasks = [asyncio.create_task(say(number)) for number in range(3)]
    assert await asyncio.gather(*tasks) == [{"worker_id": "w", "attempt": str(n)} for n in range(3)]


async def test_what_is_done_for_many_at_once_is_about_none_of_them() -> None:
    said = list[dict[str, str]]()

    async def find(keys: object) -> dict[int, None]:
        said.append(bound_ids())
        return {1: None}

    gatherer = Gatherer[int, None](find)
    with bound(request_id="of the first who asks"):
        await gatherer.ask(1)
    assert said == [{}]
