"""The pages: each shows what its reader may see and nothing else, and does what its forms say."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from yarl import URL

from service.app import create_app
from service.core import delivery_log, overview
from service.sandbox.cases import Special, special_number
from tests.conftest import MakeSettings
from tests.dashboard.reader import OPERATOR, Page, Reader, add_key, signed_in
from tests.receiver import Receiver
from tests.world import Caller, World, open_world, until

CASE = "1003579-22.2025.8.26.0564"
SOME_FAIL = special_number(Special.CODEX_SOME)


@asynccontextmanager
async def _fetched(
    world: World, number: str = CASE, **asked: object
) -> AsyncIterator[tuple[Reader, Caller, str]]:
    """A signed-in reader whose process has been fetched; its job's id."""
    caller = await world.caller()
    await caller.post("/jobs", json={"process_number": number, **asked})
    job_id = (await caller.wait_until_final(number))["job_id"]
    async with signed_in(world, caller.key) as reader:
        yield reader, caller, job_id


def _actions(page: Page) -> set[str]:
    forms = set(re.findall(r'<form method="post" action="([^"]+)"', page.text))
    return forms - {"/logout", "/dashboard/language"}


async def test_the_overview_tells_of_the_last_hour_and_of_what_is_open(world: World) -> None:
    async with _fetched(world, SOME_FAIL) as (reader, caller, _):
        page = await reader.get("/")
        status = (await caller.get(f"/processes/{SOME_FAIL}/status")).json
    assert "0 completed, 1 partial, 0 failed" in page.text
    assert f"Documents in the last hour: {status['completed_documents']} (" in page.text
    assert "Nothing runs at the moment." in page.text


async def test_the_overview_shows_what_runs_and_what_waits(world: World) -> None:
    hanging = special_number(Special.HANGING)
    caller = await world.caller()
    await caller.post("/jobs", json={"process_number": hanging})
    await world.until("select exists (select from jobs where status = 'processing')")
    async with signed_in(world, caller.key) as reader:
        page = await reader.get("/")
    assert "Running: 1" in page.text
    assert hanging in page.text


async def test_an_error_is_a_page_in_the_readers_language(api: World) -> None:
    caller = await api.caller()
    async with signed_in(api, caller.key) as reader:
        # No path of ours, and no job.
        for path in ("/dashboard/jobs/x", "/dashboard/jobs/" + "0" * 8):
            page = await reader.get(path, **{"Accept-Language": "pt"})
            assert (page.status, page.headers["Content-Language"]) == (404, "pt-BR")
            assert "Não encontrado" in page.text
        assert (await reader.get("/dashboard")).path == "/"


async def test_the_overview_counts_what_is_the_readers_alone(world: World) -> None:
    async with _fetched(world, SOME_FAIL):
        stranger = await world.caller("stranger")
        async with signed_in(world, stranger.key) as reader:
            assert "0 completed, 0 partial, 0 failed" in (await reader.get("/")).text
        key = await add_key(world, "stranger", "read", "operator")
        async with signed_in(world, key) as reader:
            assert "0 completed, 1 partial, 0 failed" in (await reader.get("/")).text


async def test_a_job_counts_for_each_who_asked_for_it(api: World) -> None:
    first, second, third = [await api.caller(name) for name in ("acme", "later", "never")]
    for caller in (first, second):
        await caller.post("/jobs", json={"process_number": CASE})
    async with api.db.connection() as conn:
        waiting = [(await overview.count_open(conn, one.client.id)).pending for one in (first, second, third)]
        await conn.execute(
            "update jobs set status = 'cancelled', finished_at = now(), progress_percentage = 100"
        )
        ended = [await overview.list_minutes(conn, one.client.id) for one in (first, second, third)]
    assert waiting == [1, 1, 0]
    assert [sum(minute.cancelled for minute in one) for one in ended] == [1, 1, 0]


async def test_webhooks_that_were_given_up_of_late_are_counted_however_long_they_were_tried(
    api: World,
) -> None:
    caller, stranger = await api.caller(), await api.caller("stranger")
    async with api.db.connection() as conn:
        await conn.execute(
            """insert into deliveries (client_id, webhook_url, event, payload, status, created_at,
                                       finished_at)
               select $1, 'https://hooks.example.com', 'webhook.test', '{}',
                      case when ended is null then 'pending' else 'dead' end::delivery_status,
                      now() - interval '4 days', now() - ended
               from unnest('{2 hours,3 days,null}'::interval[]) ended""",
            caller.client.id,
        )
        counts = [
            await delivery_log.count_undelivered(conn, whose)
            for whose in (caller.client.id, None, stranger.client.id)
        ]
    assert counts == [(1, 1), (1, 1), (0, 0)]


async def test_a_job_shows_its_documents_and_what_happened(world: World, receiver: Receiver) -> None:
    async with _fetched(world, SOME_FAIL, webhook_url=receiver.url) as (reader, caller, job_id):
        await receiver.wait_for(1)
        await world.until("select bool_and(status = 'delivered') from deliveries")
        page = await reader.get(f"/dashboard/jobs/{job_id}")
        status = (await caller.get(f"/processes/{SOME_FAIL}/status")).json
    assert page.text.count("<tr data-document=") == status["total_documents"]
    assert page.text.count('class="badge available"') == status["completed_documents"]
    assert "the court&#39;s store does not serve it" in page.text
    for happened in ("The job was submitted", "A worker took the job", "the receiver answered 204"):
        assert happened in page.text
    assert _actions(page) == {f"/dashboard/jobs/{job_id}/retry"} | {
        one for one in _actions(page) if one.endswith("/redeliver")
    }


async def test_a_job_of_many_documents_is_shown_page_by_page(world: World) -> None:
    async with _fetched(world, special_number(Special.THOUSAND)) as (reader, _, job_id):
        first = await reader.get(f"/dashboard/jobs/{job_id}")
        last = await reader.get(f"/dashboard/jobs/{job_id}?documents=5")
        beyond = await reader.get(f"/dashboard/jobs/{job_id}?documents=x")
    shown = [set(re.findall('data-document="([^"]+)"', page.text)) for page in (first, last, beyond)]
    assert [len(one) for one in shown] == [200, 200, 200]
    assert not shown[0] & shown[1]
    assert shown[2] == shown[0]


async def test_nobody_sees_what_is_anothers(world: World, receiver: Receiver) -> None:
    async with _fetched(world, SOME_FAIL, webhook_url=receiver.url) as (reader, caller, job_id):
        await receiver.wait_for(1)
        delivery = (await caller.get("/webhooks/deliveries")).json["items"][0]["id"]
        document = (await caller.get(f"/processes/{SOME_FAIL}/files")).json["documents"][0]["id"]
        paths = [
            f"/dashboard/jobs/{job_id}",
            f"/dashboard/deliveries/{delivery}",
            f"/dashboard/documents/{document}",
        ]
        assert [(await reader.get(path)).status for path in paths] == [200, 200, 200]
        stranger = await world.caller("stranger")
        async with signed_in(world, stranger.key) as other:
            assert [(await other.get(path)).status for path in paths] == [404, 404, 404]
            for action in ("retry", "cancel"):
                assert (await other.post(f"/dashboard/jobs/{job_id}/{action}")).status == 404
            for path in ("/dashboard/jobs", "/dashboard/failed", "/dashboard/deliveries"):
                assert job_id not in (page := await other.get(path)).text
                assert delivery not in page.text


async def test_an_operator_finds_the_failed_work_of_all_clients_and_mends_it_as_the_client(
    world: World, receiver: Receiver
) -> None:
    receiver.statuses = [410]
    async with _fetched(world, SOME_FAIL, webhook_url=receiver.url) as (_, caller, job_id):
        await world.until("select bool_and(status = 'dead') from deliveries")
        delivery = (await caller.get("/webhooks/deliveries")).json["items"][0]["id"]
        await world.caller("operations")
        paths = (f"/dashboard/jobs/{job_id}", f"/dashboard/deliveries/{delivery}")
        actions = (f"{paths[0]}/retry", f"{paths[1]}/redeliver")
        async with signed_in(world, await add_key(world, "operations", *OPERATOR)) as reader:
            page = await reader.get("/dashboard/failed")
            assert (job_id in page.text, delivery in page.text) == (True, True)
            # What is another's is done as he alone: each by itself, and never all at once.
            assert _actions(page) == {"/dashboard/look-as"}
            assert page.text.count('name="client" value="acme"') == 2
            assert (await reader.post("/dashboard/failed/retry")).path.endswith("?retried=0&left=0")
            assert (await reader.post("/dashboard/failed/redeliver")).path.endswith("?sent=0")
            for path in paths:
                told = await reader.get(path)
                assert (told.status, 'name="client" value="acme"' in told.text) == (404, True)
                assert "court" not in told.text
            assert [(await reader.post(action)).status for action in actions] == [404, 404]
            as_acme = await reader.post("/dashboard/look-as", client="acme", next=paths[0])
            assert (as_acme.status, as_acme.path) == (200, paths[0])
            assert "Of acme alone." in (await reader.get("/dashboard/failed")).text
            assert (await reader.post(actions[0])).path != paths[0]
        await world.caller("stranger")
        async with signed_in(world, await add_key(world, "stranger", "read", "write")) as reader:
            for path in paths:
                told = await reader.get(path)
                assert (told.status, "acme" in told.text) == (404, False)


async def test_an_operators_own_failed_work_is_tried_again_among_that_of_all(world: World) -> None:
    async with _fetched(world, SOME_FAIL):
        other = await world.caller("other")
        unknown = special_number(Special.UNKNOWN)
        await other.post("/jobs", json={"process_number": unknown})
        await other.wait_until_final(unknown)
        async with signed_in(world, await add_key(world, "acme", *OPERATOR)) as reader:
            page = await reader.get("/dashboard/failed")
            assert page.text.count("<tr data-job=") == 2
            assert "Retry all of acme" in page.text
            assert page.text.count('name="client" value="other"') == 1
            after = await reader.post("/dashboard/failed/retry")
            assert after.path == "/dashboard/failed?retried=1&left=0"


async def test_an_operator_is_told_who_else_has_a_process(api: World) -> None:
    mine, other = await api.caller("acme"), await api.caller("other")
    for caller in (mine, other):
        await caller.post("/jobs", json={"process_number": CASE})
    async with signed_in(api, await add_key(api, "acme", *OPERATOR)) as reader:
        page = await reader.get(f"/dashboard/jobs?q={CASE}")
    assert page.text.count("<tr data-job=") == 1
    assert re.findall('name="client" value="([^"]+)"', page.text) == ["other"]
    async with signed_in(api, mine.key) as reader:
        assert "other" not in (await reader.get(f"/dashboard/jobs?q={CASE}")).text.replace("another", "")


async def test_who_seeks_a_wrong_number_is_told_what_is_wrong_with_it(api: World) -> None:
    caller = await api.caller()
    wrong = CASE.replace("-22", "-23")
    async with signed_in(api, caller.key) as reader:
        page = await reader.get(f"/dashboard/jobs?q={wrong}")
        assert "its check digits are 23, they should be 22" in page.text
        page = await reader.get(f"/dashboard/jobs?q={wrong}", **{"Accept-Language": "pt"})
        assert "Não é um número de processo: seus dígitos verificadores são 23" in page.text
        assert "process number:" not in (await reader.get("/dashboard/jobs?q=Mandate+7")).text
        await caller.post("/jobs", json={"process_number": CASE, "reference": wrong})
        assert "digits" not in (await reader.get(f"/dashboard/jobs?q={wrong}")).text


async def test_a_key_that_may_only_look_is_offered_no_action_and_refused_each(world: World) -> None:
    async with _fetched(world, SOME_FAIL) as (_, _, job_id):
        key = await add_key(world, "acme", "read")
    async with signed_in(world, key) as reader:
        for path in ("/", "/dashboard/failed", f"/dashboard/jobs/{job_id}", "/dashboard/endpoints"):
            assert _actions(await reader.get(path)) == set()
        for path in ("/dashboard/failed/retry", f"/dashboard/jobs/{job_id}/retry", "/dashboard/submit"):
            assert (await reader.post(path)).status == 403


async def test_jobs_are_found_by_number_by_id_and_by_the_callers_own_name(world: World) -> None:
    async with _fetched(world, CASE, reference="Müller vs. <b>Sá</b>") as (reader, caller, job_id):
        await caller.post("/jobs", json={"process_number": SOME_FAIL})
        await caller.wait_until_final(SOME_FAIL)
        for sought in (CASE, CASE.replace("-", "").replace(".", ""), "Müller+vs.+<b>Sá</b>"):
            text = (await reader.get(f"/dashboard/jobs?q={sought}")).text
            assert job_id in text
            assert SOME_FAIL not in text
        assert (await reader.get(f"/dashboard/jobs?q={job_id}")).path == f"/dashboard/jobs/{job_id}"
        assert "There is no such job." in (await reader.get("/dashboard/jobs?q=unheard+of")).text
        assert SOME_FAIL in (await reader.get("/dashboard/jobs?status=partial")).text
        assert (await reader.get("/dashboard/jobs?status=nonsense")).status == 422


async def test_the_list_of_jobs_goes_on_page_by_page(api: World) -> None:
    caller = await api.caller()
    for number in (CASE, SOME_FAIL):
        await caller.post("/jobs", json={"process_number": number})
    async with signed_in(api, caller.key) as reader:
        first = await reader.get("/dashboard/jobs?limit=1")
        assert SOME_FAIL in first.text
        assert CASE not in first.text
        (link,) = re.findall('rel="next" href="([^"]+)"', first.text)
        assert CASE in (await reader.get(link.replace("&amp;", "&"))).text


async def test_what_comes_from_elsewhere_is_text_and_nothing_else(world: World) -> None:
    evil = "<img src=x onerror=alert(1)>"
    async with _fetched(world) as (reader, _, job_id):
        async with world.db.connection() as conn:
            await conn.execute("update documents set name = $1, type = $1", evil)
            await conn.execute("update processes set subject = $1, court = $1", evil)
        page = await reader.get(f"/dashboard/jobs/{job_id}")
    assert "<img" not in page.text
    assert page.text.count("&lt;img src=x onerror=alert(1)&gt;") > 20


async def test_pages_run_no_script_but_ours_and_are_kept_by_nobody(world: World) -> None:
    async with _fetched(world) as (reader, _, job_id):
        for path in ("/", "/login", "/dashboard/jobs", f"/dashboard/jobs/{job_id}", "/dashboard/nothing"):
            page = await reader.get(path)
            policy = page.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy or page.status == 404
            assert page.headers["X-Frame-Options"] == "DENY"
            if page.status == 200:
                assert page.headers["Cache-Control"] == "private, no-store"
                assert not re.search(r"<script(?! src=)|\\son[a-z]+=|\\sstyle=|javascript:", page.text)


async def test_assets_are_kept_for_good_and_come_under_their_digest(api: World) -> None:
    caller = await api.caller()
    async with signed_in(api, caller.key) as reader:
        home = await reader.get("/")
        paths = re.findall(r'(?:src|href)="(/dashboard/assets/[^"]+)"', home.text)
        assert {path.rpartition(".")[2] for path in paths} == {"css", "js", "svg"}
        for path in paths:
            page = await reader.get(path)
            assert page.status == 200
            assert "immutable" in page.headers["Cache-Control"]
            # Under another version's digest it must not be kept.
            assert (await reader.get(f"/dashboard/assets/0/{path.rpartition('/')[2]}")).status == 404
        assert (await reader.get("/dashboard/assets/x/..%2Fpages.py")).status == 404


async def test_a_failed_job_is_tried_again_by_its_button(world: World) -> None:
    async with _fetched(world, SOME_FAIL) as (reader, caller, job_id):
        page = await reader.post(f"/dashboard/jobs/{job_id}/retry")
        assert page.status == 200
        new_id = page.path.rpartition("/")[2]
        assert new_id != job_id
        assert (await caller.wait_until_final(SOME_FAIL))["job_id"] == new_id
        async with signed_in(world, caller.key) as again:
            assert (await again.post(f"/dashboard/jobs/{new_id}/cancel")).status == 409


async def test_all_failed_work_is_tried_again_at_once(world: World) -> None:
    numbers = [SOME_FAIL, special_number(Special.UNKNOWN)]
    async with _fetched(world, numbers[0]) as (reader, caller, _):
        await caller.post("/jobs", json={"process_number": numbers[1]})
        await caller.wait_until_final(numbers[1])
        await caller.post("/jobs", json={"process_number": CASE})
        await caller.wait_until_final(CASE)
        before = await reader.get("/dashboard/failed")
        assert all(number in before.text for number in numbers)
        assert CASE not in before.text
        after = await reader.post("/dashboard/failed/retry")
        assert after.path == "/dashboard/failed?retried=2&left=0"
        async with world.db.connection() as conn:
            assert await conn.fetchval("select count(*) from jobs") == 5
        await world.until("select not exists (select from jobs where finished_at is null)")
        # Once more failed: each process is listed by its newest job alone.
        assert (await reader.get("/dashboard/failed")).text.count("<tr data-job=") == 2


async def test_what_cannot_be_tried_now_is_left_and_said(world: World) -> None:
    async with _fetched(world, SOME_FAIL) as (reader, caller, _):
        await caller.post("/jobs", json={"process_number": special_number(Special.HANGING)})
        async with world.db.connection() as conn:
            await conn.execute("update clients set max_active_jobs = 1")
        page = await reader.post("/dashboard/failed/retry")
    assert page.path == "/dashboard/failed?retried=0&left=1"
    assert "Could not be started now: 1." in page.text


async def test_a_webhook_is_looked_into_and_sent_again(world: World, receiver: Receiver) -> None:
    receiver.statuses, receiver.body = [410], "<b>too tired</b>"
    async with _fetched(world, CASE, webhook_url=f"{receiver.url}?token=s3cret") as (reader, caller, _):
        await world.until("select bool_and(status = 'dead') from deliveries")
        delivery = (await caller.get("/webhooks/deliveries")).json["items"][0]["id"]
        page = await reader.get(f"/dashboard/deliveries/{delivery}")
        assert page.text.count("&lt;b&gt;too tired&lt;/b&gt;") == 1
        assert "s3cret" not in page.text
        assert delivery in (await reader.get("/dashboard/failed")).text
        sent = await reader.post(f"/dashboard/deliveries/{delivery}/redeliver")
        assert sent.path == f"/dashboard/deliveries/{delivery}"
        await receiver.wait_for(2)
        await world.until("select bool_and(status = 'delivered') from deliveries")
        assert delivery in (await reader.get("/dashboard/deliveries?status=delivered")).text
        assert delivery not in (await reader.get("/dashboard/failed")).text


async def test_all_webhooks_that_were_given_up_are_sent_again(world: World, receiver: Receiver) -> None:
    receiver.statuses = [410]
    async with _fetched(world, CASE, webhook_url=receiver.url) as (reader, _, _):
        await world.until("select bool_and(status = 'dead') from deliveries")
        page = await reader.post("/dashboard/failed/redeliver")
        assert page.path == "/dashboard/failed?sent=1"
        await receiver.wait_for(2)
        async with world.db.connection() as conn:
            noted = await conn.fetchval("select action from audit_log order by id desc limit 1")
    assert noted == "deliveries.redelivered"


async def test_a_try_without_an_answer_says_what_came_of_it_in_the_readers_language(world: World) -> None:
    async with _fetched(world, CASE, webhook_url="http://127.0.0.1:9/") as (reader, caller, _):
        await world.until("select exists (select from delivery_attempts)")
        delivery = (await caller.get("/webhooks/deliveries")).json["items"][0]["id"]
        for path in (f"/dashboard/deliveries/{delivery}", "/dashboard/deliveries"):
            assert "the destination did not answer" in (await reader.get(path)).text
            assert "o destino não respondeu" in (await reader.get(path, **{"Accept-Language": "pt"})).text


async def test_a_form_names_an_endpoint_or_brings_a_url_and_never_both(api: World) -> None:
    caller = await api.caller()
    named, off = [
        (
            await caller.post("/webhooks/endpoints", json={"url": f"https://hooks.example.com/{one}?s3cret"})
        ).json["id"]
        for one in ("named", "off")
    ]
    await caller.call("PATCH", f"/webhooks/endpoints/{off}", json={"enabled": False})
    async with signed_in(api, caller.key) as reader:
        assert "that name it as their webhook_endpoint_id" in (await reader.get("/dashboard/endpoints")).text
        shown = await reader.get("/dashboard/submit")
        assert (named in shown.text, off in shown.text, "s3cret" in shown.text) == (True, False, False)
        form = {"numbers": CASE, "webhook_endpoint_id": named}
        both = await reader.post("/dashboard/submit", webhook_url="https://hooks.example.com/", **form)
        assert both.status == 422
        assert "give a URL or an endpoint, not both" in both.text
        assert f'value="{named}" selected' in both.text
        assert (await reader.post("/dashboard/submit", **form)).path.startswith("/dashboard/jobs/")
    async with api.db.connection() as conn:
        assert [str(row["endpoint_id"]) for row in await conn.fetch("select * from subscriptions")] == [named]


async def test_one_process_is_submitted_and_its_job_shown(world: World) -> None:
    caller = await world.caller()
    form = {"numbers": f" {CASE} \r\n", "reference": "by hand", "priority": "high"}
    async with signed_in(world, caller.key) as reader:
        page = await reader.post("/dashboard/submit", **form)
        assert page.path.startswith("/dashboard/jobs/")
    status = await caller.wait_until_final(CASE)
    assert (status["status"], status["reference"], status["priority"]) == ("completed", "by hand", "high")


async def test_many_processes_are_submitted_and_each_is_told_of(api: World) -> None:
    caller = await api.caller()
    async with signed_in(api, caller.key) as reader:
        page = await reader.post("/dashboard/submit", numbers=f"{CASE}\n{SOME_FAIL}\n\n1-2-3\n{CASE}")
    assert page.status == 200
    assert page.text.count('<a href="/dashboard/jobs/') == 2
    assert "Not a CNJ process number" in page.text


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"numbers": " \n "}, "Give at least one process number."),
        ({"numbers": "\n".join(str(one) for one in range(101))}, "100 numbers at most"),
        ({"numbers": "1-2-3"}, "Not a CNJ process number"),
        ({"numbers": CASE, "priority": "urgent"}, "The request is invalid"),
        ({"numbers": CASE, "webhook_url": "ftp://x"}, "The request is invalid"),
    ],
)
async def test_a_form_that_cannot_be_met_says_so_and_keeps_what_was_written(
    api: World, fields: dict[str, str], said: str
) -> None:
    caller = await api.caller()
    async with signed_in(api, caller.key) as reader:
        page = await reader.post("/dashboard/submit", reference="mine", **fields)
    assert page.status == 422
    assert said in page.text
    assert 'value="mine"' in page.text
    async with api.db.connection() as conn:
        assert await conn.fetchval("select count(*) from jobs") == 0


async def test_an_endpoint_is_made_stopped_and_deleted(api: World) -> None:
    caller = await api.caller()
    url = "https://hooks.example.com/autos?token=s3cret"
    async with signed_in(api, caller.key) as reader:
        form = {"url": url, "description": "ours", "event:job.failed": "on"}
        made = await reader.post("/dashboard/endpoints", **form)
        (secret,) = re.findall(r"whsec_[A-Za-z0-9+/=]+", made.text)
        (endpoint,) = (await caller.get("/webhooks/endpoints")).json["items"]
        assert endpoint["events"] == ["job.failed"]
        shown = await reader.get("/dashboard/endpoints")
        assert secret not in shown.text
        assert "s3cret" not in made.text + shown.text
        at = f"/dashboard/endpoints/{endpoint['id']}"
        assert "by_hand" in (await reader.post(f"{at}/disable")).text
        assert "by_hand" not in (await reader.post(f"{at}/enable")).text
        assert endpoint["id"] not in (await reader.post(f"{at}/delete")).text


@pytest.mark.parametrize("url", ["", "http://hooks.example.com/", "https://10.0.0.1/"])
async def test_an_endpoint_that_may_not_be_is_refused_in_the_form(
    empty: None, make_settings: MakeSettings, url: str
) -> None:
    async with open_world(make_settings(webhook_allow_private=False), with_worker=False) as api:
        caller = await api.caller()
        async with signed_in(api, caller.key) as reader:
            page = await reader.post("/dashboard/endpoints", url=url, **{"event:job.failed": "on"})
    assert page.status == 422
    assert 'role="alert"' in page.text


async def test_a_document_is_framed_from_the_store_or_sent_where_it_can_do_nothing(world: World) -> None:
    async with _fetched(world) as (reader, caller, _):
        documents = (await caller.get(f"/processes/{CASE}/files")).json["documents"]
        by_type = {one["mime_type"]: one for one in documents}
        pdf = f"/dashboard/documents/{by_type['application/pdf']['id']}"
        page = await reader.get(pdf)
        store = urlsplit(world.settings.s3_endpoint_url or "")
        origin = f"{store.scheme}://{store.netloc}"
        assert f'src="{pdf}/preview" ref' in page.text
        assert f"frame-src 'self' {origin};" in page.headers["Content-Security-Policy"]
        async with reader.http.get(f"{world.base_url}{pdf}/preview", allow_redirects=False) as framed:
            assert framed.headers["Location"].startswith(f"{origin}/")
            assert "inline%3B" in framed.headers["Location"]
        html = by_type["text/html"]["id"]
        assert (
            f'src="/dashboard/documents/{html}/preview" sandbox=""'
            in (await reader.get(f"/dashboard/documents/{html}")).text
        )
        sent = await reader.get(f"/dashboard/documents/{html}/preview")
    assert sent.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    assert sent.headers["Content-Type"].startswith("text/html")


async def test_no_answer_to_head_has_a_body(world: World) -> None:
    """Whoever keeps his connection would take it for the beginning of the next answer."""
    async with _fetched(world) as (reader, caller, job_id):
        documents = (await caller.get(f"/processes/{CASE}/files")).json["documents"]
        html = next(one["id"] for one in documents if one["mime_type"] == "text/html")
        cookies = reader.http.cookie_jar.filter_cookies(URL(world.base_url))
        headers = f"X-API-Key: {caller.key}\r\n{cookies.output(header='Cookie:')}"
        ids = {"number": CASE, "job_id": job_id, "document_id": html}
        for path in sorted({one.canonical for one in create_app(world.settings).router.resources()}):
            asked = re.sub(r"\{(\w+)\}", lambda found: ids.get(found[1], str(UUID(int=0))), path)
            status, body = await _head(world.base_url, asked, headers)
            assert (body, status < 500) == (b"", True), asked


async def _head(base_url: str, path: str, headers: str) -> tuple[int, bytes]:
    """Send a HEAD, and return what comes after the headers until the connection is closed."""
    at = urlsplit(base_url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    request = f"HEAD {path} HTTP/1.1\r\nHost: {at.netloc}\r\nConnection: close\r\n{headers}\r\n\r\n"
    writer.write(request.encode())
    async with asyncio.timeout(30):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body


async def test_a_preview_that_cannot_be_had_is_told_in_its_frame(world: World) -> None:
    async with _fetched(world) as (reader, caller, _):
        documents = (await caller.get(f"/processes/{CASE}/files")).json["documents"]
        by_type = {one["mime_type"]: one["id"] for one in documents}
        html, pdf = (
            f"/dashboard/documents/{by_type[one]}/preview" for one in ("text/html", "application/pdf")
        )
        async with world.db.connection() as conn:
            await conn.execute("update documents set object_key = object_key || '.gone'")
        told = [await reader.get(one) for one in (html, pdf, html)]
    # The first look notes that the file is missing.
    assert [one.status for one in told] == [410, 410, 409]
    for page in told:
        assert page.headers["X-Frame-Options"] == "SAMEORIGIN"
        assert page.headers["Content-Security-Policy"].endswith("frame-ancestors 'self'")
        assert 'role="alert"' in page.text
        assert not re.search("<script|<nav|<form|<a ", page.text)
    assert "The file of the document is gone" in told[0].text


async def test_a_store_that_is_away_is_told_in_the_frame_and_loses_no_document(
    world: World, make_settings: MakeSettings
) -> None:
    async with _fetched(world) as (_, caller, _):
        documents = (await caller.get(f"/processes/{CASE}/files")).json["documents"]
        html = next(one["id"] for one in documents if one["mime_type"] == "text/html")
        astray = make_settings(s3_endpoint_url="http://127.0.0.1:9")
        async with open_world(astray, with_worker=False) as other, signed_in(other, caller.key) as reader:
            page = await reader.get(f"/dashboard/documents/{html}/preview")
    assert (page.status, page.headers["X-Frame-Options"]) == (503, "SAMEORIGIN")
    assert "The service is unavailable for a moment" in page.text


async def test_an_alert_that_goes_on_is_the_same_text_however_long_it_goes_on(api: World) -> None:
    """Where anything of an alert changes, screen readers read it out again."""
    caller = await api.caller()
    await until(lambda: bool(api.pulses.history))
    alerts, waits = set[str](), set[str]()
    async with signed_in(api, caller.key) as reader:
        for oldest_s in (700.0, 900.0):
            api.pulses.history.append(replace(api.pulses.history[-1], oldest_job_s=oldest_s))
            text = (await reader.get("/")).text
            alerts |= set(re.findall(r'<div id="doubts" data-live>(.*?)</div>', text, re.DOTALL))
            waits |= set(re.findall(r'<div id="longest-wait" data-live>(.*?)</div>', text, re.DOTALL))
    assert len(alerts) == 1
    assert "have waited long for a worker." in alerts.pop()
    assert len(waits) == 2


async def test_what_is_too_secret_is_neither_framed_nor_sent(world: World) -> None:
    async with _fetched(world) as (reader, caller, job_id):
        document = (await caller.get(f"/processes/{CASE}/files")).json["documents"][0]["id"]
        async with world.db.connection() as conn:
            await conn.execute("update documents set secrecy_level = 1 where id = $1", document)
        for path in ("", "/content", "/preview"):
            assert (await reader.get(f"/dashboard/documents/{document}{path}")).status == 403
        page = await reader.get(f"/dashboard/jobs/{job_id}")
    assert "too secret for you" in page.text
    assert f"/dashboard/documents/{document}" not in page.text


async def test_the_language_is_the_browsers_until_another_is_chosen(api: World) -> None:
    caller = await api.caller()
    async with signed_in(api, caller.key) as reader:
        assert '<html lang="en">' in (await reader.get("/")).text
        portuguese = await reader.get("/", **{"Accept-Language": "pt-BR,pt;q=0.9,en;q=0.5"})
        assert '<html lang="pt-BR">' in portuguese.text
        assert "Visão geral" in portuguese.text
        chosen = await reader.post("/dashboard/language", language="pt-BR", next="/dashboard/jobs")
        assert chosen.path == "/dashboard/jobs"
        assert "Tarefas" in chosen.text
        assert "Tarefas" in (await reader.get("/dashboard/jobs")).text


async def test_one_stream_tells_a_page_of_all_jobs(world: World) -> None:
    caller = await world.caller()
    async with (
        signed_in(world, caller.key) as reader,
        asyncio.timeout(30),
        reader.http.get(f"{world.base_url}/dashboard/events") as stream,
    ):
        assert stream.content_type == "text/event-stream"
        await caller.post("/jobs", json={"process_number": CASE})
        told = b""
        while b'"status":"completed"' not in told:
            told += await stream.content.readany()
    assert b"event: job" in told
