"""The operator's commands, run as the operator runs them."""

import argparse
import asyncio
import csv
import io
import json
import os
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from service.commands import add_commands
from service.core import accesses, audit, clients, signing, signing_secrets
from service.core.db import SCHEMA_VERSION
from service.core.errors import SecretUnreadableError
from service.core.key_ring import KeyRing, new_key
from service.core.settings import Settings
from tests.cases import case_numbers
from tests.conftest import MakeSettings
from tests.databases import clock_apart, new_database
from tests.erasures import ERASER, erased
from tests.faults.children import ROOT, environment
from tests.rings import RING, SECRET_KEYS, secret_of
from tests.world import Caller, World

CASE = "1003579-22.2025.8.26.0564"


@dataclass(frozen=True)
class Ran:
    """A command that ended."""

    status: int
    out: str
    err: str


async def run(settings: Settings, *arguments: str) -> Ran:
    """Run `python -m service` with arguments to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service",
        *arguments,
        env=environment(settings),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


def _shown(ran: Ran) -> dict[str, str]:
    return {name: value.strip() for name, value in (line.split(":", 1) for line in ran.out.splitlines())}


async def test_a_new_key_is_shown_once_and_works(api: World) -> None:
    created = await run(api.settings, "keys", "create", "--client", "acme")
    shown = _shown(created)
    assert (created.status, shown["client"]) == (0, "acme")
    assert len(signing.parse_secret(shown["signing secret"])) == 32
    client = (await api.caller("acme")).client
    caller = Caller(api.base_url, api.http, shown["api key"], client)
    assert (await caller.get(f"/processes/{CASE}")).status == 200
    listed = await run(api.settings, "keys", "list")
    assert shown["api key"] not in listed.out
    assert shown["api key"][-4:] in listed.out


async def test_a_key_ends_by_the_databases_clock(
    api: World, database_url: str, make_settings: MakeSettings
) -> None:
    async with clock_apart(database_url, hours=48) as url:
        settings = make_settings(database_url=url)
        assert (await run(settings, "keys", "create", "--client", "acme", "--expires-days", "1")).status == 0
    async with api.db.connection() as conn:
        left = await conn.fetchval("select expires_at - now() from api_keys")
    assert left > timedelta(days=2)


async def test_a_second_key_of_a_client_leaves_its_signing_secret_as_it_is(api: World) -> None:
    first = _shown(await run(api.settings, "keys", "create", "--client", "acme"))
    second = _shown(await run(api.settings, "keys", "create", "--client", "acme"))
    assert "signing secret" not in second
    assert first["api key"] != second["api key"]
    async with api.db.connection() as conn:
        client, new_secret = await clients.ensure(conn, RING, "acme")
        assert signing.show_secret(await secret_of(conn, client.id)) == first["signing secret"]
    assert new_secret is None


async def test_a_given_key_may_be_given_twice(api: World) -> None:
    arguments = ("keys", "create", "--client", "acme", "--key", "autos_sandbox_key")
    secret = signing.show_secret(signing.new_secret())
    for _ in range(2):
        created = await run(api.settings, *arguments, "--webhook-secret", secret)
        assert (created.status, _shown(created)["signing secret"]) == (0, secret)


async def test_a_key_that_is_there_keeps_its_end_and_that_is_shown(api: World) -> None:
    arguments = ("keys", "create", "--client", "acme", "--key", "autos_sandbox_key")
    assert _shown(await run(api.settings, *arguments))["ends"] == "never"
    assert _shown(await run(api.settings, *arguments, "--expires-days", "1"))["ends"] == "never"


@pytest.mark.parametrize(
    ("client", "key", "words"),
    [
        ("other", "autos_sandbox_key", "belongs to another client or was revoked"),
        ("acme", "autos_live_mistyped_key", "its checksum is wrong"),
        ("acme", "chave-de-ação", "not ASCII"),
    ],
)
async def test_a_key_that_could_not_work_is_refused(api: World, client: str, key: str, words: str) -> None:
    await run(api.settings, "keys", "create", "--client", "acme", "--key", "autos_sandbox_key")
    refused = await run(api.settings, "keys", "create", "--client", client, "--key", key)
    assert (refused.status, refused.out) == (1, "")
    assert words in refused.err
    assert key not in refused.err


async def test_a_revoked_key_cannot_be_given_again(api: World) -> None:
    arguments = ("keys", "create", "--client", "acme", "--key", "autos_sandbox_key")
    await run(api.settings, *arguments)
    async with api.db.connection() as conn:
        (key,) = await clients.list_keys(conn)
    await run(api.settings, "keys", "revoke", key.id)
    assert (await run(api.settings, *arguments)).status == 1


async def test_the_use_of_a_key_is_noted_once_a_minute(api: World) -> None:
    caller = await api.caller()
    used = []
    for _ in range(2):
        await caller.get(f"/processes/{CASE}/status")
        async with api.db.connection() as conn:
            used.append((await clients.list_keys(conn))[0].last_used_at)
    assert used[0] is not None
    assert used[0] == used[1]
    async with api.db.connection() as conn:
        await conn.execute("update api_keys set last_used_at = last_used_at - interval '61 s'")
        await clients.authenticate_many(conn, [clients.hash_key(caller.key)])
        (key,) = await clients.list_keys(conn)
    assert key.last_used_at
    assert key.last_used_at >= used[0]


async def test_a_revoked_key_is_worthless_at_once(api: World) -> None:
    caller = await api.caller()
    async with api.db.connection() as conn:
        (key,) = await clients.list_keys(conn)
    assert (await run(api.settings, "keys", "revoke", key.id)).status == 0
    assert (await caller.get(f"/processes/{CASE}")).status == 401
    again = await run(api.settings, "keys", "revoke", key.id)
    assert (again.status, again.err) == (1, f"autos: no live key has the id {key.id}\n")


async def test_a_rotated_key_has_the_scopes_of_the_old_one_which_goes_on_for_its_grace(api: World) -> None:
    made = await run(api.settings, "keys", "create", "--client", "acme", "--scopes", "read")
    old = Caller(api.base_url, api.http, _shown(made)["api key"], (await api.caller("acme")).client)
    key_id = old.key.split("_")[2]
    for grace_hours, status in (("1", 200), ("0", 401)):
        rotated = await run(api.settings, "keys", "rotate", key_id, "--grace-hours", grace_hours)
        new = Caller(api.base_url, api.http, _shown(rotated)["api key"], old.client)
        assert (await new.get("/jobs")).status == 200
        assert (await new.post("/jobs", json={"process_number": CASE})).status == 403
        assert (await old.get("/jobs")).status == status
    again = await run(api.settings, "keys", "rotate", key_id)
    assert (again.status, again.err) == (1, f"autos: no live key has the id {key_id}\n")
    listed = (await run(api.settings, "keys", "list")).out
    assert sum("expired" in line for line in listed.splitlines()) == 1


async def test_a_rotated_key_ends_when_the_old_one_would_have_unless_it_is_said_otherwise(api: World) -> None:
    made = await run(api.settings, "keys", "create", "--client", "acme", "--expires-days", "1")
    key_id = _shown(made)["api key"].split("_")[2]
    rotated = await run(api.settings, "keys", "rotate", key_id, "--grace-hours", "1")
    longer = await run(api.settings, "keys", "rotate", key_id, "--expires-days", "90")
    async with api.db.connection() as conn:
        ends = {one.id: one.expires_at for one in await clients.list_keys(conn)}
    for ran, days in ((rotated, 1), (longer, 90)):
        shown = _shown(ran)
        ends_at = ends[shown["api key"].split("_")[2]]
        assert ends_at
        assert timedelta(days - 0.1) < ends_at - datetime.now(UTC) < timedelta(days)
        assert shown["ends"] == f"{ends_at:%Y-%m-%d %H:%M}"


async def test_a_clients_limits_are_set_shown_and_taken_away(api: World) -> None:
    await api.caller("acme")
    limited = await run(api.settings, "clients", "limit", "acme", "--requests-per-minute", "60")
    assert limited.out == (
        "acme                 requests a minute: 60  active jobs: 20000 (default)"
        "  secrecy up to: 0 (default)\n"
    )
    await run(api.settings, "clients", "limit", "acme", "--max-active-jobs", "7")
    assert (await run(api.settings, "clients", "list")).out == (
        "acme                 requests a minute: 6000 (default)  active jobs: 7  secrecy up to: 0 (default)\n"
    )
    unknown = await run(api.settings, "clients", "limit", "nobody")
    assert (unknown.status, unknown.err) == (1, "autos: there is no client nobody\n")


async def test_a_clients_secrecy_is_set_and_taken_away_and_stays_when_limits_change(api: World) -> None:
    await api.caller("acme")
    shown = await run(api.settings, "clients", "secrecy", "acme", "3")
    assert shown.out.endswith("secrecy up to: 3\n")
    shown = await run(api.settings, "clients", "limit", "acme")
    assert shown.out.endswith("secrecy up to: 3\n")
    shown = await run(api.settings, "clients", "secrecy", "acme", "default")
    assert shown.out.endswith("secrecy up to: 0 (default)\n")
    unknown = await run(api.settings, "clients", "secrecy", "nobody", "0")
    assert (unknown.status, unknown.err) == (1, "autos: there is no client nobody\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("keys", "create", "--client", "acme", "--scopes", "admin"),
        ("keys", "create", "--client", "acme", "--expires-days", "0"),
        ("keys", "create", "--client", "acme", "--expires-days", "-5"),
        ("keys", "create", "--client", "acme", "--expires-days", "99999999"),
        ("keys", "rotate", "id", "--expires-days", "0"),
        ("keys", "rotate", "id", "--grace-hours", "-1"),
        ("clients", "limit", "acme", "--max-active-jobs", "0"),
        ("clients", "secrecy", "acme", "6"),
    ],
)
def test_an_option_out_of_range_is_refused_in_words(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    add_commands(parser)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(arguments)
    assert ended.value.code == 2
    assert "should be" in capsys.readouterr().err


async def test_the_schema_is_made_once_however_many_make_it(
    make_settings: MakeSettings, postgres_url: str
) -> None:
    name = f"autos_test_{uuid4().hex[:12]}"
    admin = await asyncpg.connect(postgres_url)
    await admin.execute(f"create database {name}")
    try:
        url = urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
        settings = make_settings(database_url=url)
        refused = await run(settings)
        assert (refused.status, "python -m service db upgrade" in refused.err) == (1, True)
        ran = await asyncio.gather(*(run(settings, "db", "upgrade") for _ in range(3)))
        assert [one.status for one in ran] == [0, 0, 0]
        assert sorted(one.out for one in ran)[0] == f"schema version {SCHEMA_VERSION} created\n"
    finally:
        await admin.execute(f"drop database {name} with (force)")
        await admin.close()


async def test_a_database_that_is_away_is_one_clear_line_without_its_password(
    make_settings: MakeSettings,
) -> None:
    away = make_settings(database_url="postgresql://autos:hidden@127.0.0.1:1/autos")
    for arguments in ([], ["keys", "list"], ["db", "upgrade"]):
        ran = await run(away, *arguments)
        assert ran.status == 1
        assert ran.err.startswith("autos: ")
        assert len(ran.err.splitlines()) == 1
        assert "hidden" not in ran.err


async def test_the_status_of_the_database_says_what_it_holds_and_what_waits(
    api: World, make_settings: MakeSettings
) -> None:
    caller = await api.caller()
    await caller.post("/jobs/batch", json={"process_numbers": case_numbers(3)})
    async with api.db.connection() as conn:
        await conn.execute("analyze jobs")
        await conn.execute(
            "update jobs set next_attempt_at = now() + interval '1 h' where process_number like '1000002%'"
        )
        await conn.execute(
            "update jobs set next_attempt_at = now() - interval '90 s' where process_number like '1000001%'"
        )
    shown = await run(api.settings, "db", "status")
    assert (shown.status, shown.err) == (0, "")
    assert f"schema version:  {SCHEMA_VERSION} (this is for {SCHEMA_VERSION})" in shown.out
    assert re.search(r"^jobs: +about 3 rows, 0\.\d MB$", shown.out, re.MULTILINE)
    waiting = r"^pending jobs: +3 \(2 due; the oldest of those: for (\d+) s\)$"
    pending = re.search(waiting, shown.out, re.MULTILINE)
    assert pending
    assert int(pending[1]) >= 90
    assert re.search(r"^processing jobs: 0$", shown.out, re.MULTILINE)


async def test_the_status_of_a_database_with_another_schema_ends_with_1(
    make_settings: MakeSettings, postgres_url: str
) -> None:
    async with new_database(postgres_url, name="autos_test") as url:
        conn = await asyncpg.connect(url)
        for change, words in (
            ("update schema_version set version = 999, serves_from = 999", "schema version:  999"),
            ("drop schema public cascade; create schema public", "schema version:  none"),
        ):
            await conn.execute(change)
            shown = await run(make_settings(database_url=url), "db", "status")
            assert (shown.status, words in shown.out) == (1, True)
            assert "run `python -m service db upgrade`" in shown.err
        await conn.close()


async def test_settings_that_cannot_be_read_are_named_without_their_values(settings: Settings) -> None:
    for arguments in ([], ["keys", "list"], ["status", CASE]):
        ran = await run(settings.model_copy(update={"port": "hidden", "log_json": "hidden"}), *arguments)
        assert ran.status == 1
        first, second = ran.err.splitlines()
        assert first.startswith("autos: AUTOS_PORT: Input should be a valid integer")
        assert second.startswith("autos: AUTOS_LOG_JSON: Input should be a valid boolean")
        assert "hidden" not in ran.err


async def test_whoever_closes_our_output_is_told_nothing_more(settings: Settings) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service",
        "secrets",
        "new-key",
        env=environment(settings),
        cwd=ROOT,
        stdout=write_end,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(write_end)
    _, err = await process.communicate()
    assert (process.returncode, err) == (1, b"")


async def test_a_clients_signing_secret_is_replaced_and_the_old_one_signs_for_a_while(api: World) -> None:
    client = (await api.caller("acme")).client
    shown = _shown(await run(api.settings, "clients", "rotate-secret", "acme", "--grace-hours", "48"))
    async with api.db.connection() as conn:
        live = await signing_secrets.list_live(conn, RING, client.id)
        assert signing.show_secret(live[0]) == shown["signing secret"]
        assert len(live) == 2
        left = await conn.fetchval("select max(expires_at) - now() from signing_secrets")
    assert timedelta(hours=47) < left <= timedelta(hours=48)
    audited = await run(api.settings, "audit", "--client", "acme")
    assert "client.secret_rotated" in audited.out
    assert shown["signing secret"] not in audited.out
    assert (await run(api.settings, "audit", "--client", "nobody")).out == ""
    assert (await run(api.settings, "clients", "rotate-secret", "nobody")).status == 1


async def test_secrets_are_sealed_anew_when_the_first_key_changes(
    api: World, make_settings: MakeSettings
) -> None:
    client = (await api.caller("acme")).client
    new = (await run(api.settings, "secrets", "new-key")).out.strip()
    both = make_settings(secret_keys=f"{new},{SECRET_KEYS}")
    assert "1 secrets sealed" in (await run(both, "secrets", "seal")).out
    assert "0 secrets sealed" in (await run(both, "secrets", "seal")).out
    async with api.db.connection() as conn:
        alone = KeyRing(make_settings(secret_keys=new).key_ring)
        assert len(await signing_secrets.list_live(conn, alone, client.id)) == 1
        with pytest.raises(SecretUnreadableError):
            await signing_secrets.list_live(conn, RING, client.id)
    refused = await run(make_settings(secret_keys=None), "secrets", "seal")
    assert (refused.status, "AUTOS_SECRET_KEYS is not set" in refused.err) == (1, True)


async def test_a_secret_that_is_given_again_is_not_replaced_and_an_unreadable_one_is(
    api: World, make_settings: MakeSettings
) -> None:
    """As a sandbox does at each start; its folder, with the key, may be gone while the database is not."""
    secret = signing.show_secret(signing.new_secret())
    arguments = (
        "keys",
        "create",
        "--client",
        "acme",
        "--key",
        "autos_sandbox_key",
        "--webhook-secret",
        secret,
    )
    lost = make_settings(secret_keys=new_key())
    for settings, rows in ((lost, 1), (lost, 1), (api.settings, 1), (api.settings, 1)):
        assert _shown(await run(settings, *arguments))["signing secret"] == secret
        async with api.db.connection() as conn:
            assert await conn.fetchval("select count(*) from signing_secrets") == rows
    async with api.db.connection() as conn:
        client_id = await conn.fetchval("select id from clients")
        assert signing.show_secret(await secret_of(conn, client_id)) == secret


async def test_a_receipt_says_which_process_it_is_about_to_who_knows_it(
    api: World, capsys: pytest.CaptureFixture[str]
) -> None:
    caller = await api.caller(scopes=ERASER)
    await caller.post("/jobs", json={"process_number": CASE})
    erasure_id = str(await erased(caller, CASE))
    under_way = await run(api.settings, "erasures", "check", erasure_id, CASE)
    assert (under_way.status, "files may be left" in under_way.out) == (1, True)

    async def ran(*arguments: str) -> tuple[int, str]:
        """Run a command in this process, which is quicker."""
        parser = argparse.ArgumentParser()
        add_commands(parser)
        asked = parser.parse_args(arguments)
        return await asked.run(api.settings, asked) or 0, capsys.readouterr().out

    async with api.db.connection() as conn:
        await conn.execute("update erasures set quiet_at = now(), finished_at = now(), process_number = null")
    status, out = await ran("erasures", "check", erasure_id, CASE)
    assert (status, out.partition(",")[0]) == (0, "this receipt is about the process: 1 jobs")
    other = await ran("erasures", "check", erasure_id, case_numbers(1)[0])
    assert other == (1, "this receipt is about another process\n")
    _, listed = await ran("erasures", "list")
    assert (erasure_id in listed, CASE[:7] in listed) == (True, False)


async def test_both_logs_are_exported_from_the_first_entry_to_the_last(
    api: World, capsys: pytest.CaptureFixture[str]
) -> None:
    caller = await api.caller("acme")
    document_id, other = uuid4(), (await api.caller("other")).client.id
    async with api.db.connection() as conn:
        await audit.note(
            conn, caller.client.id, "endpoint.created", key_id="k1", details={"url": "https://a/"}
        )
        await conn.executemany(
            """insert into accesses (at, client_id, key_id, action, subject, documents, request_id)
               values ($1::timestamptz, $2, $3, 'document.content', $4, 1, 'r,"1')""",
            [
                (datetime(2026, 3, day, 12, tzinfo=UTC), client_id, caller.key.split("_")[2], document_id)
                for day, client_id in ((1, caller.client.id), (2, other), (3, caller.client.id))
            ],
        )
    export = ("audit", "--export", "--accesses")
    whole = await run(api.settings, *export)
    assert (whole.status, whole.err) == (0, "")
    lines = [json.loads(line) for line in whole.out.splitlines()]
    assert [(one["at"], one["client"], one["key_client"]) for one in lines] == [
        ("2026-03-01T12:00:00Z", "acme", "acme"),
        ("2026-03-02T12:00:00Z", "other", "acme"),
        ("2026-03-03T12:00:00Z", "acme", "acme"),
    ]

    async def said(*arguments: str) -> str:
        parser = argparse.ArgumentParser()
        add_commands(parser)
        parsed = parser.parse_args(arguments)
        await parsed.run(api.settings, parsed)
        return capsys.readouterr().out

    between = ("--since", "2026-03-02T12:00:00Z", "--until", "2026-03-03T12:00:00Z", "--format", "csv")
    names, *rows = csv.reader(io.StringIO(await said(*export, *between)))
    assert tuple(names) == accesses.EXPORTED
    assert [dict(zip(names, row, strict=True))["at"] for row in rows] == ["2026-03-02T12:00:00+00:00"]
    assert rows[0][-1] == 'r,"1'
    assert len((await said(*export, "--client", "other")).splitlines()) == 1
    log = json.loads(await said("audit", "--export"))
    assert (log["action"], log["details"]) == ("endpoint.created", {"url": "https://a/"})
    assert f"document.content   {document_id}" in await said("audit", "--accesses", "--limit", "1")
    with pytest.raises(SystemExit):
        await said("audit", "--export", "--since", "yesterday")
