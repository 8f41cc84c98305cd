"""The URLs of the settings: every form in use serves, and what would cut a password in pieces is refused."""

import asyncio
import sys
from collections.abc import Callable

import pytest
from pydantic import ValidationError

from service.core.settings import Settings
from service.core.urls import check_postgres_url, check_redis_url, public_address
from tests.conftest import MakeSettings
from tests.faults.children import ROOT, environment

PASSWORD = "s3cr3t"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://autos:s3cr3t@db.example:5432/autos",
        "postgres://autos@db.example/autos?sslmode=verify-full&sslrootcert=/etc/ca.pem",
        "postgresql://autos:a%23b%2Fc%40d@one.example:5432,two.example,[fd00::1]:5433/autos",
        "postgresql://one.example,two.example/autos?target_session_attrs=read-write",
        "postgresql:///autos?host=/var/run/postgresql&port=5433&user=autos",
        "postgresql://autos:s3cr3t@/autos?host=/var/run/postgresql",
        "postgresql://%2Fvar%2Frun%2Fpostgresql/autos",
        "postgresql://",
    ],
)
def test_every_form_of_a_postgresql_url_serves(url: str) -> None:
    assert Settings.model_validate({"database_url": url, "database_direct_url": url}).session_url == url


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:6379/0",
        "redis://:s3cr3t@redis.example",
        "redis://:a%23b%2Fc@[::1]:6379/1",
        "redis://autos:p@ss@redis.example/0",  # redis-py takes the last "@"
        "rediss://autos:s3cr3t@redis.example:6380/0?ssl_ca_certs=/etc/ca.pem",
        "redis+sentinel://:s3cr3t@one.example:26379,two.example/master/0?sentinel_password=other",
        "rediss+sentinel://one.example/master",
        "unix://autos:s3cr3t@/var/run/redis.sock?db=1",
    ],
)
def test_every_form_of_a_redis_url_serves(url: str) -> None:
    assert Settings.model_validate({"redis_url": url}).redis_url.get_secret_value() == url


@pytest.mark.parametrize(
    ("check", "url"),
    [
        *[
            (check, url.replace("SCHEME", scheme))
            for check, scheme in ((check_postgres_url, "postgresql"), (check_redis_url, "redis"))
            for url in (
                "SCHEME://autos:s3cr3t#3@db.example:5432/autos",
                "SCHEME://autos:s3cr3t/3@db.example:5432/autos",
                "SCHEME://autos:s3cr3t?3@db.example:5432/autos",
                # What stands before the sign is a number, as a port is.
                "SCHEME://autos:12#s3cr3t@db.example:5432/autos",
                "SCHEME://autos:12/s3cr3t@db.example:5432/autos",
                "SCHEME://autos:12?s3cr3t=x@db.example:5432/autos",
                "SCHEME://autos:s3cr3t[@db.example/autos",
                "SCHEME://autos:x@db.example:s3cr3t/autos",
                "SCHEME://autos:x@db.example:70000/s3cr3t",
                "http://autos:s3cr3t@db.example/autos",
                "s3cr3t",
            )
        ],
        (check_postgres_url, "postgresql://autos:p@s3cr3t@db.example/autos"),  # asyncpg takes the first "@"
        (check_postgres_url, "postgresql:///autos?port=s3cr3t"),
        (check_postgres_url, "postgresql://one,,s3cr3t/autos"),
        (check_redis_url, "redis://one.example,s3cr3t/0"),
        (check_redis_url, "redis+sentinel://:s3cr3t@one.example"),
        (check_redis_url, "redis+sentinel:///s3cr3t"),
    ],
)
def test_what_would_be_cut_in_pieces_is_refused_and_not_repeated(
    check: Callable[[str], None], url: str
) -> None:
    with pytest.raises(ValueError, match="percent-encoded") as refused:
        check(url)
    assert PASSWORD not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("https://autos.example.com/", "https://autos.example.com"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("https://example.com/autos//", "https://example.com/autos"),
    ],
)
def test_paths_can_follow_the_address_of_the_api(given: str, expected: str) -> None:
    assert public_address(given) == expected
    assert Settings(public_url=given).public_url == expected


@pytest.mark.parametrize(
    "given",
    [
        "autos.example.com",
        "ftp://example.com",
        "https://",
        "https://example.com/?s3cr3t",
        "https://example.com/#s3cr3t",
        "https://me:s3cr3t@example.com",
        "https://example.com/a b",
        "https://one.example,two.example",
    ],
)
def test_what_is_no_address_of_the_api_is_refused(given: str) -> None:
    with pytest.raises(ValidationError, match=r"has to be http\(s\)") as refused:
        Settings(public_url=given)
    assert PASSWORD not in str(refused.value)


async def test_no_program_repeats_a_url_that_is_wrong_and_each_names_its_setting(
    make_settings: MakeSettings,
) -> None:
    wrong = {
        "DATABASE_URL": "postgresql://autos:s3cr3t#3@127.0.0.1:5432/autos",
        "AUTOS_DATABASE_DIRECT_URL": "postgresql://autos:12/s3cr3t@127.0.0.1:5432/autos",
        "REDIS_URL": "redis://:s3cr3t/3@127.0.0.1:6379/0",
    }
    programs = (
        ("service",),
        ("worker",),
        ("service", "db", "upgrade"),
        ("service", "keys", "list"),
        ("service", "doctor"),
    )
    environ = environment(make_settings()) | wrong
    for status, said in await asyncio.gather(*(_run(program, environ) for program in programs)):
        assert status == 1
        assert said.count("percent-encoded") == 3
        for variable in wrong:
            assert f" {variable}: has to be " in said
        assert PASSWORD not in said


async def test_who_cannot_connect_repeats_no_part_of_the_url(
    make_settings: MakeSettings, database_url: str
) -> None:
    """What is well-formed may still be a mistake: a database's name that is a piece of the password."""
    environ = environment(make_settings()) | {"DATABASE_URL": f"{database_url.rpartition('/')[0]}/s3cr3t"}
    programs = (("service",), ("worker",), ("service", "db", "upgrade"))
    for status, said in await asyncio.gather(*(_run(program, environ) for program in programs)):
        assert status == 1
        assert "cannot connect to the database: InvalidCatalogNameError" in said
        assert PASSWORD not in said


async def _run(program: tuple[str, ...], environ: dict[str, str]) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *program),
        env=environ,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    return process.returncode, out.decode()
