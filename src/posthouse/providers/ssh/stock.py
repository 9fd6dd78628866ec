"""What a box must have before it can be worked with: this server's Python and Posthouse, put there once."""

import asyncio
import platform
import re
import secrets
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, Final

import asyncssh
import structlog

from posthouse.errors import Refused
from posthouse.providers import bundle
from posthouse.providers.ssh.link import said
from posthouse.providers.ssh.settings import Host

log = structlog.get_logger()

BEYOND: Final = ("pydantic", "structlog")
"""What the program on a box needs beyond what every worker does."""
STALL_S: Final = 60.0
"""How long a copy may get on by nothing, in seconds."""
CHUNK_BYTES: Final = 2**17
MARK: Final = "@posthouse@"
"""What a login shell prints comes before it."""
PLAIN: Final = re.compile(r"/[A-Za-z0-9/._+-]*")
"""A path that means the same in every shell."""

LOOK: Final = """\
umask 077; root={root}; mkdir -p "$root/agents" "$root/workers" && chmod 711 "$root/agents" && cd "$root" || exit
echo {mark}; pwd -P; uname -sm; cat agents/{version}/complete 2>&1; echo {mark}
"""
SETTLE: Final = """\
cd {agents} || exit
[ -e {version}/complete ] || {{ rm -rf {version}; mv {draft} {version}; }}; rm -rf {draft}
echo {mark}; cat {version}/complete; echo {mark}
"""


async def python_of(
    host: Host, connection: asyncssh.SSHClientConnection, progress: Callable[[str], None]
) -> tuple[str, str]:
    """The box's directory for all of ours, and a Python there that has this Posthouse. `progress` is told of a copy.

    Raises: Refused where an operator must act; OSError, TimeoutError.
    """
    version = await asyncio.to_thread(bundle.version, BEYOND)
    root = host.dir or '"${HOME:?}/.posthouse"'
    answer = await said(connection, "sh -s", LOOK.format(root=root, mark=MARK, version=version))
    _, *found = answer.split(MARK)
    if len(found) != 2 or len(lines := found[0].strip().split("\n")) < 3:
        raise Refused(f"dir: cannot be made or used there: {answer.strip()[-300:]!r}")
    path, system, complete = (line.strip() for line in lines[:3])
    if not PLAIN.fullmatch(path):
        raise Refused(f"dir: {path[:100]!r} may have letters, digits and /._+- only; set another")
    if host.python:
        return path, host.python
    own = f"{platform.system()} {platform.machine()}"
    if system != own:
        raise Refused(f"python: this server is {own} and the box {system[:60]}; set a Python there that has posthouse")
    if complete != version:
        await _bring(host, connection, f"{path}/agents", version, progress)
    return path, f"{path}/agents/{version}/bin/python3"


async def _bring(
    host: Host, connection: asyncssh.SSHClientConnection, agents: str, version: str, progress: Callable[[str], None]
) -> None:
    log.info("copying the agent to a box", box=host.name, version=version)
    progress("the agent is being packed")
    draft = f".new-{secrets.token_hex(4)}"
    with tempfile.TemporaryFile() as archive:
        size = await asyncio.to_thread(_pack, f"{agents}/{version}", archive)
        try:
            process = await connection.create_process(
                f"sh -c 'umask 022; mkdir {agents}/{draft} && tar -xzf - -C {agents}/{draft}'",
                encoding=None,
                stderr=asyncssh.STDOUT,
            )
            with suppress(OSError, asyncssh.Error):  # it ended early; what it said tells why
                await _send(process, archive, size, progress)
            async with asyncio.timeout(STALL_S):
                process.stdin.write_eof()
                wrong = (await process.stdout.read(4096)).decode(errors="replace").strip()
                await process.wait_closed()
        except asyncssh.Error as error:
            raise ConnectionError(f"the agent could not be copied: {error.reason}"[:200]) from error
    script = SETTLE.format(agents=agents, version=version, draft=draft, mark=MARK)
    if process.exit_status != 0:
        script = f"rm -rf {agents}/{draft}; echo {MARK}"
    answer = await said(connection, "sh -s", script)
    if process.exit_status != 0 or answer.split(MARK)[1:2] != [f"\n{version}"]:
        raise Refused(f"the agent could not be unpacked in {agents}: {wrong[-200:] or answer[-200:]}")


def _pack(root: str, out: BinaryIO) -> int:
    """Writes the archive, compressed, and returns its size in bytes."""
    with tempfile.TemporaryFile() as plain:
        bundle.archive(root, plain, "`python` of the host", BEYOND)
        plain.seek(0)
        packer = zlib.compressobj(level=1, wbits=31)
        while data := plain.read(CHUNK_BYTES):
            out.write(packer.compress(data))
        out.write(packer.flush())
    size = out.tell()
    out.seek(0)
    return size


async def _send(
    process: asyncssh.SSHClientProcess[bytes], archive: BinaryIO, size: int, progress: Callable[[str], None]
) -> None:
    while data := archive.read(CHUNK_BYTES):
        process.stdin.write(data)
        async with asyncio.timeout(STALL_S):
            await process.stdin.drain()
        progress(f"the agent is being copied: {archive.tell() / 1e6:.0f} of {size / 1e6:.0f} MB")
