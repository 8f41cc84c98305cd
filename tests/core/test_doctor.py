"""The doctor: how far one comes on the way to a receiver, and nothing of inner networks."""

from pathlib import Path

import pytest

from service.core import doctor
from service.core.doctor import STEPS, Diagnosis
from service.core.outbound import open_outbound
from service.core.settings import Settings
from tests.core.test_outbound import OK, SANDBOX, MadeUpDNS, self_signed
from tests.wire import answer_nothing, answering, open_wire

STRICT = Settings(webhook_allow_private=False)


async def _examined(
    url: str, *, settings: Settings = SANDBOX, dns: MadeUpDNS | None = None, timeout_s: float = 10
) -> Diagnosis:
    async with open_outbound(settings, resolver=dns) as outbound:
        return await doctor.examine(outbound, url, timeout_s=timeout_s)


def _seen(found: Diagnosis) -> list[bool | None]:
    assert tuple(one.step for one in found.findings) == STEPS
    return [one.is_well for one in found.findings]


async def test_a_receiver_that_answers_is_well_at_every_step() -> None:
    async with open_wire(answering("HTTP/1.1 204 No Content\r\n\r\n")) as wire:
        url = f"http://avisos.escritorio.com.br:{wire.port}/"
        found = await _examined(url, dns=MadeUpDNS(avisos=[["127.0.0.1"]]))
    assert _seen(found) == [True, True, True, None, True]
    assert (found.status, found.error) == (204, None)
    _, dns, connection, _, http = found.findings
    assert all(one.duration_s is not None and one.duration_s >= 0 for one in (dns, connection, http))


async def test_a_url_that_is_refused_is_named_and_nothing_else_is_tried() -> None:
    found = await _examined("https://127.0.0.1/", settings=STRICT)
    assert _seen(found) == [False, None, None, None, None]
    assert found.findings[0].explanation == "the host is an address on a private or reserved network"


async def test_a_name_that_is_unknown_and_one_that_leads_inside_are_told_alike() -> None:
    url = "https://avisos.escritorio.com.br/"
    unknown = await _examined(url, settings=STRICT, dns=MadeUpDNS(avisos=[[]]))
    inside = await _examined(url, settings=STRICT, dns=MadeUpDNS(avisos=[["10.20.30.40"]]))
    assert _seen(unknown) == [True, False, None, None, None]
    assert unknown == inside
    assert "10.20" not in repr(inside)


async def test_a_closed_port_and_a_silent_one_are_told_alike() -> None:
    closed = await _examined("http://127.0.0.1:1/")
    async with open_wire(answer_nothing) as wire:
        silent = await _examined(f"http://127.0.0.1:{wire.port}/", timeout_s=0.2)
    for found in (closed, silent):
        assert _seen(found) == [True, True, False, None, None]
        assert found.findings[2].duration_s is None
    assert closed.findings[2] == silent.findings[2]
    assert closed.error == silent.error


async def test_a_certificate_that_nobody_knows_is_explained(tmp_path: Path) -> None:
    async with open_wire(OK, tls=self_signed(tmp_path)) as wire:
        found = await _examined(f"https://localhost:{wire.port}/")
    assert _seen(found) == [True, True, True, False, None]
    assert "signed by itself" in found.findings[3].explanation


async def test_what_is_no_http_is_said_to_be_none() -> None:
    async with open_wire(answering("SSH-2.0-OpenSSH_9.2\r\n")) as wire:
        found = await _examined(f"http://127.0.0.1:{wire.port}/")
    assert _seen(found) == [True, True, True, None, False]
    assert "no HTTP" in found.findings[4].explanation


@pytest.mark.parametrize(
    ("status", "is_well", "words"),
    [
        (204, True, "it answers"),
        (405, True, "webhooks are POST"),
        (418, True, "webhook-send-test"),
        (302, False, "give the URL that it leads to"),
        (401, False, "credentials"),
        (404, False, "nothing at this path"),
        (410, False, "disables"),
        (503, False, "its own log"),
    ],
)
async def test_each_status_has_its_explanation(status: int, is_well: bool, words: str) -> None:
    async with open_wire(answering(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n")) as wire:
        found = await _examined(f"http://127.0.0.1:{wire.port}/")
    assert (found.status, found.findings[4].is_well) == (status, is_well)
    assert words in found.findings[4].explanation
