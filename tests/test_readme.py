"""What the documents promise is so."""

import re
from pathlib import Path

from service.app import create_app
from service.core.settings import Settings
from service.sandbox.cases import SPECIAL_CASES, special_number

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_readme_lists_every_special_number_with_its_right_digits() -> None:
    listed = re.findall(r"^\| `(\d{7}-[\d.]+)` \| (.+) \|$", README, re.MULTILINE)
    assert dict(listed) == {
        special_number(first_part): case.description for first_part, case in SPECIAL_CASES.items()
    }


def test_the_readme_names_every_route() -> None:
    for resource in create_app(Settings()).router.resources():
        path = resource.canonical
        if not path.startswith(("/api/v1/", "/problems/")):
            shown = path.replace("{document_id}", "{id}").replace("{job_id}", "{id}")
            assert f"{shown}`" in README, path


def test_every_link_between_the_documents_leads_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
