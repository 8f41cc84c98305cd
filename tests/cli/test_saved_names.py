"""Whatever a court calls its documents, each has a file of its own inside the folder."""

from pathlib import PurePosixPath, PureWindowsPath
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from service.cli.saved_names import saved_names
from service.schemas import DocumentAnswer

_NASTY = (
    "../../etc/passwd",
    "CON",
    "nul.txt",
    "a\0b",
    "C:\\x",
    ". .",
    "\u202egpj.exe",
    "x" * 5000,
    "",
    "é\u0301" * 99,
)


def _document(
    name: str, *, position: int = 7, mime_type: str | None = "text/html", uuid: UUID | None = None
) -> DocumentAnswer:
    nothing = dict.fromkeys(DocumentAnswer.model_fields)
    return DocumentAnswer.model_validate(
        {
            **nothing,
            "id": uuid4(),
            "uuid": uuid or uuid4(),
            "position": position,
            "name": name,
            "status": "available",
            "mime_type": mime_type,
            "attempts": 1,
        }
    )


_documents = st.lists(
    st.builds(
        lambda name, position, mime_type: _document(name, position=position, mime_type=mime_type),
        st.one_of(st.sampled_from(_NASTY), st.text(max_size=300)),
        st.one_of(st.integers(0, 3), st.integers(-5, 10**30)),
        st.one_of(st.none(), st.sampled_from(["text/html", "application/pdf", "../../x", "a/b"])),
    ),
    max_size=8,
)


@given(documents=_documents)
def test_names_are_plain_bounded_and_differ_on_every_system(documents: list[DocumentAnswer]) -> None:
    names = saved_names(documents)
    assert names.keys() == {one.id for one in documents}
    assert len({name.casefold() for name in names.values()}) == len(documents)
    for name in names.values():
        assert PurePosixPath(name).name == PureWindowsPath(name).name == name
        assert not PureWindowsPath(name).is_reserved()
        assert name[:4].isdecimal()
        assert name.isprintable()
        assert name == name.strip(" .")
        assert len(f"{name}.part".encode()) <= 255


def test_a_document_keeps_its_name_when_others_come_before_and_after_it() -> None:
    first = _document("Despacho", position=3)
    name = saved_names([first])[first.id]
    assert name == "0003 - Despacho.html"
    others = [_document("Despacho", position=position) for position in (1, 2, 4)]
    assert saved_names([*others, first])[first.id] == name


def test_documents_at_one_place_are_told_apart_by_the_courts_id() -> None:
    uuids = [UUID(int=1), UUID(int=2)]
    names = saved_names([_document("Despacho", position=0, uuid=uuid) for uuid in uuids])
    assert sorted(names.values()) == [f"0000 - {uuid.hex} Despacho.html" for uuid in uuids]
