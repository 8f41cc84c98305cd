"""In which language people are told what is wrong. Codes and names of members never change with it."""

import re
from functools import cache

from service.words_pt import PORTUGUESE

ENGLISH = "en"
BRAZILIAN = "pt-BR"

_CATALOGUES = {BRAZILIAN: PORTUGUESE}
_RANGE = re.compile(r"\s*([A-Za-z]{1,8}|\*)(?:-[A-Za-z0-9-]*)?\s*(?:;\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*)?")
_MOST_RANGES = 20


def preferred_language(accepted: str) -> str:
    """Return the language that `Accept-Language` asks for (RFC 9110 §12.5.4), English when it asks for none.

    Portuguese of any country is answered in that of Brazil.
    """
    wishes = list[tuple[float, str]]()
    for one in accepted.split(",")[:_MOST_RANGES]:
        if match := _RANGE.fullmatch(one):
            wishes.append((float(match[2] or 1), match[1].lower()))
    # The first of those that are wished for the most; a sort keeps their order.
    for weight, language in sorted(wishes, key=lambda wish: -wish[0]):
        if weight > 0 and language in ("pt", "en", "*"):
            return BRAZILIAN if language == "pt" else ENGLISH
    return ENGLISH


def say(text: str, language: str) -> str:
    """Return an English text of ours in another language; what its catalogue lacks stays English."""
    catalogue = _CATALOGUES.get(language)
    if catalogue is None:
        return text
    if text in catalogue:
        return catalogue[text]
    for pattern, translated in _patterns(language):
        if match := pattern.fullmatch(text):
            return translated.format(*(say(value, language) for value in match.groups()))
    return text


@cache
def _patterns(language: str) -> list[tuple[re.Pattern[str], str]]:
    """Return the texts with `{}` in them as patterns, the most particular first."""
    found = [(source, target) for source, target in _CATALOGUES[language].items() if "{}" in source]
    found.sort(key=lambda entry: -len(entry[0]))
    return [
        (
            re.compile("(.+?)".join(map(re.escape, source.split("{}"))), re.DOTALL),
            target,
        )
        for source, target in found
    ]
