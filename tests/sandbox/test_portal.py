"""The stand-in portal over real HTTP: each trap of the real one is shown once."""

import asyncio
import hashlib
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from service.core.cnj import mask, parse_process_number
from service.sandbox.cases import (
    SPECIAL_CASES,
    Special,
    body_chunks,
    documents_of,
    expected_documents,
    special_number,
)
from service.sandbox.portal import PORTAL_STATE, PortalState, create_portal

KNOWN = "1003579-22.2025.8.26.0564"
SHELL_MARKERS = ("<app-root", "ng-version", "<title>Portal de Serviços")

Client = TestClient[web.Request, web.Application]


class Clock:
    """Seconds that pass only when a test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def open_client(
    *,
    latency_s: float = 0,
    token: str | None = None,
    drip_s: float = 0.02,
    clock: Clock | None = None,
) -> AsyncIterator[Client]:
    app = create_portal(latency_s=latency_s, token=token, drip_s=drip_s, clock=clock or Clock())
    async with TestClient(TestServer(app)) as client:
        yield client


def state_of(client: Client) -> PortalState:
    assert client.app is not None
    return client.app[PORTAL_STATE]


def process_path(number: str) -> str:
    return f"/api/v2/processos/{number}"


def binary_path(number: str, uuid: str) -> str:
    return f"{process_path(number)}/documentos/{uuid}/binario"


async def read_process(client: Client, number: str) -> dict[str, Any]:
    async with client.get(process_path(number)) as response:
        assert response.status == 200
        (process,) = await response.json()
        assert isinstance(process, dict)
        return process


async def read_documents(client: Client, number: str) -> list[dict[str, Any]]:
    process = await read_process(client, number)
    documents = process["tramitacaoAtual"]["documentos"]
    assert isinstance(documents, list)
    return documents


async def read_binary(client: Client, number: str, uuid: str) -> tuple[int, bytes]:
    async with client.get(binary_path(number, uuid)) as response:
        return response.status, await response.read()


def uuid_in(listed: dict[str, Any]) -> str:
    uuid = listed["hrefBinario"].split("/")[4]
    assert isinstance(uuid, str)
    return uuid


# The process --------------------------------------------------------------------------------------


async def test_a_process_is_wrapped_in_an_array_and_found_under_both_forms_of_its_number() -> None:
    async with open_client() as client:
        masked = await read_process(client, KNOWN)
        assert masked["numeroProcesso"] == KNOWN
        assert masked["siglaTribunal"] == "TJSP"
        assert await read_process(client, parse_process_number(KNOWN)) == masked


async def test_the_known_case_lists_26_documents_and_four_stale_copies_of_17() -> None:
    async with open_client() as client:
        process = await read_process(client, KNOWN)
    current = {uuid_in(listed) for listed in process["tramitacaoAtual"]["documentos"]}
    assert len(current) == 26
    assert [len(copy["documentos"]) for copy in process["tramitacoes"]] == [17, 17, 17, 17]
    stale = [listed for copy in process["tramitacoes"] for listed in copy["documentos"]]
    assert len({uuid_in(listed) for listed in stale} - current) == 4 * 17
    assert not any("arquivo" in listed for listed in stale)
    assert all("distribuicoes" in copy and "distribuicao" not in copy for copy in process["tramitacoes"])


def test_other_cases_have_between_5_and_60_documents_that_follow_from_the_number() -> None:
    numbers = [special_number(1_000_000 + step) for step in range(60)]
    counts = [len(expected_documents(number)) for number in numbers]
    assert min(counts) >= 5
    assert max(counts) <= 60
    assert len(set(counts)) > 10
    assert documents_of(parse_process_number(numbers[0]))[0].uuid == expected_documents(numbers[0])[0].uuid


async def test_links_carry_a_version_5_uuid_and_no_api_prefix() -> None:
    async with open_client() as client:
        for listed in await read_documents(client, KNOWN):
            assert UUID(uuid_in(listed)).version == 5
            link = f"/processos/{KNOWN}/documentos/{uuid_in(listed)}"
            assert (listed["hrefBinario"], listed["hrefTexto"]) == (f"{link}/binario", f"{link}/texto")
            assert "uuid" not in listed
            assert "id" not in listed


async def test_the_file_is_missing_on_the_newest_documents_only() -> None:
    async with open_client() as client:
        measured = ["arquivo" in listed for listed in await read_documents(client, KNOWN)]
    assert measured == sorted(measured)
    assert 0 < measured.count(False) <= 4


async def test_the_sequence_falls_and_has_gaps() -> None:
    async with open_client() as client:
        sequence = [listed["sequencia"] for listed in await read_documents(client, KNOWN)]
    assert sequence == sorted(sequence, reverse=True)
    assert sequence[0] > len(sequence)


async def test_dates_are_naive_with_up_to_three_digits_of_a_fraction() -> None:
    dates: list[str] = []
    async with open_client() as client:
        for step in range(20):
            documents = await read_documents(client, special_number(1_000_000 + step))
            dates += [listed["dataHoraJuntada"] for listed in documents]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?", date) for date in dates)
    assert {len(date.partition(".")[2]) for date in dates} == {0, 1, 2, 3}


async def test_lists_may_be_null_and_type_codes_may_be_missing() -> None:
    async with open_client() as client:
        process = await read_process(client, KNOWN)
    assert process["tramitacaoAtual"]["processosRelacionados"] is None
    with_code = ["codigo" in listed["tipo"] for listed in process["tramitacaoAtual"]["documentos"]]
    assert any(with_code)
    assert not all(with_code)


async def test_names_are_repeated_long_and_nasty() -> None:
    async with open_client() as client:
        names = [listed["nome"] for listed in await read_documents(client, KNOWN)]
    assert len(set(names)) < len(names)
    assert max(map(len, names)) == 104
    assert all(any(sign in name for name in names) for sign in "/;\"'çã\\")


# Documents ----------------------------------------------------------------------------------------


async def test_every_document_has_its_declared_length_and_the_expected_bytes() -> None:
    async with open_client() as client:
        files = {uuid_in(listed): listed.get("arquivo") for listed in await read_documents(client, KNOWN)}
        for expected in expected_documents(KNOWN):
            status, body = await read_binary(client, KNOWN, expected.uuid)
            assert (status, len(body)) == (200, expected.size)
            assert hashlib.sha256(body).hexdigest() == expected.sha256
            declared = files.pop(expected.uuid)
            assert declared is None or declared["tamanho"] == len(body)
    assert files == {}


async def test_a_body_is_of_its_kind_whatever_its_name_says() -> None:
    starts = {"application/pdf": b"%PDF-", "text/html": b"<div", "application/rtf": b"{\\rtf1"}
    seen: set[tuple[str, bool]] = set()
    async with open_client() as client:
        for expected in expected_documents(KNOWN):
            _, body = await read_binary(client, KNOWN, expected.uuid)
            assert starts[expected.media_type] in body[:64]
            seen.add((expected.media_type, expected.name.endswith(".pdf")))
    assert {("text/html", True), ("application/rtf", True), ("application/pdf", False)} <= seen


async def test_rtf_is_declared_as_richtext() -> None:
    rtf = next(expected for expected in expected_documents(KNOWN) if expected.media_type == "application/rtf")
    async with open_client() as client, client.get(binary_path(KNOWN, rtf.uuid)) as response:
        assert response.content_type == "text/richtext"


async def test_a_pdf_may_have_junk_before_its_header_and_its_index_is_right() -> None:
    pdfs = [expected for expected in expected_documents(KNOWN) if expected.media_type == "application/pdf"]
    async with open_client() as client:
        bodies = [(await read_binary(client, KNOWN, expected.uuid))[1] for expected in pdfs]
    starts = [body.index(b"%PDF-") for body in bodies]
    assert 0 in starts
    assert max(starts) > 0
    for start, body in zip(starts, bodies, strict=True):
        index = int(body.rsplit(b"startxref\n", 1)[1].split()[0])
        assert body[start + index :].startswith(b"xref\n")


async def test_one_document_is_legitimate_html_of_21_bytes() -> None:
    tiny = [expected for expected in expected_documents(KNOWN) if expected.size == 21]
    assert len(tiny) == 1
    async with open_client() as client:
        assert await read_binary(client, KNOWN, tiny[0].uuid) == (200, b"<div>Cumpra-se.</div>")


async def test_a_stale_copy_gives_the_same_bytes_under_its_other_uuid() -> None:
    async with open_client() as client:
        process = await read_process(client, KNOWN)
        stale = uuid_in(process["tramitacoes"][2]["documentos"][-1])
        oldest = expected_documents(KNOWN)[0]
        _, body = await read_binary(client, KNOWN, stale)
        assert hashlib.sha256(body).hexdigest() == oldest.sha256
        assert state_of(client).binaries == {stale: 1}


async def test_the_text_may_be_missing_where_the_binary_exists() -> None:
    async with open_client() as client:
        paths = [f"{process_path(KNOWN)}/documentos/{e.uuid}/texto" for e in expected_documents(KNOWN)]
        async with client.get(paths[0]) as response:
            assert (response.status, response.content_type) == (200, "text/plain")
            assert "Petição Inicial" in await response.text()
        async with client.get(paths[4]) as response:
            assert response.status == 404


# Errors -------------------------------------------------------------------------------------------


async def test_a_path_outside_the_api_answers_the_web_page() -> None:
    uuid = expected_documents(KNOWN)[0].uuid
    async with open_client(token="right") as client:
        for path in ("/", f"/processos/{KNOWN}/documentos/{uuid}/binario", "/api/v1/anything", "/api/v20"):
            async with client.get(path) as response:
                page = await response.text()
                assert (response.status, response.content_type) == (200, "text/html")
                assert all(marker in page for marker in SHELL_MARKERS)
                assert 2_300 <= len(page.encode()) <= 2_500


@pytest.mark.parametrize(
    "rest", ["", "/nothing", f"/processos/{KNOWN}/documentos", f"/processos/{KNOWN}/partes"]
)
async def test_an_unknown_route_of_the_api_tells_an_integer_time(rest: str) -> None:
    async with open_client() as client, client.get(f"/api/v2{rest}") as response:
        assert response.status == 404
        answer = await response.json()
        assert isinstance(answer.pop("timestamp"), int)
        assert answer == {"status": 404, "error": "Not Found", "message": "", "path": f"/api/v2{rest}"}


async def test_a_numeric_document_id_is_a_bad_request() -> None:
    async with open_client() as client, client.get(binary_path(KNOWN, "123456")) as response:
        assert (response.status, response.content_type) == (400, "application/json")


@pytest.mark.parametrize(
    "path",
    [process_path("1003579-23.2025.8.26.0564"), binary_path(KNOWN, str(UUID(int=5)))],
    ids=["number", "uuid"],
)
async def test_what_the_portal_does_not_know_has_a_code_and_a_message(path: str) -> None:
    async with open_client() as client, client.get(path) as response:
        assert response.status == 404
        answer = await response.json()
        assert set(answer) == {"code", "message"}
        assert "foram encontrados registros" in answer["message"]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}], ids=["missing", "wrong"])
async def test_without_the_token_the_answer_is_401_with_nothing_in_it(headers: dict[str, str]) -> None:
    async with (
        open_client(token="right") as client,
        client.get(process_path(KNOWN), headers=headers) as response,
    ):
        assert response.status == 401
        assert "Content-Type" not in response.headers
        assert await response.read() == b""


async def test_the_right_token_is_let_in() -> None:
    headers = {"Authorization": "Bearer right"}
    async with (
        open_client(token="right") as client,
        client.get(process_path(KNOWN), headers=headers) as response,
    ):
        assert response.status == 200


# Special numbers ----------------------------------------------------------------------------------


def test_every_special_number_is_valid_and_described() -> None:
    assert set(SPECIAL_CASES) == set(Special) == set(range(9_000_001, 9_000_018))
    for first_part, case in SPECIAL_CASES.items():
        number = special_number(first_part)
        assert mask(parse_process_number(number)) == number
        assert number.startswith(f"{first_part:07d}-")
        assert case.description
        assert len(expected_documents(number)) == case.documents


async def test_an_unknown_process_is_an_empty_array() -> None:
    async with open_client() as client, client.get(process_path(special_number(Special.UNKNOWN))) as response:
        assert (response.status, await response.json()) == (200, [])


async def test_a_process_without_standing_answers_403_in_json() -> None:
    async with (
        open_client() as client,
        client.get(process_path(special_number(Special.NO_ACCESS))) as response,
    ):
        assert (response.status, response.content_type) == (403, "application/json")
        assert "não possui acesso ao processo" in (await response.json())["message"]


@pytest.mark.parametrize(
    ("special", "failing", "listed"), [(Special.CODEX_SOME, 3, 10), (Special.CODEX_ALL, 5, 5)]
)
async def test_the_documents_store_fails_for_ever(special: Special, failing: int, listed: int) -> None:
    number = special_number(special)
    expected = expected_documents(number)
    assert [document.is_served for document in expected].count(False) == failing
    async with open_client() as client:
        assert len(await read_documents(client, number)) == listed
        for document in expected * 2:
            async with client.get(binary_path(number, document.uuid)) as response:
                assert response.status == (200 if document.is_served else 500)
                if not document.is_served:
                    answer = await response.json()
                    assert answer["message"] == "Erro interno na API do Codex."
                    assert isinstance(answer["timestamp"], str)
                    assert "externalUrlService" in answer


async def test_a_slow_document_drips_and_is_right_in_the_end() -> None:
    number = special_number(Special.SLOW)
    first = expected_documents(number)[0]
    async with open_client() as client, client.get(binary_path(number, first.uuid)) as response:
        early = await response.content.readany()
        assert state_of(client).in_flight == 1
        assert len(early) < first.size
        assert hashlib.sha256(early + await response.read()).hexdigest() == first.sha256


def test_the_huge_document_is_one_gib_made_of_small_chunks() -> None:
    huge, *others = expected_documents(special_number(Special.HUGE))
    sizes = [len(chunk) for chunk in body_chunks(huge.document)]
    assert sum(sizes) == huge.size == 1024**3
    assert max(sizes) == 64 * 1024
    assert len(others) == 2
    assert all(other.size < 3_000_000 for other in others)


async def test_a_client_that_leaves_the_huge_document_leaves_no_trace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    number = special_number(Special.HUGE)
    huge = expected_documents(number)[0]
    known = b"".join(chunk for _, chunk in zip(range(20), body_chunks(huge.document), strict=False))
    with caplog.at_level(logging.WARNING):
        async with open_client() as client, client.get(binary_path(number, huge.uuid)) as response:
            assert response.content_length == 1024**3
            assert await response.content.readexactly(len(known)) == known
            response.close()
    assert caplog.records == []
    assert state_of(client).in_flight == 0


async def test_the_case_of_a_thousand_documents_lists_them_all_and_they_are_small() -> None:
    number = special_number(Special.THOUSAND)
    async with open_client() as client:
        assert len({uuid_in(listed) for listed in await read_documents(client, number)}) == 1000
    assert max(expected.size for expected in expected_documents(number)) <= 6_144


async def test_the_throttle_says_every_second_time_how_long_to_wait() -> None:
    clock, number = Clock(), special_number(Special.THROTTLED)
    waits: list[str | None] = []
    async with open_client(clock=clock) as client:
        for _ in range(4):
            await read_process(client, number)
        for _ in range(4):
            async with client.get(process_path(number)) as response:
                assert response.status == 429
                waits.append(response.headers.get("Retry-After"))
        clock.now += 1
        for _ in range(4):
            await read_process(client, number)
    assert waits == ["1", None, "1", None]


async def test_the_token_expires_once_after_four_documents_and_comes_back_after_three_seconds() -> None:
    clock, number = Clock(), special_number(Special.TOKEN_EXPIRES)
    uuids = [expected.uuid for expected in expected_documents(number)]
    async with open_client(clock=clock) as client:
        assert [(await read_binary(client, number, uuid))[0] for uuid in uuids[:4]] == [200] * 4
        assert await read_binary(client, number, uuids[4]) == (401, b"")
        clock.now += 2.9
        async with client.get(process_path(number)) as response:
            assert response.status == 401
        clock.now += 0.1
        assert [(await read_binary(client, number, uuid))[0] for uuid in uuids[4:]] == [200] * 8
        assert state_of(client).binaries == dict.fromkeys(uuids, 1)


async def test_a_process_may_have_no_documents() -> None:
    async with open_client() as client:
        process = await read_process(client, special_number(Special.EMPTY))
    assert process["tramitacaoAtual"]["documentos"] is None


async def test_a_sealed_process_says_so_at_both_levels() -> None:
    async with open_client() as client:
        process = await read_process(client, special_number(Special.SEALED))
    assert process["nivelSigilo"] == 5
    assert {listed["nivelSigilo"] for listed in process["tramitacaoAtual"]["documentos"]} == {
        "SIGILO_ABSOLUTO"
    }


async def test_a_flaky_document_fails_in_one_of_six_ways_and_then_is_right(
    caplog: pytest.LogCaptureFixture,
) -> None:
    number = special_number(Special.FLAKY)
    expected = expected_documents(number)
    with caplog.at_level(logging.WARNING):
        async with open_client() as client:
            failures = [await describe_answer(client, number, document.uuid) for document in expected]
            for document in expected:
                _, body = await read_binary(client, number, document.uuid)
                assert hashlib.sha256(body).hexdigest() == document.sha256
            assert set(state_of(client).binaries.values()) == {2}
    assert failures == ["502", "503", "cut", "truncated", "shell", "envelope"] * 2
    assert caplog.records == []


async def describe_answer(client: Client, number: str, uuid: str) -> str:
    try:
        async with client.get(binary_path(number, uuid)) as response:
            body = await response.read()
    except aiohttp.ClientPayloadError:
        return "truncated"
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
        return "cut"
    if response.status != 200:
        return str(response.status)
    if response.content_type == "application/json":
        return "envelope"
    return "shell" if b"<app-root" in body else "right"


async def test_the_busy_process_answers_503_twice_and_then_works() -> None:
    number, statuses = special_number(Special.BUSY), []
    async with open_client() as client:
        for _ in range(3):
            async with client.get(process_path(number)) as response:
                statuses.append(response.status)
    assert statuses == [503, 503, 200]


async def test_the_growing_process_adds_two_documents_at_each_look_and_keeps_the_old_ones() -> None:
    number = special_number(Special.GROWING)
    async with open_client() as client:
        looks = [[uuid_in(listed) for listed in await read_documents(client, number)] for _ in range(3)]
        newest = expected_documents(number, reads=3)[-1]
        status, body = await read_binary(client, number, newest.uuid)
    assert [len(look) for look in looks] == [4, 6, 8]
    assert looks[2][4:] == looks[1][2:] == looks[0]
    assert (status, hashlib.sha256(body).hexdigest()) == (200, newest.sha256)


async def test_the_firewall_rejects_everything_of_its_process() -> None:
    number = special_number(Special.FIREWALL)
    async with open_client() as client:
        for path in (process_path(number), binary_path(number, str(UUID(int=5)))):
            async with client.get(path) as response:
                assert (response.status, response.content_type) == (403, "text/html")
                assert "Request Rejected" in await response.text()


async def test_the_hanging_process_never_answers_and_does_not_hold_up_the_end() -> None:
    async with open_client() as client:
        with pytest.raises(TimeoutError):
            await client.get(
                process_path(special_number(Special.HANGING)), timeout=aiohttp.ClientTimeout(total=0.05)
            )
        assert state_of(client).max_in_flight == 1
    assert state_of(client).in_flight == 0


async def test_an_outage_answers_everything_of_the_api_as_long_as_it_lasts() -> None:
    (document, *_) = expected_documents(KNOWN)
    paths = [process_path(KNOWN), binary_path(KNOWN, document.uuid), "/api/v2/nothing"]
    async with open_client() as client:
        state = state_of(client)
        state.outage = 503
        for path in paths:
            async with client.get(path) as response:
                assert (response.status, await response.read()) == (503, b"")
        assert (state.turned_away, state.in_flight) == (3, 0)
        async with client.get("/") as response:
            assert response.status == 200
        state.outage = None
        await read_process(client, KNOWN)


# What it remembers --------------------------------------------------------------------------------


async def test_the_portal_counts_requests_in_flight_and_those_for_each_document() -> None:
    uuids = [expected.uuid for expected in expected_documents(KNOWN)[:5]]
    async with open_client(latency_s=0.02) as client:
        await asyncio.gather(*(read_binary(client, KNOWN, uuid) for uuid in uuids))
        await read_process(client, KNOWN)
        state = state_of(client)
    assert state.binaries == dict.fromkeys(uuids, 1)
    assert state.processes == {parse_process_number(KNOWN): 1}
    assert (state.max_in_flight, state.in_flight) == (5, 0)


async def test_a_new_portal_starts_afresh() -> None:
    number = special_number(Special.BUSY)
    for _ in range(2):
        async with open_client() as client, client.get(process_path(number)) as response:
            assert response.status == 503
