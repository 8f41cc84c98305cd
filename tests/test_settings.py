"""The settings: what the example lists is what there is."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from service.core.settings import Settings

EXAMPLE = Path(__file__).parents[1] / ".env.example"


def _variable(name: str) -> str:
    alias = Settings.model_fields[name].validation_alias
    return alias if isinstance(alias, str) else f"AUTOS_{name.upper()}"


def _example() -> dict[str, str]:
    lines = EXAMPLE.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _plain(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def test_the_example_lists_every_setting_and_nothing_else() -> None:
    assert list(_example()) == [_variable(name) for name in Settings.model_fields]


def test_each_setting_of_the_example_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = Settings()
    for name, value in _example().items():
        if value:
            monkeypatch.setenv(name, value)
    given = Settings()
    for name in Settings.model_fields:
        assert _plain(getattr(given, name)) == _plain(getattr(defaults, name)), name
        if not _example()[_variable(name)]:
            assert not getattr(defaults, name), f"{name} has a default that the example does not show"


def test_each_setting_of_the_example_is_explained() -> None:
    assert len(re.findall(r"^# .+[.:]\n[A-Z]", EXAMPLE.read_text(), re.MULTILINE)) == len(_example())


def test_lists_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOS_WEBHOOK_PORTS", "443, 9443")
    monkeypatch.setenv("AUTOS_JOB_RETRY_DELAYS_S", "")
    settings = Settings()
    assert settings.webhook_ports == (443, 9443)
    assert settings.job_retry_delays_s == ()


def test_no_secret_is_shown_by_printing_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "REDIS_URL", "AWS_SECRET_ACCESS_KEY", "AUTOS_PORTAL_TOKEN"):
        monkeypatch.setenv(name, "redis://user:hidden@example.com/")
    assert "hidden" not in repr(Settings())


@pytest.mark.parametrize(("name", "value"), [("AUTOS_PORT", "70000"), ("AUTOS_LINK_TTL_S", "700000")])
def test_a_setting_out_of_bounds_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        Settings()
