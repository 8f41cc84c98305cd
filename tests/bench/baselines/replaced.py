"""The design that Autos replaced, as good as it can be: Celery tasks, blocking SQLAlchemy, boto3.

One task fetches one process: its documents one after the other, each whole in memory and through a file. The
fixed pauses of a second between them, which that system had, are left out.

    python -m celery -A tests.bench.baselines.replaced worker --pool prefork --concurrency 4 \
        --loglevel WARNING --without-gossip --without-mingle --without-heartbeat
"""

import os
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID, uuid4

import boto3
import urllib3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from celery import Celery
from celery.signals import worker_process_init
from sqlalchemy import URL, DateTime, Engine, ForeignKey, Index, Text, create_engine, func, make_url, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, sessionmaker

LINK_TTL_S = 3600

_SLICE = 5
_TIMEOUT_S = 60.0


class PortalError(Exception):
    """The portal's answer is not what was asked for."""


# Tables -------------------------------------------------------------------------------------------


class Table(DeclarativeBase):
    """What all tables share: their times have a zone."""

    type_annotation_map = {datetime: DateTime(timezone=True), str: Text}  # noqa: RUF012  # SQLAlchemy's form


class Job(Table):
    """One run for one process; `status`: pending, processing, completed, partial, failed."""

    __tablename__ = "replaced_jobs"
    __table_args__ = (Index("replaced_jobs_by_process", "process_number", "created_at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    process_number: Mapped[str]
    status: Mapped[str] = mapped_column(default="pending")
    total_documents: Mapped[int] = mapped_column(default=0)
    completed_documents: Mapped[int] = mapped_column(default=0)
    failed_documents: Mapped[int] = mapped_column(default=0)
    error_message: Mapped[str | None]
    webhook_url: Mapped[str | None]
    webhook_sent: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    documents: Mapped[list["Document"]] = relationship(order_by="Document.position")


class Document(Table):
    """One file of a job; `size` in bytes; `status`: pending, processing, available, failed."""

    __tablename__ = "replaced_documents"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("replaced_jobs.id"), index=True)
    position: Mapped[int]
    uuid: Mapped[UUID]
    name: Mapped[str]
    href: Mapped[str]
    status: Mapped[str] = mapped_column(default="pending")
    size: Mapped[int | None]
    mime_type: Mapped[str | None]
    object_key: Mapped[str | None]
    download_url: Mapped[str | None]
    error_message: Mapped[str | None]
    download_started_at: Mapped[datetime | None]
    download_completed_at: Mapped[datetime | None]


class Key(Table):
    """A key of the API, by its SHA-256 in hexadecimal."""

    __tablename__ = "replaced_keys"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]


def create_tables() -> None:
    """Make the tables in the database of DATABASE_URL unless they are there, and empty them."""
    engine = open_engine()
    Table.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("truncate replaced_keys, replaced_documents, replaced_jobs"))
    engine.dispose()


# What a process opens once ------------------------------------------------------------------------


class S3(Protocol):
    """What we use of boto3's client."""

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, ContentType: str) -> object:  # noqa: N803
        """Store an object."""

    def generate_presigned_url(self, method: str, *, Params: dict[str, str], ExpiresIn: int) -> str:  # noqa: N803
        """Sign a link that lasts so many seconds."""


@dataclass(frozen=True)
class _Tools:
    sessions: sessionmaker[Session]
    http: urllib3.PoolManager
    s3: S3
    portal_url: str
    bucket: str


def database_url(driver: str) -> URL:
    """Return DATABASE_URL as SQLAlchemy wants it for a driver."""
    return make_url(os.environ["DATABASE_URL"]).set(drivername=f"postgresql+{driver}")


def open_engine(connections: int = 1) -> Engine:
    """Return a blocking engine, over psycopg2."""
    return create_engine(database_url("psycopg2"), pool_size=connections, max_overflow=0)


def open_s3() -> S3:
    """Return a client for the S3 that the environment names."""
    s3: S3 = boto3.client(
        "s3",
        endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"],
        aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        region_name=os.environ.get("AWS_REGION", "us-east-1"),
        # In its favour, and as Autos has it: no body is read once more for a checksum or a signature.
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path", "payload_signing_enabled": False},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
    return s3


def link(s3: S3, key: str) -> str:
    """Return a link to the object that needs no key and lasts an hour."""
    where = {"Bucket": os.environ["AUTOS_BUCKET"], "Key": key}
    return s3.generate_presigned_url("get_object", Params=where, ExpiresIn=LINK_TTL_S)


@cache
def _tools() -> _Tools:
    """Open what this worker process needs: engine and clients do not survive a fork."""
    return _Tools(
        # Rows are this task's alone: nothing has to be read again after a commit.
        sessions=sessionmaker(open_engine(), expire_on_commit=False),
        http=urllib3.PoolManager(
            maxsize=1,
            headers={"Authorization": f"Bearer {os.environ['AUTOS_PORTAL_TOKEN']}"},
            timeout=urllib3.Timeout(_TIMEOUT_S),
            retries=urllib3.Retry(3, backoff_factor=0.5, status_forcelist=(429, 502, 503, 504)),
        ),
        s3=open_s3(),
        portal_url=os.environ["AUTOS_PORTAL_URL"].rstrip("/"),
        bucket=os.environ["AUTOS_BUCKET"],
    )


def _open_tools(**_: object) -> None:
    _tools()


app = Celery("replaced", broker=os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"))
app.conf.update(
    # A queue of its own, so that it can share a Redis.
    task_default_queue="replaced",
    task_ignore_result=True,
    task_serializer="json",
    accept_content=["json"],
    task_acks_late=False,
    worker_prefetch_multiplier=1,
    worker_disable_rate_limits=True,
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
)
worker_process_init.connect(_open_tools)


# The task -----------------------------------------------------------------------------------------


@app.task(name="replaced.fetch_process")  # type: ignore[untyped-decorator]  # Celery has no types
def fetch_process(job_id: str) -> None:
    """Fetch the process of a job with all its documents."""
    tools = _tools()
    with tools.sessions() as session:
        job = session.get_one(Job, UUID(job_id))
        job.status, job.started_at = "processing", _now()
        session.commit()
        try:
            documents = _list_documents(tools, job)
        except (PortalError, urllib3.exceptions.HTTPError) as error:
            job.status, job.error_message, job.completed_at = "failed", str(error), _now()
            session.commit()
            return
        job.total_documents = len(documents)
        session.add_all(documents)
        session.commit()
        for start in range(0, len(documents), _SLICE):
            _fetch_slice(tools, session, job, documents[start : start + _SLICE])
        job.status, job.completed_at = _final_status(job), _now()
        session.commit()


def _list_documents(tools: _Tools, job: Job) -> list[Document]:
    answer = tools.http.request("GET", f"{tools.portal_url}/processos/{job.process_number}")
    if answer.status != 200:
        raise PortalError(f"the portal answered {answer.status}")
    try:
        listed = answer.json()[0]["tramitacaoAtual"]["documentos"] or []
        return [_document(job, position, one) for position, one in enumerate(listed)]
    except (ValueError, LookupError, TypeError) as error:
        raise PortalError("the portal described the process in another form") from error


def _document(job: Job, position: int, listed: dict[str, Any]) -> Document:
    href = listed["hrefBinario"]
    return Document(
        job_id=job.id,
        position=position,
        uuid=UUID(href.split("/")[-2]),
        name=listed["nome"],
        href=href,
        mime_type=(listed.get("arquivo") or {}).get("tipo"),
    )


def _fetch_slice(tools: _Tools, session: Session, job: Job, documents: list[Document]) -> None:
    """Fetch them in turn; each is committed together with the job's counters when it has come."""
    for document in documents:
        document.status, document.download_started_at = "processing", _now()
    session.commit()
    for document in documents:
        try:
            _fetch(tools, job, document)
        except (PortalError, urllib3.exceptions.HTTPError, ClientError, BotoCoreError) as error:
            document.status, document.error_message = "failed", str(error)
            job.failed_documents += 1
        else:
            document.status = "available"
            job.completed_documents += 1
        document.download_completed_at = _now()
        session.commit()


def _fetch(tools: _Tools, job: Job, document: Document) -> None:
    answer = tools.http.request("GET", tools.portal_url + document.href)
    if answer.status != 200:
        raise PortalError(f"the portal answered {answer.status}")
    media_type = document.mime_type or answer.headers.get("Content-Type", "application/octet-stream")
    body = _through_file(answer.data)
    key = f"replaced/{job.process_number}/{document.uuid}"
    tools.s3.put_object(Bucket=tools.bucket, Key=key, Body=body, ContentType=media_type)
    document.size, document.mime_type, document.object_key = len(body), media_type, key
    document.download_url = link(tools.s3, key)


def _through_file(body: bytes) -> bytes:
    """Write the body to a file and read it back, as that system did on its way to S3."""
    with tempfile.NamedTemporaryFile(prefix="replaced-") as file:
        file.write(body)
        file.flush()
        return Path(file.name).read_bytes()


def _final_status(job: Job) -> str:
    if not job.failed_documents:
        return "completed"
    return "partial" if job.completed_documents else "failed"


def _now() -> datetime:
    return datetime.now(UTC)
