"""Chromium, driven by Playwright, where Debian's packages put it; and axe-core, which looks for barriers."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.world import World

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")

_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """Start a browser without a window."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Visit:
    """A page in a browser, and what went wrong in it without anybody asking."""

    page: Page
    base_url: str
    complaints: list[str]

    async def open(self, path: str) -> None:
        """Go there and wait until it is loaded."""
        await self.page.goto(self.base_url + path)

    async def sign_in(self, key: str) -> None:
        """Give a key at the entrance, as a reader does."""
        await self.open("/login")
        await self.give_key(key)
        await self.page.wait_for_url(self.base_url + "/")

    async def give_key(self, key: str) -> None:
        """Fill in the form of the entrance, and send it."""
        await self.page.get_by_label("API key").fill(key)
        await self.page.get_by_role("main").get_by_role("button", name="Sign in").click()

    async def barriers(self) -> list[str]:
        """Return what axe-core finds that keeps somebody out, each with where it is."""
        # Not into frames: what the court wrote is not ours to mend.
        found = await Axe().run(self.page, options={"iframes": False})
        violations: list[dict[str, Any]] = found.response["violations"]
        return [f"{one['id']}: {node['html']}" for one in violations for node in one["nodes"]]


@asynccontextmanager
async def visit(browser: Browser, world: World, **options: Any) -> AsyncIterator[Visit]:
    """Open a window of a browser that knows no session; what its console complains of fails the test."""
    context: BrowserContext = await browser.new_context(**{"viewport": DESK, "locale": "en-US", **options})
    page = await context.new_page()
    complaints: list[str] = []
    page.on(
        "console", lambda told: complaints.append(told.text) if told.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        yield Visit(page, world.base_url, complaints)
    finally:
        await context.close()
    assert complaints == []
