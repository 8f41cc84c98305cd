"""The doctor and the ways to PostgreSQL and Redis: which of them may be read on the way."""

from typing import Any

import pytest

from service.checkup.encryption import check_encryption
from service.core.settings import Settings

VERIFIED = "postgresql://me:hidden@db.example/autos?sslmode=verify-full"
TLS = "rediss://:hidden@cache.example/0"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, None),  # the defaults lead to this machine
        ({"database_url": VERIFIED, "redis_url": TLS, "database_direct_url": VERIFIED}, None),
        ({"database_url": VERIFIED.replace("verify-full", "require")}, "DATABASE_URL"),
        ({"database_url": "postgresql://me:hidden@127.0.0.1,db.example/autos"}, "DATABASE_URL"),
        ({"database_direct_url": "postgresql://me:hidden@db.example/autos"}, "AUTOS_DATABASE_DIRECT_URL"),
        ({"redis_url": TLS.replace("rediss", "redis")}, "REDIS_URL"),
        ({"redis_url": "redis+sentinel://:hidden@one.example,two.example/autos"}, "REDIS_URL"),
        ({"redis_url": "rediss+sentinel://:hidden@one.example,two.example/autos"}, None),
        ({"redis_url": "redis+sentinel://:hidden@127.0.0.1:1,localhost:2/autos"}, None),
    ],
)
async def test_a_way_to_another_machine_is_named_when_nothing_closes_it(
    given: dict[str, Any], named: str | None
) -> None:
    (found,) = await check_encryption(Settings.model_validate(given))
    assert found.verdict == ("warning" if named else "ok")
    assert [words.split(" ")[0] for words in found.words.split(", ")][:1] == [named or "PostgreSQL"]
    assert "hidden" not in found.words


@pytest.mark.parametrize("check", ["none", "optional"])
async def test_tls_that_takes_any_certificate_is_as_good_as_none(check: str) -> None:
    (found,) = await check_encryption(Settings.model_validate({"redis_url": f"{TLS}?ssl_cert_reqs={check}"}))
    assert found.verdict == "warning"
