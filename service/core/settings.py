"""Every knob of Autos, in one frozen object read once at start-up from the environment."""

import ipaddress
import logging
import re
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.core.cnj import parse_process_number
from service.core.errors import InvalidProcessNumberError
from service.core.key_ring import parse_keys
from service.core.urls import check_address, check_postgres_url, check_redis_url, public_address

MIB = 1024 * 1024

SourceName = Literal["portal", "data_lake"]

_Port = Annotated[int, Field(ge=1, le=65_535)]
# Seconds, up to 30 days.
_Delay = Annotated[float, Field(ge=0, le=2_592_000)]

_SOURCES: tuple[SourceName, ...] = ("portal", "data_lake")
_COURT = re.compile(r"[1-9]\.[0-9]{2}=(?:portal|data_lake)")
_CPF = re.compile(r"[0-9]{11}")


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """What there is to know of one of the two sources of documents.

    Attributes:
        name: also the beginning of its settings: `AUTOS_PORTAL_…`, `AUTOS_DATA_LAKE_…`.
        operator_cpf: 11 digits of the user on whose behalf it is asked, if it wants to hear of one.
        redirect_hosts: hosts beside its own to which a redirect or a temporary link may lead.
        concurrency: the most requests in flight to it, over all workers; it starts with `concurrency_start`.
    """

    name: SourceName
    url: str
    token: SecretStr | None = field(repr=False)
    token_url: str | None
    client_id: str | None
    client_secret: SecretStr | None = field(repr=False)
    refresh_token: SecretStr | None = field(repr=False)
    operator_cpf: SecretStr | None = field(repr=False)
    redirect_hosts: tuple[str, ...]
    concurrency: int
    concurrency_start: int
    read_timeout_s: float
    min_bytes_per_s: int
    breaker_failures: int
    breaker_open_s: float

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.name.replace("_", " ")


class Settings(BaseSettings):
    """The settings of API and worker; each default works on a laptop, `.env.example` lists them all."""

    model_config = SettingsConfigDict(
        env_prefix="AUTOS_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        allow_inf_nan=False,
        # What a refused set of settings holds is never shown: it holds secrets too.
        hide_input_in_errors=True,
    )

    # Backends, by the names that other tools use too.
    database_url: SecretStr = Field(
        SecretStr("postgresql://postgres@127.0.0.1:5432/autos"), validation_alias="DATABASE_URL"
    )
    database_direct_url: SecretStr | None = None
    """PostgreSQL itself, when `database_url` leads to a pooler that lends a server for a transaction only."""
    redis_url: SecretStr = Field(SecretStr("redis://127.0.0.1:6379/0"), validation_alias="REDIS_URL")
    s3_endpoint_url: str | None = Field(None, validation_alias="AWS_ENDPOINT_URL_S3")
    aws_access_key_id: str | None = Field(None, validation_alias="AWS_ACCESS_KEY_ID")
    aws_secret_access_key: SecretStr | None = Field(None, validation_alias="AWS_SECRET_ACCESS_KEY")
    aws_session_token: SecretStr | None = Field(None, validation_alias="AWS_SESSION_TOKEN")
    aws_region: str = Field("us-east-1", validation_alias="AWS_REGION")

    # Storage.
    bucket: str = "autos"
    s3_public_url: str | None = None
    """The S3 endpoint as callers reach it; the endpoint we use ourselves when unset."""
    link_ttl_s: Annotated[int, Field(ge=60, le=604_800)] = 3600
    upload_part_bytes: Annotated[int, Field(ge=5 * MIB)] = 8 * MIB
    upload_buffer_bytes: Annotated[int, Field(ge=16 * MIB)] = 48 * MIB
    """Bytes of all large documents that may be in memory at once in one worker process."""
    max_document_bytes: PositiveInt = 4096 * MIB
    s3_encryption: Literal["none", "AES256", "aws:kms"] = "none"
    """How S3 is asked to encrypt what is stored; `none`: not at all, which leaves it to the bucket."""
    s3_kms_key_id: str | None = None
    """With `aws:kms`: a key of your own, by its id or ARN."""

    # Where documents come from.
    source: SourceName = "portal"
    source_by_court: Annotated[tuple[str, ...], NoDecode] = ()
    """Another source for the processes of some courts, by the J.TR of their numbers: `8.26=data_lake`."""

    # The portal.
    portal_url: str = "https://portaldeservicos.pdpj.jus.br/api/v2"
    portal_token: SecretStr | None = None
    portal_token_url: str | None = None
    """The sign-on server's token endpoint, for tokens that are renewed; excludes `portal_token`."""
    portal_client_id: str | None = None
    portal_client_secret: SecretStr | None = None
    """With it alone the grant is `client_credentials`."""
    portal_refresh_token: SecretStr | None = None
    """The first one: the grant is `refresh_token`, and those that follow are kept in PostgreSQL."""
    portal_redirect_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts beside the portal's own to which a redirect may lead; they never get the token."""
    portal_concurrency: PositiveInt = 10
    """The most requests in flight to the portal, over all workers."""
    portal_concurrency_start: PositiveInt = 4
    portal_read_timeout_s: PositiveFloat = 20.0
    """This and those that follow are for the data lake too."""
    portal_pause_s: PositiveFloat = 30.0
    """How long a job waits after the portal refused our token or our address."""
    portal_breaker_failures: PositiveInt = 10
    """After so many failures in a row, over all workers, the portal is left alone for a while."""
    portal_breaker_open_s: Annotated[float, Field(gt=0, le=300)] = 15.0
    """For how long at first; it doubles, up to five minutes, as long as the portal still fails."""
    portal_min_bytes_per_s: PositiveInt = 1024
    max_secrecy: Annotated[int, Field(ge=0, le=5)] = 0

    # The data lake: what is not here is as for the portal.
    data_lake_url: str = "https://api-processo-integracao.data-lake.pdpj.jus.br/processo-api/api/v1"
    data_lake_token: SecretStr | None = None
    data_lake_token_url: str | None = None
    data_lake_client_id: str | None = None
    data_lake_client_secret: SecretStr | None = None
    data_lake_refresh_token: SecretStr | None = None
    data_lake_operator_cpf: SecretStr | None = None
    """11 digits, sent as `X-PDPJ-CPF-USUARIO-OPERADOR`."""
    data_lake_redirect_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts beside its own to which its temporary links and redirects may lead; they never get the token."""
    data_lake_concurrency: PositiveInt = 10
    data_lake_concurrency_start: PositiveInt = 4

    # Jobs.
    fresh_s: Annotated[int, Field(ge=0)] = 900
    """How long a list of documents counts as fresh: a complete process is not fetched again before."""
    max_active_jobs: PositiveInt = 20_000
    requests_per_minute: PositiveInt = 6_000
    max_requests: PositiveInt = 1_000
    jobs_per_worker: PositiveInt = 20
    turn_s: NonNegativeFloat = 30.0
    downloads_per_job: PositiveInt = 8
    downloads_per_worker: PositiveInt = 32
    lease_s: PositiveFloat = 20.0
    job_deadline_s: PositiveInt = 21_600
    job_retry_delays_s: Annotated[tuple[_Delay, ...], NoDecode] = (15.0, 60.0, 300.0, 900.0)
    """The waits between a job's runs while some of its documents keep failing for a passing reason."""
    quick_retry_wait_s: PositiveFloat = 0.5
    """The first wait of the quick tries within one run; it doubles."""
    max_crashes: PositiveInt = 3
    """A job whose worker died this often is given up as `worker_crashed`."""
    sweep_interval_s: PositiveFloat = 1.0
    janitor_interval_s: Annotated[float, Field(ge=60)] = 21_600.0
    """How often one of all workers compares S3 with the database."""
    retention_days: Annotated[int, Field(ge=7)] | None = None
    """Days after which what has ended is forgotten, with its objects in S3; never when unset."""
    audit_days: Annotated[int, Field(ge=30)] | None = None
    """Days after which accesses are forgotten; never when unset."""
    drain_notice_s: NonNegativeFloat = 1.0
    """How long a stopping API goes on answering, and ends each connection with its next answer."""
    drain_s: PositiveFloat = 20.0
    """How long a stopping process lets running work finish before it hands it back."""

    # Webhooks.
    secret_keys: SecretStr | None = None
    """Keys for signing secrets at rest: base64 of 32 bytes each, with commas between, the newest first."""
    webhook_allow_private: bool = False
    webhook_schemes: Annotated[tuple[Literal["https", "http"], ...], NoDecode] = ("https",)
    webhook_literals: bool = False
    """Whether a public address may stand in a URL in place of a name."""
    webhook_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    """Networks that may be called beside the public ones: `10.20.0.0/16,fd12:3456::/32`."""
    webhook_allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """The only names that may be called, each with all names below it; empty for all."""
    webhook_denied_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Names that may not be called, each with all names below it, even if they are among the allowed ones."""
    webhook_ports: Annotated[tuple[_Port, ...], NoDecode] = (443, 8443)
    webhook_timeout_s: PositiveFloat = 15.0
    webhook_pause_s: PositiveFloat = 60.0
    """How long an endpoint that timed out, or said that it is overloaded, is left alone at least."""
    webhook_retry_delays_s: Annotated[tuple[_Delay, ...], NoDecode] = (
        5.0,
        300.0,
        1800.0,
        7200.0,
        18_000.0,
        36_000.0,
        50_400.0,
        72_000.0,
        86_400.0,
    )
    endpoint_patience_s: PositiveFloat = 432_000.0
    """An endpoint that has done nothing but fail for so long is disabled."""
    deliveries_per_worker: PositiveInt = 50
    slow_deliveries_per_worker: Annotated[int, Field(ge=0)] = 200
    """Beside those: deliveries whose receiver takes more than a second to answer."""

    # The API.
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    public_url: str = "http://127.0.0.1:8000"
    """The address of the API as callers reach it."""
    database_pool_size: PositiveInt = 10

    # Operation.
    worker_host: str = "127.0.0.1"
    worker_port: Annotated[int, Field(ge=0, le=65_535)] = 9101
    """Where a worker answers how it is; 0 for nowhere. Of several workers on one host each needs its own."""
    log_json: bool = False
    log_level: str = "INFO"
    log_requests: bool = True
    sentry_dsn: SecretStr | None = None
    """Where errors are sent to, if anywhere; needs the package `sentry-sdk`."""
    canary_number: str | None = None
    """A process, by its 20 digits, that is fetched now and then to see whether all of Autos works."""
    canary_interval_s: Annotated[float, Field(ge=60, le=1800)] = 900.0
    """Half of the hour, at most, after which the alert calls it lost (deploy/prometheus)."""
    metrics_token: SecretStr | None = None
    """Who has it as a bearer token may see `/metrics`; everybody may when unset."""
    otlp_endpoint: str | None = Field(None, validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    """The collector that traces are sent to, by OTLP over HTTP; with the extra `otel`."""

    def secrecy_ceiling(self, own: int | None) -> int:
        """Return up to which secrecy a client with a ceiling of its own, or none, may have documents."""
        return self.max_secrecy if own is None else min(own, self.max_secrecy)

    @property
    def session_url(self) -> str:
        """Where a session with PostgreSQL lasts: for who listens, and for changes of the schema."""
        return (self.database_direct_url or self.database_url).get_secret_value()

    @property
    def portal(self) -> SourceSettings:
        """The portal's settings."""
        return self._source("portal")

    @property
    def data_lake(self) -> SourceSettings:
        """The data lake's settings."""
        return self._source("data_lake")

    @property
    def sources(self) -> tuple[SourceSettings, ...]:
        """The settings of each source that some process comes from."""
        used = {self.source, *(chosen.partition("=")[2] for chosen in self.source_by_court)}
        return tuple(self._source(name) for name in _SOURCES if name in used)

    def source_of(self, number: str) -> SourceName:
        """Return where the process with these 20 digits comes from."""
        court = f"{number[13]}.{number[14:16]}"
        return next((name for name in _SOURCES if f"{court}={name}" in self.source_by_court), self.source)

    def _source(self, name: SourceName) -> SourceSettings:
        return SourceSettings(
            name=name,
            url=getattr(self, f"{name}_url"),
            token=getattr(self, f"{name}_token"),
            token_url=getattr(self, f"{name}_token_url"),
            client_id=getattr(self, f"{name}_client_id"),
            client_secret=getattr(self, f"{name}_client_secret"),
            refresh_token=getattr(self, f"{name}_refresh_token"),
            operator_cpf=self.data_lake_operator_cpf if name == "data_lake" else None,
            redirect_hosts=getattr(self, f"{name}_redirect_hosts"),
            concurrency=getattr(self, f"{name}_concurrency"),
            concurrency_start=getattr(self, f"{name}_concurrency_start"),
            read_timeout_s=self.portal_read_timeout_s,
            min_bytes_per_s=self.portal_min_bytes_per_s,
            breaker_failures=self.portal_breaker_failures,
            breaker_open_s=self.portal_breaker_open_s,
        )

    @property
    def key_ring(self) -> list[bytes]:
        """The keys of `secret_keys`."""
        return parse_keys(self.secret_keys.get_secret_value()) if self.secret_keys else []

    @field_validator("database_url", "database_direct_url")
    @classmethod
    def _read_database_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_postgres_url(value.get_secret_value())
        return value

    @field_validator("redis_url")
    @classmethod
    def _read_redis_url(cls, value: SecretStr) -> SecretStr:
        check_redis_url(value.get_secret_value())
        return value

    @field_validator("public_url")
    @classmethod
    def _read_public_url(cls, value: str) -> str:
        return public_address(value)

    @field_validator("canary_number")
    @classmethod
    def _read_number(cls, value: str | None) -> str | None:
        try:
            return parse_process_number(value) if value else None
        except InvalidProcessNumberError as error:
            raise ValueError(str(error)) from None

    @field_validator("secret_keys")
    @classmethod
    def _read_keys(cls, value: SecretStr | None) -> SecretStr | None:
        parse_keys(value.get_secret_value() if value else "")
        return value

    @field_validator(
        "source_by_court",
        "portal_redirect_hosts",
        "data_lake_redirect_hosts",
        "job_retry_delays_s",
        "webhook_schemes",
        "webhook_networks",
        "webhook_allowed_hosts",
        "webhook_denied_hosts",
        "webhook_ports",
        "webhook_retry_delays_s",
        mode="before",
    )
    @classmethod
    def _split_commas(cls, value: object) -> object:
        """Lists are written with commas in the environment: `AUTOS_WEBHOOK_PORTS=443,8443`."""
        return (
            [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        )

    @field_validator("source_by_court")
    @classmethod
    def _read_courts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        courts = {chosen.partition("=")[0] for chosen in value}
        if len(courts) < len(value) or not all(map(_COURT.fullmatch, value)):
            raise ValueError("names each court once, by the J.TR of its numbers: 8.26=data_lake,4.04=portal")
        return value

    @field_validator("data_lake_operator_cpf")
    @classmethod
    def _read_cpf(cls, value: SecretStr | None) -> SecretStr | None:
        digits = re.sub(r"[.\s-]", "", value.get_secret_value()) if value else ""
        if value and not _CPF.fullmatch(digits):
            raise ValueError("has to be a CPF, of 11 digits")
        return SecretStr(digits) if value else None

    @field_validator("log_level")
    @classmethod
    def _read_level(cls, value: str) -> str:
        if value.upper() not in logging.getLevelNamesMapping():
            raise ValueError("has to be DEBUG, INFO, WARNING or ERROR")
        return value

    @field_validator("s3_endpoint_url", "s3_public_url", "portal_url", "data_lake_url", "otlp_endpoint")
    @classmethod
    def _guard_address(cls, value: str | None) -> str | None:
        """Whoever calls it would say so too, in words that name no setting."""
        if value is not None:
            check_address(value)
        return value

    @field_validator("portal_token_url", "data_lake_token_url")
    @classmethod
    def _guard_token_url(cls, value: str | None) -> str | None:
        """A client secret goes there: in clear text to this machine only."""
        if value is None:
            return None
        url = urlsplit(value)
        is_safe = url.scheme == "https" or (url.scheme == "http" and _is_loopback(url.hostname or ""))
        if not is_safe or not url.hostname or "@" in url.netloc or url.fragment:
            raise ValueError("has to be an https URL without user name and fragment (http on loopback only)")
        return value

    @model_validator(mode="after")
    def _have_a_use_for_the_key(self) -> Self:
        if self.s3_kms_key_id is not None and self.s3_encryption != "aws:kms":
            raise ValueError("AUTOS_S3_KMS_KEY_ID needs AUTOS_S3_ENCRYPTION=aws:kms")
        return self

    @model_validator(mode="after")
    def _have_one_token_source(self) -> Self:
        for name in _SOURCES:
            self._check_token_source(name)
        return self

    def _check_token_source(self, source: SourceName) -> None:
        names = [f"{source}_{part}" for part in _SIGN_ON]
        url, client_id, secret, refresh_token = names
        given = [name for name in names if getattr(self, name) is not None]
        token = f"{source}_token"
        if getattr(self, token) is not None and given:
            raise ValueError(f"{_variable(token)} and {_variables(given)} are two sources of one token")
        needed = [name for name in (url, client_id) if name not in given]
        if given and needed:
            raise ValueError(f"{_variables(given)} cannot be used without {_variables(needed)}")
        if given and not {secret, refresh_token} & {*given}:
            raise ValueError(
                f"{_variable(url)} needs {_variable(secret)} (for client_credentials) or "
                f"{_variable(refresh_token)}"
            )


_SIGN_ON = ("token_url", "client_id", "client_secret", "refresh_token")


def _variables(names: list[str]) -> str:
    return ", ".join(map(_variable, names))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refusals(error: ValidationError) -> list[str]:
    """Say what is wrong with each setting that was refused; none of their values is repeated."""
    return [
        ": ".join(part for part in (_place(one["loc"]), one["msg"].removeprefix("Value error, ")) if part)
        for one in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def _place(place: tuple[int | str, ...]) -> str:
    name = str(place[0]) if place else ""
    return _variable(name) if name in Settings.model_fields else name


def _variable(name: str) -> str:
    return f"AUTOS_{name.upper()}"
