"""A real server of PostgreSQL, on a directory of its own, for as long as the tests run."""

import asyncio
import atexit
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from posthouse.store import open_store

PROGRAMS = Path("/usr/lib/postgresql")
"""Where Debian has them, by version."""
USER = "postgres"
CONFIG = """
fsync = off
listen_addresses = ''
max_connections = 200
shared_buffers = 32MB
"""


def database_url(name: str = "", like: str = "template1") -> str:
    """The URL of a database of the test server: a new one, or the one with this name, made if need be. Skips the test
    where PostgreSQL is not installed."""
    name = name or f"t{secrets.token_hex(6)}"
    folder = _server()
    made = _run("psql", "-h", str(folder), "-U", USER, "-qtAc", f'CREATE DATABASE "{name}" TEMPLATE "{like}"')
    assert made.returncode == 0 or "already exists" in made.stderr, made.stderr
    return f"postgresql://{USER}@/{name}?host={folder}"


def stored_url() -> str:
    """The URL of a new database that a store has made its tables in: to make them takes longer than most tests."""
    return database_url(like=_stored())


@cache
def _stored() -> str:
    async def opened() -> None:
        await (await open_store(database_url("stored"))).close()

    with ThreadPoolExecutor() as pool:  # this one may have an event loop
        pool.submit(asyncio.run, opened()).result()
    return "stored"


def query(url: str, sql: str) -> str:
    """What a database of the test server answers, as plain lines."""
    name = url.partition("@/")[2].partition("?")[0]
    made = _run("psql", "-h", str(_server()), "-U", USER, "-qtAc", sql, name)
    assert made.returncode == 0, made.stderr
    return made.stdout


def control(*words: str) -> None:
    """Has the test server started, stopped or restarted, by pg_ctl."""
    _control(_server() / "data", *words)


def listen(address: str) -> None:
    """Has the test server listen there, too, and trust whoever comes from that network."""
    data = _server() / "data"
    with (data / "postgresql.conf").open("a") as file:
        file.write(f"listen_addresses = '{address}'\n")
    with (data / "pg_hba.conf").open("a") as file:
        file.write("host all all samenet trust\n")
    _control(data, "restart")


def _control(data: Path, *words: str) -> None:
    done = _run(str(_program("pg_ctl")), "-D", str(data), "-w", "-l", str(data.parent / "log"), *words)
    assert done.returncode == 0, done.stdout + done.stderr


def _program(name: str) -> Path:
    found = sorted(PROGRAMS.glob(f"*/bin/{name}"))
    if not found:
        pytest.skip("PostgreSQL is not installed: apt install postgresql")
    return found[-1]


@cache
def _server() -> Path:
    """The folder of its socket."""
    initdb = str(_program("initdb"))
    folder = Path(tempfile.mkdtemp(prefix="posthouse-pg-"))
    folder.chmod(0o755)
    data = folder / "data"
    data.mkdir(mode=0o700)
    if os.getuid() == 0:
        owner = pwd.getpwnam(USER)
        for path in (folder, data):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    made = _run(initdb, "-D", str(data), "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
    assert made.returncode == 0, made.stdout + made.stderr
    with (data / "postgresql.conf").open("a") as file:
        file.write(f"unix_socket_directories = '{folder}'\n{CONFIG}")
    _control(data, "start")
    atexit.register(_end, data)
    return folder


def _end(data: Path) -> None:
    _run(str(_program("pg_ctl")), "-D", str(data), "-m", "immediate", "stop")
    shutil.rmtree(data.parent, ignore_errors=True)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs a program, as the user that PostgreSQL has on Debian where that is root, whom it refuses."""
    user = USER if os.getuid() == 0 else None
    return subprocess.run(command, user=user, cwd="/", capture_output=True, text=True, timeout=60, check=False)
