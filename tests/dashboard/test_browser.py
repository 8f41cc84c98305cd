"""The dashboard in a real browser: what readers do, what they see change, and whom it keeps out (nobody)."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, expect

from service.sandbox.cases import Special, special_number
from tests.conftest import MakeSettings
from tests.dashboard.browser import CHROMIUM, DESK, PHONE, needs_chromium, open_browser, visit
from tests.dashboard.reader import OPERATOR, add_key
from tests.receiver import Receiver
from tests.world import Caller, World, open_world

pytestmark = needs_chromium

CASE = "1003579-22.2025.8.26.0564"
SLOW = special_number(Special.SLOW)
SOME_FAIL = special_number(Special.CODEX_SOME)


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests; each has a window and cookies of its own."""
    assert CHROMIUM
    async with open_browser() as opened:
        yield opened


async def _with_work(world: World, receiver: Receiver) -> tuple[Caller, dict[str, str]]:
    """A client with something of everything; the paths of all pages that there are of it."""
    caller = await world.caller()
    receiver.statuses = [410]
    endpoint = {
        "url": "https://hooks.example.com/autos",
        "description": "what the office's intake is told of",
    }
    await caller.post("/webhooks/endpoints", json=endpoint)
    await caller.post("/jobs", json={"process_number": SOME_FAIL, "webhook_url": receiver.url})
    job_id = (await caller.wait_until_final(SOME_FAIL))["job_id"]
    await caller.post("/jobs", json={"process_number": CASE, "reference": "Mandate 7"})
    await caller.wait_until_final(CASE)
    await world.until("select bool_or(status = 'dead') from deliveries")
    documents = (await caller.get(f"/processes/{CASE}/files")).json["documents"]
    html = next(one["id"] for one in documents if one["mime_type"] == "text/html")
    dead = (await caller.get("/webhooks/deliveries?status=dead")).json["items"][0]["id"]
    return caller, {
        "home": "/",
        "jobs": "/dashboard/jobs",
        "job": f"/dashboard/jobs/{job_id}",
        "failed": "/dashboard/failed",
        "deliveries": "/dashboard/deliveries",
        "delivery": f"/dashboard/deliveries/{dead}",
        "endpoints": "/dashboard/endpoints",
        "submit": "/dashboard/submit",
        "document": f"/dashboard/documents/{html}",
        "error": "/dashboard/jobs/00000000-0000-0000-0000-000000000000",
    }


async def test_a_newcomer_signs_in_submits_a_process_and_watches_it_to_its_end(
    browser: Browser, empty: None, make_settings: MakeSettings
) -> None:
    async with (
        open_world(make_settings(downloads_per_job=1)) as world,  # so that there is something to watch
        visit(browser, world) as seen,
    ):
        caller = await world.caller()
        await seen.sign_in(caller.key)
        await seen.page.get_by_role("link", name="Submit").click()
        await seen.page.get_by_label("Process numbers").fill(SLOW)
        await seen.page.get_by_role("main").get_by_role("button", name="Submit").click()
        state = seen.page.locator("#state")
        await expect(state.locator("[data-status]")).to_have_text("processing")
        await expect(seen.page.locator("tr[data-document]")).to_have_count(8)
        # Nobody reloads the page: all this comes with the stream.
        await expect(state.locator("[data-status]")).to_have_text("completed", timeout=60_000)
        await expect(state.locator("[data-counts]")).to_have_text("8/8")
        await expect(seen.page.locator("tr[data-document] .badge.available")).to_have_count(8)
        await expect(seen.page.locator("#time-line")).to_contain_text("The job ended with every document")
        await expect(seen.page.get_by_role("status")).to_contain_text("completed")


async def test_the_list_of_jobs_moves_by_itself(browser: Browser, world: World) -> None:
    caller = await world.caller()
    async with visit(browser, world) as seen:
        await seen.sign_in(caller.key)
        await seen.open("/dashboard/jobs")
        await expect(seen.page.get_by_text("There is no job yet.")).to_be_visible()
        await caller.post("/jobs", json={"process_number": SLOW})
        row = seen.page.locator("tr[data-job]")
        await expect(row).to_have_count(1)
        await expect(row.locator("[data-status]")).to_have_text("completed", timeout=60_000)
        await expect(row.locator("progress")).to_have_js_property("value", 100)


async def test_failed_work_is_tried_again_after_a_question(
    browser: Browser, world: World, receiver: Receiver
) -> None:
    caller, paths = await _with_work(world, receiver)
    async with visit(browser, world) as seen:
        await seen.sign_in(caller.key)
        await seen.open(paths["failed"])
        await expect(seen.page.locator("tr[data-job]")).to_have_count(1)
        seen.page.once("dialog", lambda dialog: dialog.dismiss())
        await seen.page.get_by_role("button", name="Retry all (1)").click()
        async with world.db.connection() as conn:
            assert await conn.fetchval("select count(*) from jobs") == 2
        seen.page.once("dialog", lambda dialog: dialog.accept())
        await seen.page.get_by_role("button", name="Retry all (1)").click()
        await expect(seen.page.get_by_text("Jobs that were started again: 1.")).to_be_visible()
        await seen.page.get_by_role("button", name="Send again").click()
        await receiver.wait_for(2)


async def test_a_document_is_looked_into_and_runs_nothing(
    browser: Browser, world: World, receiver: Receiver
) -> None:
    caller, paths = await _with_work(world, receiver)
    async with visit(browser, world) as seen:
        # Out of a message, by somebody who is not signed in; the entrance leads on to its page.
        await seen.open(f"{paths['document']}/content")
        await seen.give_key(caller.key)
        await seen.page.wait_for_url(seen.base_url + paths["document"])
        frame = seen.page.frame_locator("iframe.preview")
        await expect(frame.locator("body")).not_to_be_empty()
        inside = seen.page.frames[1]
        assert await inside.evaluate("window.origin") == "null"
        async with world.db.connection() as conn:
            await conn.execute("update documents set object_key = object_key || '.gone'")
        await seen.page.reload()
        await expect(frame.get_by_role("alert")).to_be_visible()
        # Told to the console: the status of the frame.
        assert [one for one in seen.complaints if "410" not in one] == []
        seen.complaints.clear()


async def test_an_operator_looks_at_another_client(browser: Browser, world: World) -> None:
    other = await world.caller("other")
    await other.post("/jobs", json={"process_number": CASE})
    await world.caller("acme")
    key = await add_key(world, "acme", *OPERATOR)
    async with visit(browser, world) as seen:
        await seen.sign_in(key)
        await seen.page.get_by_label("Look at the jobs of").select_option("other")
        await seen.page.get_by_role("button", name="Look").click()
        await expect(seen.page.get_by_role("link", name=CASE)).to_be_visible()
        await expect(seen.page.locator(".client")).to_contain_text("seen by acme")


async def test_everything_can_be_done_with_the_keyboard(browser: Browser, world: World) -> None:
    caller = await world.caller()
    async with visit(browser, world) as seen:
        await seen.open("/login")
        await expect(seen.page.get_by_label("API key")).to_be_focused()
        await seen.page.keyboard.type(caller.key)
        await seen.page.keyboard.press("Enter")
        await seen.page.wait_for_url(seen.base_url + "/")
        await seen.page.keyboard.press("Tab")
        await expect(seen.page.get_by_role("link", name="Skip to the content")).to_be_focused()
        await seen.page.keyboard.press("Enter")
        await expect(seen.page.get_by_role("main")).to_be_focused()


# Texts of a table that end beyond it, where readers would have to scroll to know of them, and those of a cell
# that begin in the column of its label.
_ASTRAY = """() => [...document.querySelectorAll("table.cards :is(td, th)")].flatMap(cell => {
    const walk = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), astray = [];
    const table = cell.closest(".table").getBoundingClientRect(), range = document.createRange();
    if (getComputedStyle(cell.closest("table").tHead).position !== "absolute") return ["not in cards"];
    if (cell.closest("thead")) return [];
    const label = cell.matches("td[data-label]") ? cell.getBoundingClientRect().left + 100 : 0;
    while (walk.nextNode()) {
        range.selectNodeContents(walk.currentNode);
        const lines = [...range.getClientRects()].filter(one => one.width);
        if (lines.some(one => one.right > table.right || one.left < label)) astray.push(range.toString());
    }
    return astray;
})"""


async def test_nothing_is_wider_than_a_phone(browser: Browser, world: World, receiver: Receiver) -> None:
    caller, paths = await _with_work(world, receiver)
    await caller.post("/jobs", json={"process_number": special_number(Special.HANGING)})
    await world.until("select exists (select from jobs where status = 'processing')")
    key = await add_key(world, "acme", *OPERATOR)
    async with visit(browser, world, viewport=PHONE) as seen:
        await seen.sign_in(key)
        for name, path in paths.items():
            if name != "error":
                await seen.open(path)
            for width in (PHONE["width"], 360):
                await seen.page.set_viewport_size({"width": width, "height": PHONE["height"]})
                assert await seen.page.evaluate("document.documentElement.scrollWidth") <= width, name
                assert await seen.page.evaluate(_ASTRAY) == [], name


async def test_a_line_of_a_table_goes_through_to_its_end(browser: Browser, world: World) -> None:
    caller = await world.caller()
    endpoint = {"url": "https://hooks.example.com/", "description": "higher than its buttons " * 20}
    await caller.post("/webhooks/endpoints", json=endpoint)
    async with visit(browser, world) as seen:
        await seen.sign_in(caller.key)
        await seen.open("/dashboard/endpoints")
        cells = seen.page.locator("tbody tr > *")
        ends = await cells.evaluate_all("cells => cells.map(cell => cell.getBoundingClientRect().bottom)")
    assert len(ends) == 5
    assert len(set(ends)) == 1


@pytest.mark.parametrize(
    ("viewport", "theme"),
    [
        pytest.param(DESK, "light", id="desk-light"),
        pytest.param(PHONE, "dark", id="phone-dark"),
        pytest.param(DESK, "dark", id="desk-dark", marks=pytest.mark.long),
        pytest.param(PHONE, "light", id="phone-light", marks=pytest.mark.long),
    ],
)
async def test_no_page_keeps_anybody_out(
    browser: Browser, world: World, receiver: Receiver, theme: str, viewport: dict[str, int]
) -> None:
    caller, paths = await _with_work(world, receiver)
    async with visit(browser, world, viewport=viewport, color_scheme=theme) as seen:
        await seen.open("/login")
        assert await seen.barriers() == []
        await seen.sign_in(caller.key)
        for name, path in paths.items():
            await seen.open(path)
            assert await seen.barriers() == [], name
        # The page of an error is one, and its status is told to the console.
        assert [one for one in seen.complaints if "404" not in one] == []
        seen.complaints.clear()


async def test_without_script_every_page_still_works(browser: Browser, world: World) -> None:
    caller = await world.caller()
    async with visit(browser, world, java_script_enabled=False) as seen:
        await seen.sign_in(caller.key)
        await seen.page.get_by_role("link", name="Submit").click()
        await seen.page.get_by_label("Process numbers").fill(CASE)
        await seen.page.get_by_role("main").get_by_role("button", name="Submit").click()
        await expect(seen.page.get_by_role("heading", name=CASE)).to_be_visible()
        await caller.wait_until_final(CASE)
        await seen.page.reload()
        await expect(seen.page.locator("#state [data-status]")).to_have_text("completed")
