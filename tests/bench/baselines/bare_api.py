"""`python -m tests.bench.baselines.bare_api --port N`: what aiohttp and asyncpg do with nothing around them.

It serves from Autos' own tables (`DATABASE_URL`), says `ready` when it listens, and ends on SIGTERM or with
its parent. Its server is set up as that of Autos is.
"""

import argparse
import asyncio
import hashlib
import os
import signal
from contextlib import suppress

import asyncpg
import orjson
import uvloop
from aiohttp import web

POOL = web.AppKey("pool", asyncpg.Pool)

_POOL_SIZE = 10
_PARENT_EVERY_S = 1.0
# About as large as a status of Autos without documents.
_BODY = orjson.dumps({"status": "completed", "filling": "x" * 960})
_HEADERS = {"Cache-Control": "private, no-cache", "ETag": 'W/"0123abcd-7"'}


async def get_static(request: web.Request) -> web.Response:
    """Answer with what is there already: no answer of the same server can be had for less."""
    return web.Response(body=_BODY, content_type="application/json", headers=_HEADERS)


async def get_unchanged(request: web.Request) -> web.Response:
    """Say that there is nothing new."""
    return web.Response(status=304, headers=_HEADERS)


async def get_status(request: web.Request) -> web.Response:
    """Show the newest job of a process with its documents: three reads, and JSON straight from the rows."""
    key_sha256 = hashlib.sha256(request.headers.get("X-API-Key", "").encode()).digest()
    number = request.match_info["number"]
    async with request.app[POOL].acquire() as conn:
        client_id = await conn.fetchval("select client_id from api_keys where key_sha256 = $1", key_sha256)
        if client_id is None:
            raise web.HTTPUnauthorized
        job = await conn.fetchrow(
            """select id, process_number, status, sequence, total_documents, completed_documents,
                      failed_documents, processing_documents, progress_percentage, downloaded_bytes,
                      expected_bytes, error_code, error_message, created_at, started_at, finished_at
               from jobs where process_number = $1
               and exists (select from subscriptions s where s.job_id = jobs.id and s.client_id = $2)
               order by created_at desc limit 1""",
            number,
            client_id,
        )
        if job is None:
            raise web.HTTPNotFound
        documents = await conn.fetch(
            """select id, portal_uuid, position, name, type, status, size_bytes, media_type,
                      encode(sha256, 'hex') as sha256, filed_at, error_code, error_message, attempts,
                      download_started_at, download_completed_at
               from documents where process_number = $1 order by position desc, id""",
            number,
        )
    body = orjson.dumps({**job, "documents": [dict(row) for row in documents]}, default=str)
    return web.Response(body=body, content_type="application/json")


async def create_job(request: web.Request) -> web.Response:
    """Take a process's number down in one row."""
    number = orjson.loads(await request.read())["process_number"]
    job_id = await request.app[POOL].fetchval(
        "insert into bare_jobs (process_number, client) values ($1, $2) returning id",
        number,
        request.headers.get("X-API-Key", "")[-4:],
    )
    body = orjson.dumps({"job_id": job_id, "process_number": number, "status": "pending"}, default=str)
    return web.Response(status=202, body=body, content_type="application/json")


async def serve(port: int) -> None:
    """Answer until SIGTERM comes or the parent is gone."""
    async with asyncpg.create_pool(
        os.environ["DATABASE_URL"], min_size=_POOL_SIZE, max_size=_POOL_SIZE
    ) as pool:
        await pool.execute(
            """create table if not exists bare_jobs (
                   id             uuid primary key default gen_random_uuid(),
                   process_number text,
                   client         text,
                   created_at     timestamptz default now()
               )"""
        )
        app = web.Application(client_max_size=64 * 1024)
        app[POOL] = pool
        app.add_routes(
            [
                web.get("/static", get_static, allow_head=False),
                web.get("/static/304", get_unchanged, allow_head=False),
                web.get("/processes/{number}/status", get_status, allow_head=False),
                web.post("/jobs", create_job),
            ]
        )
        # As in `service/serve.py`.
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=75.0,
            shutdown_timeout=1.0,
            auto_decompress=False,
            lingering_time=0,
            max_line_size=16 * 1024,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port, reuse_port=False).start()
            print("ready", flush=True)
            await _until_asked_to_end()
        finally:
            await runner.cleanup()


async def _until_asked_to_end() -> None:
    stop, parent = asyncio.Event(), os.getppid()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    while not stop.is_set() and os.getppid() == parent:
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _PARENT_EVERY_S)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))
