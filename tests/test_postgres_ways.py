"""PostgreSQL over TLS, and behind a pooler that lends a session for one transaction."""

import os
import re
import shutil
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from service.checkup.database import check_database
from service.commands import upgrade
from service.core.db import SESSION_SETTINGS, open_database
from service.core.errors import DatabaseUnavailableError
from service.core.news import open_news
from service.sandbox.accounts import unprivileged_account
from service.sandbox.children import Program, open_server
from service.sandbox.postgres import open_postgres
from tests.certificates import make_certificate
from tests.conftest import MakeSettings
from tests.databases import new_database
from tests.hearing import until_heard
from tests.receiver import Receiver
from tests.world import open_world

AWAY = "postgresql://autos@127.0.0.1:1/autos"
CASE = "1003579-22.2025.8.26.0564"
PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


async def test_postgres_is_reached_over_tls_when_its_certificate_is_known(
    tmp_path: Path, make_settings: MakeSettings
) -> None:
    async with open_postgres(tmp_path / "server", durable=False) as server:
        conn = await asyncpg.connect(server)
        data = Path(await conn.fetchval("show data_directory"))
        made = make_certificate(data)
        if account := unprivileged_account():
            for file in (made.path, made.key_path):
                os.chown(file, account.uid, account.gid)
        for name, value in (("ssl_cert_file", made.path), ("ssl_key_file", made.key_path), ("ssl", "on")):
            await conn.execute(f"alter system set {name} = '{value}'")
        await conn.execute("select pg_reload_conf()")
        await conn.close()
        async with new_database(server, name="autos_tls") as url:
            verified = f"{url}?sslmode=verify-full&sslrootcert={made.path}"
            async with open_database(make_settings(database_url=verified)) as db, db.connection() as lent:
                assert await lent.fetchval("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
            for refused in (
                verified.replace("127.0.0.1", "localhost"),  # the certificate is for the address alone
                f"{url}?sslmode=verify-full&sslrootcert={make_certificate(tmp_path).path}",
            ):
                with pytest.raises(DatabaseUnavailableError):
                    async with open_database(make_settings(database_url=refused)):
                        pass


@dataclass(frozen=True)
class Pooled:
    """A database, and its address behind a pooler."""

    direct_url: str
    url: str


@pytest.fixture
async def pooled(tmp_path: Path, postgres_url: str) -> AsyncIterator[Pooled]:
    """A database set up as docs/deployment.md says, behind a PgBouncer with fewer sessions than callers."""
    if PGBOUNCER is None:
        pytest.skip("there is no pgbouncer on this machine (on Debian: apt-get install pgbouncer)")
    async with new_database(postgres_url, name="autos_pooled") as direct_url:
        conn = await asyncpg.connect(direct_url)
        for name, value in SESSION_SETTINGS.items():
            # The suite's role is not its own, as the database is.
            await conn.execute(f"alter database {urlsplit(direct_url).path[1:]} set {name} = '{value}'")
        await conn.close()
        async with _open_pooler(tmp_path, direct_url) as url:
            yield Pooled(direct_url, url)


@asynccontextmanager
async def _open_pooler(folder: Path, database_url: str) -> AsyncIterator[str]:
    behind = urlsplit(database_url)
    server = f"host={behind.hostname} port={behind.port} user={behind.username}"
    server += f" password={behind.password}" if behind.password else ""

    def program_at(port: int) -> Program:
        config = folder / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n{behind.path[1:]} = {server}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            "auth_type = any\npool_mode = transaction\ndefault_pool_size = 3\nreserve_pool_size = 0\n"
        )
        account = unprivileged_account()
        return Program(
            name="PgBouncer",
            command=[str(PGBOUNCER), *(["-u", "nobody"] if account else []), str(config)],
            environ={"PATH": os.defpath},
            log=folder / "pgbouncer.log",
        )

    def url(port: int) -> str:
        return urlunsplit(behind._replace(netloc=f"autos@127.0.0.1:{port}"))

    async def ready(port: int) -> bool:
        conn = await asyncpg.connect(url(port), timeout=2)
        await conn.close()
        return True

    async with open_server(program_at, ready=ready) as port:
        yield url(port)


async def test_a_job_and_its_news_come_through_behind_a_pooler_that_lends_transactions(
    empty: None, pooled: Pooled, make_settings: MakeSettings, receiver: Receiver
) -> None:
    settings = make_settings(database_url=pooled.url, database_direct_url=pooled.direct_url)
    findings = {one.name: one.verdict for one in await check_database(settings)}
    assert findings["pooler"] == "ok"
    async with open_world(settings) as world:
        caller = await world.caller()
        job = await caller.post("/jobs", json={"process_number": CASE, "webhook_url": receiver.url})
        assert job.status == 202, job.text
        heard = await caller.get(f"/jobs/{job.json['job_id']}", params={"wait": "30"})
        assert heard.json["sequence"] > job.json["sequence"]
        assert (await caller.wait_until_final(CASE))["status"] == "completed"
        (got,) = await receiver.wait_for(1)
        assert got.event["completed_documents"] == 26
        async with world.db.connection() as conn:
            sessions = {await conn.fetchval("select pg_backend_pid()") for _ in range(5)}
        assert len(sessions) <= 3


async def test_who_needs_a_session_goes_past_the_pooler(
    empty: None, database_url: str, make_settings: MakeSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_settings(database_url=AWAY, database_direct_url=database_url)
    await upgrade(settings, Namespace())
    assert "was already there" in capsys.readouterr().out
    async with open_news(settings) as news:
        await until_heard(news, database_url)


async def test_a_role_that_lacks_what_a_pooler_does_not_pass_on_is_named_by_the_doctor(
    database_url: str, make_settings: MakeSettings
) -> None:
    settings = make_settings(database_direct_url=database_url)
    (found,) = [one for one in await check_database(settings) if one.name == "pooler"]
    assert found.verdict == "warning"
    assert "jit = 'off', statement_timeout = '5s'" in found.words


async def test_a_session_of_ones_own_begins_with_our_time_outs(
    database_url: str, make_settings: MakeSettings
) -> None:
    async with open_database(make_settings(database_url=database_url)) as db, db.connection() as conn:
        for name, value in SESSION_SETTINGS.items():
            assert await conn.fetchval("select current_setting($1)", name) == value


def test_what_a_pooler_does_not_pass_on_is_written_down_for_its_role() -> None:
    page = (Path(__file__).parents[1] / "docs" / "deployment.md").read_text()
    written = re.findall(r"^alter role autos set (\w+) = '?(\w+)'?;$", page, re.MULTILINE)
    assert dict(written) == SESSION_SETTINGS
