"""The doctor: nothing wrong in a world that is well, and one thing after the other broken."""

import asyncio
import base64
import contextlib
import io
import json
import shlex
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from service.checkup.database import judge_clock
from service.checkup.findings import Check, Findings, ok
from service.checkup.host import check_webhooks
from service.checkup.portal import end_of_token, judge_end
from service.checkup.run import run
from service.checkup.storage import PREFIX
from service.core.key_ring import new_key
from service.core.settings import Settings
from service.sandbox.redis import open_redis
from tests.cli.front import open_front
from tests.conftest import MakeSettings
from tests.core.s3_servers import error
from tests.core.sso import HUSH, open_sso
from tests.databases import new_database
from tests.faults.children import ROOT, environment
from tests.s3 import open_client
from tests.world import World
from worker.janitor import PREFIX as SWEPT

NAMES = (
    "settings", "database", "schema", "clock", "connections", "pooler", "secrets", "redis", "redis memory",
    "redis scripts", "encryption", "bucket", "bucket write", "bucket encryption", "links", "bucket list",
    "bucket delete",
    "portal token", "portal", "public url", "open files", "webhooks", "retention", "secrecy",
)  # fmt: skip
AWAY = "127.0.0.1:1"
DATABASE = f"postgresql://me:hidden@{AWAY}/x"
LAKE = {
    "source_by_court": ("4.04=data_lake",),
    "data_lake_url": f"http://{AWAY}",
    "data_lake_token": "hidden",
}


class Found:
    """What the doctor said, by the name of each finding."""

    def __init__(self, status: int, out: str) -> None:
        self.status = status
        self.out = out
        self.findings: dict[str, tuple[str, str]] = {}
        for line in out.splitlines():
            said, words = line.split(": ", 1)
            verdict, name = said.split(None, 1)
            self.findings[name] = (verdict, words)

    def named(self, verdict: str) -> set[str]:
        """The names of the findings with a verdict."""
        return {name for name, (found, _) in self.findings.items() if found == verdict}


async def doctor(settings: Settings) -> Found:
    """Look at everything, as `python -m service doctor` does."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = await run(settings)
    return Found(status, out.getvalue())


async def doctor_program(settings: Settings, *, before: str = "", **environ: str) -> Found:
    """Run the program itself.

    Args:
        before: what the shell does before.
    """
    command = f"{before} exec {shlex.join([sys.executable, '-m', 'service', 'doctor'])}"
    process = await asyncio.create_subprocess_shell(
        command,
        env={**environment(settings), **environ},
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert err == b""
    assert process.returncode is not None
    return Found(process.returncode, out.decode())


@pytest.fixture
def well(api: World) -> Settings:
    """The settings of a world in which everything is as it should be."""
    return api.settings.model_copy(update={"public_url": api.base_url})


@pytest.fixture(autouse=True)
def in_no_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the suite itself may run."""
    monkeypatch.delenv("container", raising=False)


async def test_a_world_that_is_well_is_found_so_and_left_as_it_was(api: World, well: Settings) -> None:
    await api.caller()
    async with Redis.from_url(well.redis_url.get_secret_value()) as redis:
        before = await redis.keys("autos:portal:*")
        found = await doctor_program(well)
        assert await redis.keys("autos:portal:*") == before
    assert (found.status, tuple(found.findings)) == (0, NAMES)
    assert found.named("wrong") == set()
    # The suite lets webhooks go to its own receivers.
    assert found.named("warning") - {"open files"} == {"webhooks"}
    async with open_client(well) as s3:
        left = await s3.list_objects_v2(Bucket=well.bucket, Prefix=PREFIX)
    assert left.get("Contents", []) == []


def test_a_probe_that_is_left_behind_lies_where_the_janitor_removes_it() -> None:
    assert PREFIX.startswith(SWEPT)


@pytest.mark.parametrize(
    ("broken", "name", "said"),
    [
        ({"database_url": DATABASE}, "database", "wrong: nothing listens there"),
        ({"database_url": f"{DATABASE}?sslmode=hidden"}, "database", "wrong: no URL of a PostgreSQL"),
        ({"database_pool_size": 5000}, "connections", "wrong: lower AUTOS_DATABASE_POOL_SIZE"),
        ({"redis_url": f"redis://:hidden@{AWAY}/0"}, "redis", "wrong: does not answer"),
        ({"redis_url": f"redis://{AWAY}/0?socket_timeout=hidden"}, "redis", "wrong: no URL of a Redis"),
        (
            {"database_direct_url": f"postgresql://{AWAY}/x"},
            "pooler",
            "wrong: AUTOS_DATABASE_DIRECT_URL",
        ),
        ({"bucket": "another"}, "bucket", "wrong: there is no bucket another"),
        ({"s3_endpoint_url": f"http://{AWAY}"}, "bucket", "wrong: is AWS_ENDPOINT_URL_S3 right?"),
        ({"aws_secret_access_key": "hidden"}, "bucket", "wrong: the credentials are refused"),
        ({"s3_public_url": f"http://{AWAY}"}, "links", "wrong: is AUTOS_S3_PUBLIC_URL right?"),
        ({"portal_token": None}, "portal token", "wrong: set AUTOS_PORTAL_TOKEN"),
        ({"portal_token": None}, "portal", "wrong: does not accept our token"),
        ({"portal_token": "hidden"}, "portal", "wrong: does not accept our token"),
        ({"portal_url": f"http://{AWAY}"}, "portal", "wrong: is AUTOS_PORTAL_URL right"),
        (LAKE, "data lake", "wrong: is AUTOS_DATA_LAKE_URL right"),
        (LAKE | {"data_lake_token": None}, "data lake token", "wrong: set AUTOS_DATA_LAKE_TOKEN"),
        ({"public_url": f"http://{AWAY}"}, "public url", "wrong: does the API run"),
        ({"host": "0.0.0.0"}, "public url", "warning: writes links to this machine"),
        ({"secret_keys": new_key()}, "secrets", "wrong: 1 of 1 cannot be read"),
        ({"webhook_allow_private": True}, "webhooks", "warning: AUTOS_WEBHOOK_ALLOW_PRIVATE opens"),
        ({"webhook_schemes": ("https", "http")}, "webhooks", "warning: AUTOS_WEBHOOK_SCHEMES lets"),
        ({"max_secrecy": 3}, "secrecy", "warning: up to level 3"),
        ({"max_requests": 5_000_000}, "open files", "warning: raise the limit"),
    ],
)
async def test_each_thing_that_is_broken_is_named_with_what_to_do(
    api: World, well: Settings, broken: dict[str, Any], name: str, said: str
) -> None:
    """The last part of a case is the verdict, and some of its words."""
    verdict, words = said.split(": ", 1)
    await api.caller()
    found = await doctor(_changed(well, broken))
    assert found.findings[name][0] == verdict
    assert words in found.findings[name][1]
    assert found.status == (1 if verdict == "wrong" else 0)
    # Nothing else is wrong, but what hangs on it.
    hanging = {
        "database": {"secrets"},
        "portal token": {"portal"},
        "portal": {"portal token"},
        "data lake token": {"data lake"},
    }
    assert found.named("wrong") - {name} <= hanging.get(name, set())
    assert "hidden" not in found.out


def _changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    return Settings.model_validate({**settings.model_dump(), **changes})


async def test_a_loopback_that_is_not_that_of_our_container_is_not_called_wrong(
    well: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    out_of_sight = {"s3_public_url": f"http://{AWAY}", "public_url": f"http://{AWAY}"}
    monkeypatch.setenv("container", "oci")
    found = await doctor(_changed(well, out_of_sight))
    assert (found.status, {"links", "public url"} <= found.named("warning")) == (0, True)
    for name in ("links", "public url"):
        assert "the machine around this container" in found.findings[name][1]
    # What is said to be elsewhere, and what can be seen from here, is looked at as ever.
    elsewhere = await doctor(_changed(well, {"public_url": "http://127.0.0.2:1", "host": "0.0.0.0"}))
    assert elsewhere.findings["public url"][0] == "wrong"
    assert (await doctor(well)).findings["public url"][0] == "ok"


async def test_everything_is_looked_at_even_when_everything_is_away(well: Settings) -> None:
    away = {
        "database_url": f"postgresql://{AWAY}/x",
        "redis_url": f"redis://{AWAY}/0",
        "s3_endpoint_url": f"http://{AWAY}",
        "portal_url": f"http://{AWAY}",
        "public_url": f"http://{AWAY}",
    }
    found = await doctor(_changed(well, away))
    assert found.status == 1
    assert found.named("wrong") == {"database", "secrets", "redis", "bucket", "portal", "public url"}
    assert {"settings", "portal token", "open files", "webhooks", "retention", "secrecy"} <= {*found.findings}


async def test_settings_that_cannot_be_read_are_findings_too(well: Settings) -> None:
    found = await doctor_program(well, AUTOS_PORT="hidden", AUTOS_SECRET_KEYS="hidden")
    assert found.status == 1
    lines = found.out.splitlines()
    assert lines[0].startswith("wrong    settings: AUTOS_SECRET_KEYS: each key has to be base64")
    assert lines[1].startswith("wrong    settings: AUTOS_PORT: Input should be a valid integer")
    assert "hidden" not in found.out


async def test_a_limit_of_open_files_is_held_against_the_settings(well: Settings) -> None:
    found = await doctor_program(well, before="ulimit -n 512;")
    assert found.findings["open files"][0] == "warning"
    assert "a process may have 512" in found.findings["open files"][1]


async def test_the_hosts_that_webhooks_are_kept_to_are_told_of() -> None:
    (found,) = await check_webhooks(Settings(webhook_allowed_hosts=("a.example",)))
    assert (found.verdict, "AUTOS_WEBHOOK_ALLOWED_HOSTS" in found.words) == ("ok", True)


@asynccontextmanager
async def _database(settings: Settings, change: str) -> AsyncIterator[Settings]:
    """A database of its own in which something was done."""
    url = settings.database_url.get_secret_value()
    async with new_database(url, name="autos_checkup") as changed:
        conn = await asyncpg.connect(changed)
        await conn.execute(change)
        await conn.close()
        yield _changed(settings, {"database_url": changed})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("update schema_version set version = 999, serves_from = 999", "the database has version 999"),
        ("drop table schema_version", "run `python -m service db upgrade`"),
    ],
)
async def test_a_schema_that_does_not_fit_is_wrong(well: Settings, change: str, words: str) -> None:
    async with _database(well, change) as settings:
        found = await doctor(settings)
    assert found.status == 1
    assert found.findings["schema"][0] == "wrong"
    assert words in found.findings["schema"][1]


async def test_a_database_that_takes_no_writes_is_wrong(well: Settings) -> None:
    async with _database(well, "select 1") as settings:
        name = urlsplit(settings.database_url.get_secret_value()).path[1:]
        conn = await asyncpg.connect(settings.database_url.get_secret_value())
        await conn.execute(f"alter database {name} set default_transaction_read_only = on")
        await conn.close()
        found = await doctor(settings)
    assert found.findings["database"][0] == "wrong"
    assert "takes no writes" in found.findings["database"][1]


async def test_a_database_that_is_not_there_is_told_from_a_server_that_is_not(well: Settings) -> None:
    url = urlunsplit(urlsplit(well.database_url.get_secret_value())._replace(path="/nowhere_at_all"))
    found = await doctor(_changed(well, {"database_url": url}))
    assert found.findings["database"] == (
        "wrong", "there is no such database: create it, or correct DATABASE_URL",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("config", "name", "verdict"),
    [
        ("maxmemory-policy allkeys-lru", "redis memory", "wrong"),
        ("maxmemory-policy volatile-lru", "redis memory", "warning"),
        ("maxmemory 1", "redis scripts", "wrong"),
    ],
)
async def test_a_redis_that_is_set_up_wrong_is_found(
    well: Settings, tmp_path: Path, config: str, name: str, verdict: str
) -> None:
    async with open_redis(tmp_path) as url, Redis.from_url(url) as redis:
        await redis.config_set(*config.split())
        found = await doctor(_changed(well, {"redis_url": url}))
        password = urlsplit(url).password or ""
        mistyped = await doctor(_changed(well, {"redis_url": url.replace(password, "hidden")}))
    assert found.findings[name][0] == verdict
    assert mistyped.findings["redis"] == ("wrong", "it refuses the password of REDIS_URL")


async def test_links_that_lead_to_something_else_are_wrong_and_ones_without_ranges_a_warning(
    well: Settings,
) -> None:
    assert well.s3_endpoint_url
    async with open_front(well.s3_endpoint_url) as front:
        settings = _changed(well, {"s3_public_url": front.url})
        assert (await doctor(settings)).findings["links"][0] == "ok"
        front.ignored = {"Range"}
        assert (await doctor(settings)).findings["links"][0] == "warning"
        front.is_spoiled = True
        assert "something else than the object" in (await doctor(settings)).findings["links"][1]

        async def refuse(_request: web.Request) -> web.Response:
            return error(403, "SignatureDoesNotMatch")

        front.faults = [refuse, refuse]
        found = await doctor(settings)
    assert found.findings["links"][0] == "wrong"
    assert "the store answers 403" in found.findings["links"][1]
    assert "X-Amz" not in found.out


async def test_a_bucket_that_may_only_be_read_is_wrong_and_the_right_is_named(well: Settings) -> None:
    assert well.s3_endpoint_url
    async with open_front(well.s3_endpoint_url) as front:
        settings = _changed(well, {"s3_endpoint_url": front.url})

        async def refuse(_request: web.Request) -> web.Response:
            return error(403, "AccessDenied")

        for method, name in (
            ("PUT", "bucket write"),
            ("DELETE", "bucket delete"),
            ("GET /.*list", "bucket list"),
        ):
            front.matches, front.faults = f"^{method}", [refuse] * 20
            found = await doctor(settings)
            assert found.findings[name][0] == "wrong", method
            assert "AccessDenied" in found.findings[name][1]


def _jwt(claims: object) -> str:
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({}, claims)
    ]
    return f"{'.'.join(parts)}.signature"


async def test_a_token_that_has_ended_is_wrong_and_not_shown(well: Settings) -> None:
    token = _jwt({"exp": 1_700_000_000, "name": "somebody"})
    found = await doctor(_changed(well, {"portal_token": token}))
    verdict, words = found.findings["portal token"]
    assert (verdict, "it ended on 2023-11-14 22:13 UTC" in words) == ("wrong", True)
    assert token[:20] not in found.out


@pytest.mark.parametrize(
    ("left", "verdict"),
    [(timedelta(days=1), "ok"), (timedelta(minutes=59), "warning"), (timedelta(0), "wrong"), (None, "ok")],
)
def test_the_end_of_a_token_is_judged_by_how_near_it_is(left: timedelta | None, verdict: str) -> None:
    now = datetime.now(UTC)
    assert judge_end(None if left is None else now + left, now=now).verdict == verdict


@given(
    claims=st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda some: st.lists(some) | st.dictionaries(st.just("exp") | st.text(), some),
    )
)
def test_no_token_is_so_odd_that_looking_at_it_fails(claims: Any) -> None:
    ends_at = end_of_token(_jwt(claims))
    assert ends_at is None or ends_at.tzinfo is UTC


@given(token=st.text())
def test_what_is_no_jwt_has_no_end(token: str) -> None:
    assert end_of_token(token) is None


@pytest.mark.parametrize(
    ("difference_s", "verdict"),
    [(0.2, "ok"), (-4.9, "ok"), (6.0, "warning"), (-59.0, "warning"), (60.0, "wrong"), (-3600.0, "wrong")],
)
def test_clocks_that_differ_are_judged_by_how_much(difference_s: float, verdict: str) -> None:
    assert judge_clock(difference_s).verdict == verdict


async def test_a_token_that_is_renewed_is_looked_at_where_the_workers_keep_it(
    api: World, well: Settings, make_settings: MakeSettings
) -> None:
    async with open_sso() as sso:
        at = {"portal_url": well.portal_url, "public_url": well.public_url}
        settings = sso.service(make_settings, **at)
        # The portal wants another token than this server gives, and that is another finding.
        found = await doctor(settings)
        assert found.findings["portal token"][0] == "ok"
        assert "renewed by the workers" in found.findings["portal token"][1]
        assert found.findings["portal"][0] == "wrong"
        async with api.db.connection() as conn:
            await conn.execute(
                "update portal_tokens set refused_at = now(), refused_reason = 'invalid_client'"
            )
        again = await doctor(settings)
        assert "refused the credential (invalid_client)" in again.findings["portal token"][1]
        assert HUSH not in found.out + again.out


async def test_secrets_without_keys_or_under_an_older_one_are_a_warning(api: World, well: Settings) -> None:
    unset = await doctor(_changed(well, {"secret_keys": None}))
    assert unset.findings["secrets"][0] == "warning"
    assert "AUTOS_SECRET_KEYS is not set" in unset.findings["secrets"][1]
    await api.caller()
    assert well.secret_keys
    both = f"{new_key()},{well.secret_keys.get_secret_value()}"
    older = await doctor(_changed(well, {"secret_keys": both}))
    assert older.findings["secrets"][0] == "warning"
    assert "1 of 1 are not sealed with the first key" in older.findings["secrets"][1]


async def test_a_check_that_fails_or_hangs_holds_up_no_other(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(_settings: Settings) -> Findings:
        raise ZeroDivisionError

    async def hang(_settings: Settings) -> Findings:
        await asyncio.Event().wait()
        return []

    async def work(_settings: Settings) -> Findings:
        return [ok("third", "it works")]

    checks: dict[str, Check] = {"first": fail, "second": hang, "third": work}
    assert await run(settings, checks, timeout_s=0.2) == 1
    assert capsys.readouterr().out.splitlines() == [
        "wrong    first: the look at it failed (ZeroDivisionError)",
        "wrong    second: this took longer than 0.2 s",
        "ok       third: it works",
    ]
