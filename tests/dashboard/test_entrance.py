"""The entrance: who has no live key sees nothing, and nobody acts with another's session."""

import asyncio

import aiohttp
import pytest

from service.core import clients
from tests.conftest import MakeSettings
from tests.dashboard.reader import OPERATOR, add_key, open_reader, signed_in
from tests.log_lines import log_lines
from tests.world import World, open_world

PAGES = (
    "/",
    "/dashboard/jobs",
    "/dashboard/jobs/00000000-0000-0000-0000-000000000000",
    "/dashboard/failed",
    "/dashboard/deliveries",
    "/dashboard/endpoints",
    "/dashboard/submit",
    "/dashboard/events",
)
FORMS = ("/dashboard/submit", "/dashboard/failed/retry", "/dashboard/look-as", "/logout")


@pytest.mark.parametrize("path", PAGES)
async def test_who_is_not_signed_in_is_led_to_the_entrance_and_back(api: World, path: str) -> None:
    caller = await api.caller()
    async with open_reader(api.base_url) as reader:
        entrance = await reader.get(path)
        assert entrance.path.startswith("/login")
        if path == "/dashboard/events":
            return  # a stream, which has no end to wait for
        target = entrance.path.partition("next=")[2] or "/"
        assert (await reader.sign_in(caller.key, to=target.replace("%2F", "/"))).path == path


@pytest.mark.parametrize("path", FORMS)
async def test_who_is_not_signed_in_can_do_nothing(api: World, path: str) -> None:
    async with open_reader(api.base_url) as reader:
        assert (await reader.post(path)).path.startswith("/login")


@pytest.mark.parametrize("key", ["", "autos_live_no_such_key", "nonsense", "sch\u00f6n"])
async def test_what_is_no_key_is_refused_and_never_shown_again(api: World, key: str) -> None:
    async with open_reader(api.base_url) as reader:
        page = await reader.sign_in(key)
    assert page.status == 401
    assert 'role="alert"' in page.text
    assert not key or key not in page.text
    assert "Set-Cookie" not in page.headers


async def test_a_key_that_may_not_look_opens_nothing(api: World) -> None:
    await api.caller()
    key = await add_key(api, "acme", "write")
    async with open_reader(api.base_url) as reader:
        assert (await reader.sign_in(key)).status == 401


async def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(api: World) -> None:
    caller = await api.caller()
    async with aiohttp.ClientSession() as http:
        form, origin = {"key": caller.key}, {"Origin": api.base_url}
        async with http.post(
            f"{api.base_url}/login", data=form, headers=origin, allow_redirects=False
        ) as answer:
            assert answer.status == 303
            cookie = answer.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
    assert caller.key not in cookie
    async with api.db.connection() as conn:
        token = cookie.partition("=")[2].partition(";")[0]
        assert await conn.fetchval(
            "select count(*) from sessions where token_sha256 = sha256($1)", token.encode()
        )


async def test_over_tls_the_cookie_belongs_to_this_host_alone(
    empty: None, make_settings: MakeSettings
) -> None:
    settings = make_settings(public_url="https://autos.example.com")
    async with open_world(settings, with_worker=False) as api, aiohttp.ClientSession() as http:
        caller = await api.caller()
        form, origin = {"key": caller.key}, {"Origin": api.base_url}
        async with http.post(
            f"{api.base_url}/login", data=form, headers=origin, allow_redirects=False
        ) as answer:
            cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("__Host-")
    assert {"Secure", "HttpOnly", "Path=/"} <= set(cookie.split("; "))


@pytest.mark.parametrize(
    "target", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/\tx"]
)
async def test_the_entrance_leads_to_pages_of_ours_only(api: World, target: str) -> None:
    caller = await api.caller()
    async with open_reader(api.base_url) as reader:
        page = await reader.sign_in(caller.key, to=target)
    assert (page.status, page.path) == (200, "/")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
@pytest.mark.parametrize("path", ["/login", *FORMS])
async def test_a_form_of_another_site_does_nothing(api: World, path: str, origin: str) -> None:
    caller = await api.caller()
    async with signed_in(api, caller.key) as reader:
        assert (await reader.post(path, origin=origin, key=caller.key)).status == 403
        assert (await reader.get("/")).path == "/"  # still signed in


async def test_what_browsers_say_of_a_forms_site_goes_before_its_origin(api: World) -> None:
    caller = await api.caller()
    headers = {"Origin": api.base_url, "Sec-Fetch-Site": "cross-site"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{api.base_url}/login", data={"key": caller.key}, headers=headers) as answer,
    ):
        assert answer.status == 403


@pytest.mark.parametrize(
    "end",
    [
        "update api_keys set revoked_at = now()",
        "update api_keys set expires_at = now()",
        "update sessions set expires_at = now()",
        "delete from sessions",
    ],
)
async def test_a_session_ends_with_its_key_and_its_time(api: World, end: str) -> None:
    caller = await api.caller()
    async with signed_in(api, caller.key) as reader:
        assert (await reader.get("/dashboard/jobs")).path == "/dashboard/jobs"
        async with api.db.connection() as conn:
            await conn.execute(end)
        assert (await reader.get("/dashboard/jobs")).path.startswith("/login")


@pytest.mark.parametrize("end", ["revoke", "sign out", "look at another"])
async def test_a_stream_ends_soon_after_the_session_or_the_view_that_it_was_begun_in(
    empty: None, make_settings: MakeSettings, end: str
) -> None:
    async with open_world(make_settings(), with_worker=False, silence_s=0.05) as api:
        await api.caller("other")
        await api.caller("acme")
        key = await add_key(api, "acme", *OPERATOR)
        async with (
            signed_in(api, key) as reader,
            asyncio.timeout(30),
            reader.http.get(f"{api.base_url}/dashboard/events") as stream,
        ):
            for _ in range(3):
                await stream.content.readuntil(b":\n\n")
            match end:
                case "revoke":
                    async with api.db.connection() as conn:
                        await conn.execute("update api_keys set revoked_at = now()")
                case "sign out":
                    await reader.post("/logout")
                case _:
                    await reader.post("/dashboard/look-as", client="other")
            await stream.content.read()


async def test_who_signs_out_is_out_even_with_the_cookie(api: World) -> None:
    caller = await api.caller()
    async with signed_in(api, caller.key) as reader:
        (cookie,) = reader.http.cookie_jar
        assert (await reader.post("/logout")).path == "/login"
        reader.http.cookie_jar.update_cookies({cookie.key: cookie.value})
        assert (await reader.get("/")).path == "/login"


async def test_tries_at_the_entrance_are_counted(api: World) -> None:
    async with open_reader(api.base_url) as reader:
        statuses = [(await reader.sign_in("nonsense")).status for _ in range(70)]
        assert statuses[0] == 401
        assert statuses[-1] == 429
        # Who has a key is let in all the same, though he comes from the same address.
        assert (await reader.sign_in((await api.caller()).key)).status == 200


async def test_forms_count_against_the_limit_of_the_key(api: World) -> None:
    caller = await api.caller()
    async with api.db.connection() as conn:
        await conn.execute("update clients set requests_per_minute = 2")
    async with signed_in(api, caller.key) as reader:
        statuses = [(await reader.post("/dashboard/failed/retry")).status for _ in range(4)]
    assert (statuses[0], statuses[-1]) == (200, 429)


async def test_an_operator_takes_the_view_of_every_client(api: World) -> None:
    for name in ("acme", "other"):
        await api.caller(name)
    other = await api.caller("other")
    await other.post("/jobs", json={"process_number": "1003579-22.2025.8.26.0564", "reference": "theirs"})
    key = await add_key(api, "acme", *OPERATOR)
    async with signed_in(api, key) as reader:
        assert "theirs" not in (await reader.get("/dashboard/jobs")).text
        page = await reader.post("/dashboard/look-as", client="other", next="/dashboard/jobs")
        assert page.path == "/dashboard/jobs"
        assert "theirs" in page.text
        for name in ("nobody", "nobody\0", ""):
            assert (await reader.post("/dashboard/look-as", client=name)).status == 404


async def test_an_operator_who_looks_for_a_process_is_told_whose_it_is(api: World) -> None:
    number = "1003579-22.2025.8.26.0564"
    other = await api.caller("other")
    await other.post("/jobs", json={"process_number": number})
    await api.caller("acme")
    key = await add_key(api, "acme", *OPERATOR)
    async with signed_in(api, key) as reader:
        assert 'value="other"' in (await reader.get(f"/dashboard/jobs?q={number}")).text
    async with signed_in(api, await add_key(api, "acme", *clients.SCOPES)) as reader:
        assert "other" not in (await reader.get(f"/dashboard/jobs?q={number}")).text


async def test_nobody_else_takes_another_clients_view(api: World) -> None:
    await api.caller("other")
    caller = await api.caller("acme")
    async with signed_in(api, caller.key) as reader:
        assert (await reader.post("/dashboard/look-as", client="other")).status == 403
        async with api.db.connection() as conn:
            # Not even when it got into the session somehow.
            await conn.execute(
                "update sessions set client_id = (select id from clients where name = 'other')"
            )
        assert "acme" in (await reader.get("/")).text


async def test_a_cookie_that_is_none_of_ours_is_no_session_and_no_error(api: World) -> None:
    async with aiohttp.ClientSession() as http:
        headers = {"Cookie": "autos_session=abc\xff"}
        async with http.get(f"{api.base_url}/", headers=headers, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/login")


@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        ("application/x-www-form-urlencoded; charset=nonsense", 400),
        ("application/x-www-form-urlencoded; charset=unicode_escape", 400),
        ("multipart/form-data", 415),
        ("application/json", 415),
    ],
)
async def test_a_form_that_cannot_be_read_is_refused(api: World, media_type: str, status: int) -> None:
    headers = {"Origin": api.base_url, "Content-Type": media_type}
    async with aiohttp.ClientSession() as http:
        for path in ("/login", "/dashboard/language"):
            async with http.post(api.base_url + path, data=b"key=\xff", headers=headers) as answer:
                assert (answer.status, answer.content_type) == (status, "text/html")
                assert 'role="alert"' in await answer.text()


async def test_whoever_cannot_be_let_in_now_is_told_so_by_a_page(
    empty: None, make_settings: MakeSettings
) -> None:
    async with open_world(make_settings(max_requests=1), with_worker=False) as api:
        caller = await api.caller()
        async with open_reader(api.base_url) as reader:
            with api.load.taken():
                page = await reader.sign_in(caller.key)
            assert (page.status, page.headers["Content-Type"]) == (503, "text/html; charset=utf-8")
            assert "The service has too much to do for a moment" in page.text
            assert page.headers["Retry-After"]
            assert page.headers["X-Request-ID"] in page.text


async def test_a_defect_is_a_page_with_the_id_by_which_it_is_found_in_the_log(api: World) -> None:
    caller = await api.caller()
    async with api.db.connection() as conn:
        await conn.execute("alter table sessions rename to lost")
    try:
        with log_lines() as lines:
            async with open_reader(api.base_url) as reader:
                page = await reader.sign_in(caller.key)
    finally:
        async with api.db.connection() as conn:
            await conn.execute("alter table lost rename to sessions")
    assert (page.status, page.headers["Content-Type"]) == (500, "text/html; charset=utf-8")
    assert "A defect of ours; it was logged." in page.text
    assert page.headers["X-Request-ID"] in page.text
    (told,) = [one for one in lines if one["level"] == "ERROR"]
    assert told["request_id"] == page.headers["X-Request-ID"]


async def test_who_asked_for_a_file_is_led_to_the_page_of_its_document(api: World) -> None:
    """A browser lets no form lead to the store, and the one of the entrance would."""
    caller = await api.caller()
    document = "/dashboard/documents/00000000-0000-0000-0000-000000000000"
    async with open_reader(api.base_url) as reader:
        for path in (f"{document}/content", f"{document}/preview", f"{document}/content?x=/content"):
            assert (await reader.get(path)).path == f"/login?next={document}"
            assert (await reader.post("/dashboard/language", next=path)).path.startswith("/login")
        assert (await reader.sign_in(caller.key, to=f"{document}/content")).path == document
        assert (await reader.sign_in(caller.key, to="/dashboard/jobs?q=/content")).path.startswith(
            "/dashboard/jobs?q="
        )


async def test_pages_let_browsers_tell_the_origin_of_their_forms(api: World) -> None:
    async with open_reader(api.base_url) as reader:
        assert (await reader.get("/login")).headers["Referrer-Policy"] == "same-origin"
