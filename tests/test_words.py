"""What people read, in their language; what programs read never changes."""

import ast
import re
from pathlib import Path

import pytest
from pydantic_core._pydantic_core import list_all_errors  # the one list of all its texts

from service.problems import CATALOGUE
from service.words import preferred_language, say
from service.words_pt import PORTUGUESE
from tests.world import World

SERVICE = Path(__file__).resolve().parents[1] / "service"
# Where the text stands among the arguments of what refuses a request.
REFUSALS = {
    "invalid": 1,
    "ProblemError": 1,
    "PydanticCustomError": 1,
    "NotFoundError": 0,
    "JobFinalError": 0,
    "JobSharedError": 0,
    "KeyInUseError": 0,
    "KeyReusedError": 0,
    "ErasedError": 0,
    "NothingToRetryError": 0,
    "TooManyActiveJobsError": 0,
    "TooManyEndpointsError": 0,
    "UnknownEndpointError": 0,
    "EndpointDisabledError": 0,
    "InvalidProcessNumberError": 0,
    "DestinationRefusedError": 0,
}
# The operator's own commands; and what stands inside other texts.
OF_COMMANDS = {"no live key has the id {}", "there is no client {}"}
PARTS = {"it has not been fetched yet", "http or https"}


def _template(node: ast.expr) -> str | None:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(str(one.value) if isinstance(one, ast.Constant) else "{}" for one in values)
    return None


def _texts() -> set[str]:
    """Every text with which our code refuses a request."""
    found = set[str]()
    for path in SERVICE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                place = REFUSALS.get(name, 99)
                if len(node.args) > place and (text := _template(node.args[place])):
                    found.add(text)
    return found


def _titles() -> set[str]:
    return {text for one in CATALOGUE.values() for text in (one.title, one.meaning)}


def test_every_text_has_its_portuguese() -> None:
    assert len(_texts()) > 50
    assert (_texts() - OF_COMMANDS | _titles()) - PORTUGUESE.keys() == set()


def test_the_catalogue_has_no_text_that_nobody_says() -> None:
    rest = PORTUGUESE.keys() - _texts() - _titles() - PARTS
    said = {
        re.sub(r"\{expected_plural\}|\{\w+\}", "*", one["message_template_python"]).replace("*", "(.*?)")
        for one in list_all_errors()
    }
    patterns = [re.compile(one) for one in said if one != "(.*?)"]
    assert {text for text in rest if not any(one.fullmatch(text) for one in patterns)} == set()
    assert len(rest) > 20


def test_a_text_and_its_portuguese_have_the_same_values() -> None:
    for text, translated in PORTUGUESE.items():
        if "{}" in text:
            # What is wrong with a value is said by pydantic in English only; the kind of value is enough.
            assert translated.count("{}") == text.count("{}") or text.startswith("Input should be a valid"), (
                text
            )


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"),
        ("pt-BR", "pt-BR"),
        ("pt", "pt-BR"),
        ("pt-PT,en;q=0.5", "pt-BR"),
        ("PT-br", "pt-BR"),
        ("en-US,en;q=0.9,pt-BR;q=0.8", "en"),
        ("en;q=0.3, pt;q=0.7", "pt-BR"),
        ("pt;q=0", "en"),
        ("fr-CA, pt;q=0.1", "pt-BR"),
        ("fr", "en"),
        ("*", "en"),
        ("pt;q=nonsense", "en"),
        ("," * 10_000 + "pt", "en"),
    ],
)
def test_the_language_is_the_one_wished_for_most(accepted: str, language: str) -> None:
    assert preferred_language(accepted) == language


def test_values_keep_their_place_and_an_unknown_text_stays() -> None:
    assert say("its check digits are 23, they should be 22", "pt-BR") == (
        "seus dígitos verificadores são 23, deveriam ser 22"
    )
    assert say("the document is failed: it has not been fetched yet", "pt-BR") == (
        "o documento está como failed: ele ainda não foi obtido"
    )
    assert say("words of the court's", "pt-BR") == "words of the court's"


@pytest.mark.parametrize(
    ("path", "body", "details"),
    [
        ("/jobs", {}, ["campo obrigatório"]),
        ("/jobs", {"process_number": 7, "x": 1}, ["deve ser um texto", "não existe tal membro ou parâmetro"]),
        ("/jobs", {"process_number": "x" * 65}, ["deve ter no máximo 64 caracteres"]),
        ("/jobs", {"process_number": "1", "priority": "urgent"}, ["deve ser 'high', 'normal' or 'low'"]),
        ("/jobs", {"process_number": "1", "deadline_s": 0}, ["deve ser maior ou igual a 1"]),
        ("/jobs", {"process_number": "1", "filter": {}}, ["deve indicar tipos, datas ou ids"]),
        (
            "/jobs",
            {"process_number": "1", "filter": {"filed_from": 0}},
            ["deve ser escrito como na RFC 3339"],
        ),
        ("/jobs", {"process_number": "1", "filter": {"ids": ["x"]}}, ["deve ser um UUID"]),
        ("/jobs/batch", {"process_numbers": []}, ["deve ter pelo menos 1 item, não 0"]),
        ("/jobs/batch", [], ["deve ser um objeto JSON"]),
        ("/webhooks/webhook-send-test", {"webhook_url": "ftp://x"}, ["o esquema deve ser http ou https"]),
    ],
)
async def test_what_is_wrong_with_a_request_is_said_in_portuguese(
    api: World, path: str, body: object, details: list[str]
) -> None:
    caller = await api.caller()
    answer = await caller.post(path, json=body, headers={"Accept-Language": "pt-BR,pt;q=0.9"})
    assert answer.status == 422
    assert (answer.headers["Content-Language"], answer.headers["Vary"]) == ("pt-BR", "Accept-Language")
    assert answer.json["title"] == "A requisição é inválida"
    assert [one["detail"] for one in answer.json["errors"]] == details
    assert all(detail in answer.json["detail"] for detail in details)


async def test_codes_and_pointers_are_the_same_in_both_languages(api: World) -> None:
    caller = await api.caller()
    english, portuguese = [
        await caller.post(
            "/jobs",
            json={"process_number": "1003579-23.2025.8.26.0564"},
            headers={"Accept-Language": language},
        )
        for language in ("en", "pt-BR")
    ]
    assert english.json["detail"] == "its check digits are 23, they should be 22"
    assert portuguese.json["detail"] == "seus dígitos verificadores são 23, deveriam ser 22"
    for name in ("type", "status", "instance"):
        assert english.json[name] == portuguese.json[name]
    assert english.json["errors"][0]["pointer"] == portuguese.json["errors"][0]["pointer"]


async def test_a_refused_process_of_a_batch_is_told_in_portuguese(api: World) -> None:
    caller = await api.caller()
    answer = await caller.post(
        "/jobs/batch", json={"process_numbers": ["1"]}, headers={"Accept-Language": "pt-BR"}
    )
    assert answer.json["items"][0]["problem"]["title"] == "Não é um número de processo do CNJ"


async def test_the_page_of_a_problem_is_in_the_readers_language(api: World) -> None:
    for language, title in (("pt-BR", "Não encontrado"), ("en", "Not found")):
        async with api.http.get(
            f"{api.base_url}/problems/not-found", headers={"Accept-Language": language}
        ) as response:
            page = await response.text()
            assert response.headers["Content-Language"] == language
            assert f'<html lang="{language}">' in page
            assert f"<h1>{title}</h1>" in page
