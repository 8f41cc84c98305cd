"""What the portal says of a process, and how much of it is believed."""

from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest

from service.core.errors import BadContentError
from service.core.portal_records import read_process
from service.sandbox.cases import process_object

NUMBER = "10035792220258260564"


def _described(**changes: Any) -> dict[str, Any]:
    """A process with one document, some of whose members are changed."""
    described: dict[str, Any] = deepcopy(dict(process_object(NUMBER)))
    described["tramitacaoAtual"]["documentos"] = described["tramitacaoAtual"]["documentos"][-1:]
    described["tramitacaoAtual"]["documentos"][0].update(changes)
    return described


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-01-10T10:00:00.07", datetime(2025, 1, 10, 13, 0, 0, 70_000, UTC)),
        ("2025-01-10T10:00:00", datetime(2025, 1, 10, 13, tzinfo=UTC)),
        ("2018-12-10T10:00:00.123", datetime(2018, 12, 10, 12, 0, 0, 123_000, UTC)),  # summer time then
        ("ontem", None),
        (None, None),
    ],
)
def test_a_time_without_a_zone_is_brasilias(text: str | None, expected: datetime | None) -> None:
    (document,) = read_process(_described(dataHoraJuntada=text), NUMBER).documents
    assert (document.filed_at, document.filed_at_raw) == (expected, text)


@pytest.mark.parametrize(("level", "expected"), [("PUBLICO", 0), ("SIGILO_MEDIO", 3), ("NOVO", 5), (None, 5)])
def test_an_unknown_secrecy_counts_as_the_highest(level: str | None, expected: int) -> None:
    (document,) = read_process(_described(nivelSigilo=level), NUMBER).documents
    assert document.secrecy_level == expected


@pytest.mark.parametrize("href", [None, "", "/processos/x/documentos/17/binario"])
def test_a_document_without_a_file_is_kept_under_a_stable_name(href: str | None) -> None:
    (once,) = read_process(_described(hrefBinario=href), NUMBER).documents
    (again,) = read_process(_described(hrefBinario=href), NUMBER).documents
    assert once.has_file is False
    assert once.uuid == again.uuid


def test_two_courts_documents_without_a_file_never_share_a_name() -> None:
    other = "00000019319798260495"
    described = _described(hrefBinario=None)
    (one,) = read_process(described, NUMBER).documents
    (two,) = read_process({**described, "numeroProcesso": other}, other).documents
    assert one.uuid != two.uuid


def test_a_nul_in_a_name_costs_nothing() -> None:
    (document,) = read_process(_described(nome="Pe\x00tição"), NUMBER).documents
    assert document.name == "Petição"


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, 1), (2**50, 2**50), (0, None), (2**50 + 1, None), (2**70, None), (1e30, None), (str(2**70), None)],
)
def test_a_size_that_no_document_has_is_unknown(size: object, expected: int | None) -> None:
    (document,) = read_process(_described(arquivo={"tamanho": size}), NUMBER).documents
    assert document.declared_bytes == expected


@pytest.mark.parametrize("changes", [{"sequencia": 2**40}, {"arquivo": {"tamanho": -1}}])
def test_a_number_that_cannot_be_is_refused_and_not_stored(changes: dict[str, Any]) -> None:
    with pytest.raises(BadContentError):
        read_process(_described(**changes), NUMBER)


def test_null_lists_are_empty_lists() -> None:
    described = _described()
    described["tramitacaoAtual"].update(documentos=None, movimentos=None, assunto=None, classe=None)
    record = read_process(described, NUMBER)
    assert (record.documents, record.subject, record.source_updated_at) == ([], None, None)


def test_one_document_listed_twice_is_one_document() -> None:
    described = _described()
    described["tramitacaoAtual"]["documentos"] *= 2
    assert len(read_process(described, NUMBER).documents) == 1


def test_no_party_is_kept() -> None:
    record = read_process(process_object(NUMBER), NUMBER)
    assert set(record.metadata) == {"court_name", "degree", "instance", "value", "filed_at"}


def test_a_document_is_at_least_as_secret_as_its_case() -> None:
    described = deepcopy(dict(process_object(NUMBER)))
    described["nivelSigilo"] = "SIGILO_MEDIO"
    assert {one.secrecy_level for one in read_process(described, NUMBER).documents} == {3}
