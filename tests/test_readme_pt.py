"""The README says the same in both languages: whoever changes one of them has to change the other."""

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENGLISH = (ROOT / "README.md").read_text()
PORTUGUESE = (ROOT / "README.pt-BR.md").read_text()

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What stands in a block for people alone; the tree of the repository has it behind two spaces.
COMMENT = {
    "sh": re.compile(r"(^|[ \t]+)# .*$", re.MULTILINE),
    "": re.compile(r" {2,}.*$", re.MULTILINE),
}
NOTHING = re.compile(r"(?!)")


def _blocks(page: str) -> list[tuple[str, str]]:
    """The language and the text of every code block, without what may be translated in it."""
    return [
        (language, COMMENT.get(language, NOTHING).sub("", text)) for language, text in BLOCK.findall(page)
    ]


def _sections(page: str) -> list[tuple[str, str]]:
    """The level (`#`, `##`, …) of every heading, and the text from it to the next without its code blocks.

    The link to the other language, alone in being different, is left out.
    """
    prose = re.sub(r"^.*\[README\.(?:pt-BR\.)?md\].*$", "", BLOCK.sub("", page), flags=re.MULTILINE)
    parts = re.split(r"^(#+) ", prose, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def _spans(text: str) -> Counter[str]:
    """Every code span, however its line is broken, and how often."""
    return Counter(" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text))


def _digits(text: str) -> Counter[str]:
    """Every run of digits: 5,000 and 0.93 here are 5.000 and 0,93 there."""
    return Counter(re.findall(r"(?<!\w)\d+", text))


def _links(text: str) -> Counter[str]:
    return Counter(re.findall(r"\]\([^)]+\)|<https?:[^>]+>", text))


def _rows(text: str) -> list[str]:
    return re.findall(r"^\|.*\|$", text, re.MULTILINE)


def _pairs() -> list[tuple[str, str]]:
    """The sections of both pages, side by side."""
    return [
        (english, portuguese)
        for (_, english), (_, portuguese) in zip(_sections(ENGLISH), _sections(PORTUGUESE), strict=True)
    ]


def test_each_language_begins_with_a_link_to_the_other() -> None:
    assert ENGLISH.startswith("# Autos\n\nEm português: [README.pt-BR.md](README.pt-BR.md)\n\n")
    assert PORTUGUESE.startswith("# Autos\n\nIn English: [README.md](README.md)\n\n")


def test_the_headings_have_the_same_levels_in_the_same_order() -> None:
    levels = [level for level, _ in _sections(ENGLISH)]
    assert len(levels) > 10
    assert [level for level, _ in _sections(PORTUGUESE)] == levels


def test_the_code_is_the_same_but_for_its_comments() -> None:
    blocks = _blocks(ENGLISH)
    assert len(blocks) > 10
    assert _blocks(PORTUGUESE) == blocks


def test_each_section_names_the_same_code_figures_and_links() -> None:
    for english, portuguese in _pairs():
        section = english.partition("\n")[0]
        assert _spans(portuguese) == _spans(english), section
        assert _digits(portuguese) == _digits(english), section
        assert _links(portuguese) == _links(english), section


def test_each_table_has_the_same_rows_in_the_same_order() -> None:
    for english, portuguese in _pairs():
        ours, theirs = _rows(english), _rows(portuguese)
        assert len(theirs) == len(ours), english.partition("\n")[0]
        for row, translated in zip(ours, theirs, strict=True):
            assert translated.count("|") == row.count("|"), row
            assert _spans(translated) == _spans(row), row
            assert _digits(translated) == _digits(row), row


def test_each_list_has_as_many_points() -> None:
    for english, portuguese in _pairs():
        points, translated = (
            re.findall(r"^(- |\d\. )", text, re.MULTILINE) for text in (english, portuguese)
        )
        assert translated == points, english.partition("\n")[0]


def test_the_figures_of_speed_are_the_same_written_as_in_each_language() -> None:
    ((english, portuguese),) = [pair for pair in _pairs() if pair[0].startswith("Speed\n")]
    figures = [row.split("|")[-2] for row in _rows(english)]
    assert len(figures) > 10
    swapped = str.maketrans(".,", ",.")
    assert [row.split("|")[-2] for row in _rows(portuguese)] == [one.translate(swapped) for one in figures]
