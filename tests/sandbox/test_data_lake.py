"""The stand-in data lake over real HTTP: the portal's cases in other forms, and links that run out."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from service.sandbox.cases import Special, expected_documents, special_number
from service.sandbox.data_lake import FILES, PREFIX, Files, create_data_lake
from tests.sandbox.test_portal import Client, Clock

KNOWN = "1003579-22.2025.8.26.0564"


@asynccontextmanager
async def open_client(clock: Clock | None = None, **options: Any) -> AsyncIterator[tuple[Client, Files]]:
    """A client of the API, beside the site of its files."""
    api, files = create_data_lake(latency_s=0, clock=clock or Clock(), **options)
    async with TestServer(files) as site, TestClient(TestServer(api)) as client:
        api[FILES].url = str(site.make_url("")).rstrip("/")
        yield client, api[FILES]


def process(number: str, rest: str = "") -> str:
    return f"{PREFIX}/processos/{number}{rest}"


async def read(client: Client, path: str) -> Any:
    async with client.get(path) as response:
        assert response.status == 200
        return await response.json()


async def test_the_documents_are_the_portals_and_stand_apart_from_their_process() -> None:
    async with open_client() as (client, _):
        (described,) = await read(client, process(KNOWN))
        assert "documentos" not in described["tramitacaoAtual"]
        listed = (await read(client, process(KNOWN, "/documentos")))["documentos"]
        uuids = [item["hrefBinario"].split("/")[4] for item in reversed(listed)]
        assert uuids == [one.uuid for one in expected_documents(KNOWN)]


async def test_a_link_gives_the_very_bytes_until_it_runs_out_and_to_nobody_with_a_token() -> None:
    clock = Clock()
    async with open_client(clock, link_ttl_s=60) as (client, files), aiohttp.ClientSession() as http:
        first = expected_documents(KNOWN)[0]
        said = await read(client, process(KNOWN, f"/documentos/{first.uuid}/binario-url"))
        link = URL(said["url"], encoded=True)
        async with http.get(link) as response:
            assert (response.status, len(await response.read())) == (200, first.size)
        for headers in ({"Authorization": "Bearer x"}, {"X-PDPJ-CPF-USUARIO-OPERADOR": "1"}):
            async with http.get(link, headers=headers) as response:
                assert response.status == 400
        assert files.leaks == 2
        # Encoded anew it is another link, as a presigned one is.
        async with http.get(said["url"]) as response:
            assert response.status == 403
        clock.now += 60
        async with http.get(link) as response:
            assert response.status == 403


async def test_every_fourth_document_is_prepared_before_there_is_a_link() -> None:
    async with open_client(prepare_s=3) as (client, _):
        third = expected_documents(KNOWN)[2]
        path = process(KNOWN, f"/documentos/{third.uuid}/binario-url")
        async with client.get(path) as response:
            assert (response.status, response.headers["Retry-After"]) == (202, "3")
        assert "url" in await read(client, path)


async def test_the_last_update_moves_only_when_there_is_something_new() -> None:
    growing = special_number(Special.GROWING)
    async with open_client() as (client, _):
        seen: dict[str, list[str]] = {KNOWN: [], growing: []}
        for number, told in seen.items():
            for _again in range(2):
                async with client.head(process(number, "/ultima-atualizacao")) as response:
                    told.append(response.headers["Last-Modified"])
                await read(client, process(number))
    assert len({*seen[KNOWN]}) == 1
    assert len({*seen[growing]}) == 2


@pytest.mark.parametrize(
    ("number", "exists", "may_be_seen"),
    [
        (KNOWN, True, True),
        (special_number(Special.UNKNOWN), False, False),
        (special_number(Special.NO_ACCESS), True, False),
        ("no-number", False, False),
    ],
)
async def test_cheap_questions_have_cheap_answers(number: str, exists: bool, may_be_seen: bool) -> None:
    async with open_client() as (client, _):
        assert await read(client, process(number, "/existe")) is exists
        assert await read(client, process(number, "/possui-acesso")) is may_be_seen


async def test_what_it_does_not_know_it_answers_like_the_portals_framework() -> None:
    async with open_client(token="right") as (client, _):
        async with client.get("/api/v2/processos/x") as response:
            assert (response.status, (await response.json())["error"]) == (404, "Not Found")
        async with client.get(process(KNOWN)) as response:
            assert response.status == 401
