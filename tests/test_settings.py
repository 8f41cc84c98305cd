"""The settings: what the example lists is what there is."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from service.core.settings import Settings, refusals

EXAMPLE = Path(__file__).parents[1] / ".env.example"
SECTION = re.compile(r"# [A-Z][\w ]+ -+")
ENTRY = re.compile(r"# .+[.:]\n(?P<name>[A-Z0-9_]+)=(?P<value>.*)")


def _variable(name: str) -> str:
    alias = Settings.model_fields[name].validation_alias
    return alias if isinstance(alias, str) else f"AUTOS_{name.upper()}"


def _entries() -> list[re.Match[str] | None]:
    """What is in the file besides its first line and the titles of its sections."""
    _, *blocks = EXAMPLE.read_text().strip().split("\n\n")
    return [ENTRY.fullmatch(block) for block in blocks if not SECTION.fullmatch(block)]


def _example() -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in _entries() if entry}


def _plain(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


@pytest.fixture(autouse=True)
def _no_variable_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    # The suite may have been given servers by URL; the defaults are the question here.
    for name in Settings.model_fields:
        monkeypatch.delenv(_variable(name), raising=False)


def test_the_example_lists_every_setting_in_the_order_of_the_code() -> None:
    assert list(_example()) == [_variable(name) for name in Settings.model_fields]


def test_the_example_holds_one_line_of_words_for_each_setting_and_nothing_else() -> None:
    assert None not in _entries()
    assert len(_entries()) == len(Settings.model_fields)


def test_a_copy_of_the_example_changes_nothing(tmp_path: Path) -> None:
    defaults = Settings()
    copy = tmp_path / ".env"
    copy.write_text(EXAMPLE.read_text())
    copied = Settings()  # the tests run in tmp_path, where it finds the copy
    for name in Settings.model_fields:
        # Empty stands for unset, and both are false.
        assert _plain(getattr(copied, name)) == _plain(getattr(defaults, name) or getattr(copied, name)), name


def test_a_default_that_is_not_empty_is_shown() -> None:
    defaults, example = Settings(), _example()
    hidden = [
        name for name in Settings.model_fields if getattr(defaults, name) and not example[_variable(name)]
    ]
    assert hidden == []


@pytest.mark.parametrize(
    ("variable", "name", "given", "expected"),
    [
        ("AUTOS_WEBHOOK_PORTS", "webhook_ports", "443, 9443", (443, 9443)),
        ("AUTOS_WEBHOOK_RETRY_DELAYS_S", "webhook_retry_delays_s", "1,2.5,", (1.0, 2.5)),
        ("AUTOS_WEBHOOK_ALLOWED_HOSTS", "webhook_allowed_hosts", "a.example", ("a.example",)),
        ("AUTOS_JOB_RETRY_DELAYS_S", "job_retry_delays_s", ",", ()),
        ("AUTOS_WEBHOOK_PORTS", "webhook_ports", "", (443, 8443)),  # empty means unset
        (
            "AUTOS_PORTAL_REDIRECT_HOSTS",
            "portal_redirect_hosts",
            "a.example,b.example",
            ("a.example", "b.example"),
        ),
    ],
)
def test_lists_are_written_with_commas(
    monkeypatch: pytest.MonkeyPatch, variable: str, name: str, given: str, expected: tuple[object, ...]
) -> None:
    monkeypatch.setenv(variable, given)
    assert getattr(Settings(), name) == expected


def test_no_secret_is_shown_by_printing_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = [name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)]
    assert len(secrets) == 15
    secrets.remove("data_lake_operator_cpf")
    monkeypatch.setenv("AUTOS_DATA_LAKE_OPERATOR_CPF", "000.000.001-91")
    for name in secrets:
        scheme = "postgresql" if name.startswith("database") else "redis"
        monkeypatch.setenv(_variable(name), f"{scheme}://user:hidden@example.com/")
    # A key has a form, and what has another is not shown either.
    with pytest.raises(ValidationError, match="secret_keys") as refused:
        Settings()
    assert "hidden" not in str(refused.value)
    secrets.remove("secret_keys")
    monkeypatch.setenv("AUTOS_SECRET_KEYS", "aGlkZGVuaGlkZGVuaGlkZGVuaGlkZGVuaGlkZGVuaGk=")
    # Two places for one token are one too many.
    for source in ("PORTAL", "DATA_LAKE"):
        with pytest.raises(ValidationError, match=f"AUTOS_{source}_TOKEN and") as refused:
            Settings()
        assert "hidden" not in str(refused.value)
        monkeypatch.delenv(f"AUTOS_{source}_TOKEN")
        monkeypatch.setenv(f"AUTOS_{source}_TOKEN_URL", "https://sso.example/token")
        monkeypatch.setenv(f"AUTOS_{source}_CLIENT_ID", "autos")
        secrets.remove(f"{source.lower()}_token")
    settings = Settings()
    assert all(_plain(getattr(settings, name)).find("hidden") > 0 for name in secrets)
    assert len(settings.key_ring) == 1
    shown_whole = (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json())
    for shown in (*shown_whole, repr(settings.portal), repr(settings.data_lake)):
        assert "hidden" not in shown
        assert "00000000191" not in shown
        assert "aGlkZGVu" not in shown


def test_each_source_has_settings_of_its_own_and_shares_our_manners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOS_PORTAL_TOKEN", "of-the-portal")
    monkeypatch.setenv("AUTOS_PORTAL_READ_TIMEOUT_S", "7")
    monkeypatch.setenv("AUTOS_DATA_LAKE_TOKEN", "of-the-lake")
    monkeypatch.setenv("AUTOS_DATA_LAKE_OPERATOR_CPF", " 000.000.001-91 ")
    monkeypatch.setenv("AUTOS_DATA_LAKE_REDIRECT_HOSTS", "files.example, more.example")
    monkeypatch.setenv("AUTOS_DATA_LAKE_CONCURRENCY", "3")
    portal, lake = Settings().portal, Settings().data_lake
    assert (portal.name, portal.title, lake.name, lake.title) == (
        "portal",
        "portal",
        "data_lake",
        "data lake",
    )
    assert (_plain(portal.token), _plain(lake.token)) == ("of-the-portal", "of-the-lake")
    assert (portal.concurrency, lake.concurrency) == (10, 3)
    assert (portal.read_timeout_s, lake.read_timeout_s) == (7, 7)
    assert (portal.redirect_hosts, lake.redirect_hosts) == ((), ("files.example", "more.example"))
    assert (portal.operator_cpf, _plain(lake.operator_cpf)) == (None, "00000000191")
    assert portal.url != lake.url


def test_each_court_has_the_source_that_is_named_for_it_or_the_one_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tjsp, trf4 = "10035792220258260564", "50465129420164047000"
    assert {Settings().source_of(number) for number in (tjsp, trf4)} == {"portal"}
    assert [source.name for source in Settings().sources] == ["portal"]
    monkeypatch.setenv("AUTOS_SOURCE", "data_lake")
    assert Settings().source_of(tjsp) == "data_lake"
    assert [source.name for source in Settings().sources] == ["data_lake"]
    monkeypatch.setenv("AUTOS_SOURCE_BY_COURT", "8.26=data_lake, 4.04=portal,")
    assert (Settings().source_of(tjsp), Settings().source_of(trf4)) == ("data_lake", "portal")
    assert [source.name for source in Settings().sources] == ["portal", "data_lake"]


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("AUTOS_SOURCE", "lake", "portal"),
        ("AUTOS_SOURCE_BY_COURT", "8.26", "J.TR"),
        ("AUTOS_SOURCE_BY_COURT", "826=portal", "J.TR"),
        ("AUTOS_SOURCE_BY_COURT", "8.26=portal,8.26=data_lake", "each court once"),
        ("AUTOS_SOURCE_BY_COURT", "8.26.0100=portal", "J.TR"),
        ("AUTOS_SOURCE_BY_COURT", "8.26=elsewhere", "J.TR"),
        ("AUTOS_DATA_LAKE_OPERATOR_CPF", "1234567890", "11 digits"),
        ("AUTOS_DATA_LAKE_TOKEN_URL", "http://sso.example/", "https URL"),
    ],
)
def test_a_source_that_is_misnamed_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError, match=said) as refused:
        Settings()
    assert "1234567890" not in str(refused.value)


ONE = {"AUTOS_PORTAL_TOKEN_URL": "https://sso.example/token", "AUTOS_PORTAL_CLIENT_ID": "autos"}
SECRET = {"AUTOS_PORTAL_CLIENT_SECRET": "s3cr3t"}
FIRST = {"AUTOS_PORTAL_REFRESH_TOKEN": "r3fr3sh"}


@pytest.mark.parametrize(
    "given", [{}, {"AUTOS_PORTAL_TOKEN": "t"}, ONE | SECRET, ONE | FIRST, ONE | SECRET | FIRST]
)
def test_the_portals_token_has_one_source_or_none(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    Settings()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (ONE | SECRET | {"AUTOS_PORTAL_TOKEN": "t0k3n"}, "two sources"),
        (FIRST | {"AUTOS_PORTAL_TOKEN": "t0k3n"}, "AUTOS_PORTAL_TOKEN and AUTOS_PORTAL_REFRESH_TOKEN"),
        (ONE, "AUTOS_PORTAL_TOKEN_URL needs AUTOS_PORTAL_CLIENT_SECRET"),
        (SECRET, "AUTOS_PORTAL_CLIENT_SECRET cannot be used without AUTOS_PORTAL_TOKEN_URL"),
        ({"AUTOS_PORTAL_CLIENT_ID": "autos"}, "cannot be used without AUTOS_PORTAL_TOKEN_URL"),
        (SECRET | {"AUTOS_PORTAL_TOKEN_URL": "https://sso.example/"}, "without AUTOS_PORTAL_CLIENT_ID"),
        (ONE | SECRET | {"AUTOS_PORTAL_TOKEN_URL": "http://sso.example/token"}, "has to be an https URL"),
        (ONE | SECRET | {"AUTOS_PORTAL_TOKEN_URL": "https://me@sso.example/"}, "has to be an https URL"),
        (ONE | SECRET | {"AUTOS_PORTAL_TOKEN_URL": "https://"}, "has to be an https URL"),
    ],
)
def test_token_settings_that_contradict_each_other_are_refused_without_showing_them(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], said: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=said) as refused:
        Settings()
    assert not any(secret in str(refused.value) for secret in ("t0k3n", "s3cr3t", "r3fr3sh"))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_a_token_may_be_asked_for_in_clear_text_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    for name, value in (ONE | SECRET | {"AUTOS_PORTAL_TOKEN_URL": f"http://{host}:8080/token"}).items():
        monkeypatch.setenv(name, value)
    Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUTOS_PORT", "70000"),
        ("AUTOS_LINK_TTL_S", "700000"),
        ("AUTOS_LEASE_S", "0"),
        ("AUTOS_WEBHOOK_PORTS", "https"),
        ("AUTOS_CANARY_INTERVAL_S", "1801"),
        ("AUTOS_WEBHOOK_PORTS", "443,99999999"),
        ("AUTOS_WEBHOOK_PORTS", "0"),
        ("AUTOS_WEBHOOK_RETRY_DELAYS_S", "5,-5"),
        ("AUTOS_WEBHOOK_RETRY_DELAYS_S", "nan"),
        ("AUTOS_JOB_RETRY_DELAYS_S", "inf"),
        ("AUTOS_LEASE_S", "inf"),
        ("AUTOS_LOG_LEVEL", "verbose"),
        ("AWS_ENDPOINT_URL_S3", "minio:9000"),
        ("AUTOS_S3_PUBLIC_URL", "https://"),
        ("AUTOS_PORTAL_URL", "portal.example/api/v2"),
        ("AUTOS_DATA_LAKE_URL", "https://lake.example:port/"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "nonsense"),
    ],
)
def test_a_setting_out_of_bounds_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    (said,) = refusals(refused.value)
    assert said.startswith(f"{name}: ")


@pytest.mark.parametrize(("program", "name"), [("service", "autos"), ("worker", "autos worker")])
def test_a_process_that_does_not_start_for_its_settings_names_each_in_a_line(
    tmp_path: Path, program: str, name: str
) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", program],
        env={
            "PYTHONPATH": str(EXAMPLE.parent),
            "AUTOS_LOG_LEVEL": "verbose",
            "AUTOS_PORTAL_URL": "portal.example",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    address, level = ran.stderr.splitlines()
    assert address.startswith(f"{name}: AUTOS_PORTAL_URL: has to be http(s)://host")
    assert (ran.returncode, level) == (1, f"{name}: AUTOS_LOG_LEVEL: has to be DEBUG, INFO, WARNING or ERROR")


@pytest.mark.parametrize("level", ["debug", "INFO", "Warning"])
def test_a_level_of_the_log_may_be_written_in_small_letters(
    monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    monkeypatch.setenv("AUTOS_LOG_LEVEL", level)
    assert Settings().log_level == level
