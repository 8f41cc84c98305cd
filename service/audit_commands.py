"""The operator's looks into what was done: the audit log, accesses to documents, receipts of erasures."""

import argparse
import csv
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson

from service.argument_types import moment, positive
from service.core import accesses, audit, cnj, db, erasures
from service.core.settings import Settings

if TYPE_CHECKING:
    from service.argument_types import Commands


async def show_audit(settings: Settings, arguments: argparse.Namespace) -> None:
    """Show the newest entries of the audit log or of the accesses, or export them."""
    if arguments.export:
        await _export(settings, arguments)
    elif arguments.accesses:
        await _show_accesses(settings, arguments)
    else:
        await _show_audit_log(settings, arguments)


async def _export(settings: Settings, arguments: argparse.Namespace) -> None:
    log = accesses if arguments.accesses else audit
    write = _write_csv(log.EXPORTED) if arguments.format == "csv" else _write_json
    # A connection without the bounds of the service's: who reads may take his time.
    async with db.open_connection(settings) as conn:
        found = log.export(conn, client=arguments.client, since=arguments.since, until=arguments.until)
        async with aclosing(found) as entries:
            async for entry in entries:
                write(entry)


def _write_json(entry: Mapping[str, Any]) -> None:
    # asyncpg has a UUID class of its own, which orjson does not know.
    print(orjson.dumps(entry, default=str, option=orjson.OPT_UTC_Z).decode())


def _write_csv(names: Sequence[str]) -> Callable[[Mapping[str, Any]], None]:
    """Write the line of names; return what writes the others."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)

    def write(entry: Mapping[str, Any]) -> None:
        writer.writerow([_csv_value(entry[name]) for name in names])

    return write


def _csv_value(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return orjson.dumps(value).decode() if isinstance(value, dict) else value


async def _show_accesses(settings: Settings, arguments: argparse.Namespace) -> None:
    async with db.open_database(settings) as database, database.connection() as conn:
        for one in await accesses.list_latest(conn, client=arguments.client, limit=arguments.limit):
            key = f"key {one.key_id} of {one.key_client}" if one.key_id else "webhook"
            said = f"{one.at:%Y-%m-%d %H:%M:%S}  {one.action:18} {one.subject}  {one.documents:5}"
            print(f"{said}  {one.client} ({key})  {one.request_id or ''}".rstrip())


async def _show_audit_log(settings: Settings, arguments: argparse.Namespace) -> None:
    async with db.open_database(settings) as database, database.connection() as conn:
        for one in await audit.list_latest(conn, client=arguments.client, limit=arguments.limit):
            who = f"{one.client} (key {one.key_id})" if one.key_id else one.client
            details = " ".join(f"{name}={value}" for name, value in one.details.items())
            print(f"{one.at:%Y-%m-%d %H:%M:%S}  {one.action:24} {one.subject or '-'!s:36}  {who}  {details}")


async def list_erasures(settings: Settings, arguments: argparse.Namespace) -> None:
    """Show the newest erasures: when, at whose wish, and how much."""
    async with db.open_database(settings) as database, database.connection() as conn:
        for client, one in await erasures.list_latest(conn, limit=arguments.limit):
            state = f"finished {one.finished_at:%Y-%m-%d %H:%M:%S}" if one.finished_at else "under way"
            counts = " ".join(f"{name}={count}" for name, count in dataclasses.asdict(one.counts).items())
            who = f"{client} (for everyone)" if one.of_everyone else client
            print(f"{one.requested_at:%Y-%m-%d %H:%M:%S}  {one.id}  {state:28}  {who}  {counts}")


async def check_erasure(settings: Settings, arguments: argparse.Namespace) -> int:
    """Say whether a receipt is about a process; return 1 when it is not, or the erasure is under way."""
    async with db.open_database(settings) as database, database.connection() as conn:
        found = await erasures.get(conn, arguments.id)
    if not erasures.is_about(found.proof, cnj.parse_process_number(arguments.number)):
        print("this receipt is about another process")
        return 1
    counts = ", ".join(f"{count} {name}" for name, count in dataclasses.asdict(found.counts).items())
    print(f"this receipt is about the process: {counts.replace('_', ' ')}")
    if found.finished_at is None:
        print("files may be left: the erasure is under way")
        return 1
    print(f"nothing was left of it on {found.finished_at:%Y-%m-%d at %H:%M:%S} UTC")
    return 0


def add_audit(commands: "Commands") -> None:
    """Describe `audit`."""
    log = commands.add_parser("audit", help="show the newest entries of the audit log, or export all of them")
    log.add_argument("--accesses", action="store_true", help="of the log of accesses to documents instead")
    log.add_argument("--client", help="of this client only")
    log.add_argument("--limit", type=positive, default=50, help="how many (default: 50)")
    log.add_argument("--export", action="store_true", help="write all entries, the oldest first")
    log.add_argument("--since", type=moment, help="export those from this time on (2026-03-02T12:00:00Z)")
    log.add_argument("--until", type=moment, help="export those before this time")
    log.add_argument("--format", choices=("jsonl", "csv"), default="jsonl", help="of the export (jsonl)")
    log.set_defaults(run=show_audit)


def add_erasures(commands: "Commands") -> None:
    """Describe `erasures`."""
    receipts = commands.add_parser("erasures", help="receipts of erasures").add_subparsers(required=True)
    listed = receipts.add_parser("list", help="list the newest ones")
    listed.add_argument("--limit", type=positive, default=50, help="how many (default: 50)")
    listed.set_defaults(run=list_erasures)
    check = receipts.add_parser("check", help="say whether a receipt is about a process, and is finished")
    check.add_argument("id", type=UUID)
    check.add_argument("number", help="process number, masked or its 20 digits")
    check.set_defaults(run=check_erasure)
