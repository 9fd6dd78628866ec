"""One connection to a box: opened with its host key checked, short commands, and the program that answers calls."""

import asyncio
import hmac
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Final

import asyncssh
import msgspec

from posthouse import errors
from posthouse.errors import Refused
from posthouse.providers.ssh.frames import BEGIN, CALLS, HEAD_BYTES, Answer, Call, Start, framed, length
from posthouse.providers.ssh.settings import Host

CONNECT_S: Final = 10.0
"""How long a box may take to be connected to, and to let one in, in seconds each."""
KEEPALIVE_S: Final = 5.0
KEEPALIVES: Final = 3
"""A connection on which so many questions, so far apart, get no answer is dead."""
COMMAND_S: Final = 30.0
"""How long a short command may take, in seconds; the start of the program, too."""
SAID_BYTES: Final = 4096
"""Most of what a short command prints, and of what is kept of the program's errors."""
NOISE_BYTES: Final = 2**16
"""Most that a login shell may print before a command begins."""
AGAIN: Final = {name: getattr(errors, name) for name in ("OfferTaken", "NotFound", "Refused")}
"""Errors that are raised here as they were there. `Busy` has a time beside its text."""

HOST_KEYS: Final = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp521", "rsa-sha2-512", "rsa-sha2-256")
"""Kinds of keys of boxes, the one that a fingerprint is most likely of first: a box shows only one of its own."""

asyncssh.set_log_level("WARNING")


class _Client(asyncssh.SSHClient):
    def __init__(self, fingerprint: str) -> None:
        """`fingerprint`: of the one key that is trusted; empty where a file has those that are."""
        self._fingerprint = fingerprint
        self.shown = ""
        """The key that the box showed, if nothing says that it is its own."""

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        found = key.get_fingerprint()
        self.shown = f"{found} ({key.get_algorithm()})"
        return bool(self._fingerprint) and hmac.compare_digest(found, self._fingerprint)


async def connect(host: Host, key: asyncssh.SSHKey) -> asyncssh.SSHClientConnection:
    """A connection to the box itself. Raises: Refused where an operator must act; OSError, TimeoutError."""
    client = _Client(host.host_key)
    path = str(host.known_hosts.expanduser())
    try:
        named = bool(host.host_key) or not _has_key(path, host)
        return await asyncssh.connect(
            host.address,
            host.port,
            config=None,
            client_factory=lambda: client,
            known_hosts=([], [], []) if host.host_key else path,
            server_host_key_algs=HOST_KEYS if named else (),  # else those that the file has
            username=host.user,
            client_keys=[key],
            agent_path=None,
            gss_host=None,
            preferred_auth="publickey",
            connect_timeout=CONNECT_S,
            login_timeout=CONNECT_S,
            keepalive_interval=KEEPALIVE_S,
            keepalive_count_max=KEEPALIVES,
        )
    except asyncssh.HostKeyNotVerifiable as error:
        trusted = f"`host_key` is {host.host_key}" if host.host_key else f"{host.known_hosts} has none or another"
        raise Refused(
            f"its host key is {client.shown or 'one that cannot be checked'}, and {trusted}; nothing was sent. Compare "
            "it with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the box itself before you trust it"
        ) from error
    except asyncssh.PermissionDenied as error:
        raise Refused(
            f"it does not let in user {host.user!r} with key_file {host.key_file}; add the public key to "
            "authorized_keys there"
        ) from error
    except FileNotFoundError as error:
        raise Refused(f"known_hosts {host.known_hosts} is not there; make it, or set `host_key`") from error
    except asyncssh.Error as error:
        raise ConnectionError(f"{error.reason or type(error).__name__}"[:200]) from error


def _has_key(path: str, host: Host) -> bool:
    """Whether the file has a key of the box. Raises: OSError."""
    port = None if host.port == 22 else host.port
    found = asyncssh.match_known_hosts(asyncssh.read_known_hosts(path), host.address, "", port)
    return bool(found[0] or found[1])


async def said(connection: asyncssh.SSHClientConnection, command: str, script: str = "") -> str:
    """What a command prints first, errors included, when it is given a script on stdin. Raises: OSError."""
    try:
        async with asyncio.timeout(COMMAND_S):
            process = await connection.create_process(command, encoding=None, stderr=asyncssh.STDOUT)
            try:
                process.stdin.write(script.encode())
                process.stdin.write_eof()
                out = b""
                while len(out) < NOISE_BYTES and (data := await process.stdout.read(NOISE_BYTES)):
                    out += data
                return out.decode(errors="replace")
            finally:
                process.close()
    except asyncssh.Error as error:
        raise ConnectionError(f"a command could not be run there: {error.reason}"[:200]) from error


class Link:
    """The program on a box, over one connection."""

    def __init__(self, connection: asyncssh.SSHClientConnection, process: asyncssh.SSHClientProcess[bytes]) -> None:
        self.connection = connection
        self._process = process
        self._errors = b""
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._why = ""
        """Why it is over, once it is."""
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._overhear())]

    @classmethod
    async def opened(cls, connection: asyncssh.SSHClientConnection, command: Sequence[str], start: Start) -> "Link":
        """Starts the program. Raises: Refused if it cannot work there; OSError, TimeoutError."""
        try:
            process = await connection.create_process(" ".join(command), encoding=None)
        except asyncssh.Error as error:
            raise ConnectionError(f"the agent could not be started there: {error.reason}"[:200]) from error
        link = cls(connection, process)
        try:
            await link._ask(0, framed(start), COMMAND_S)
        except BaseException:
            await link.close()
            raise
        return link

    @property
    def alive(self) -> bool:
        return not self._why

    async def call(self, name: str, *given: Any, limit_s: float) -> Any:
        """What the call of that name returns. It goes on there if nobody waits for it any more.

        Raises: what it raises there; ConnectionError and TimeoutError, after which its outcome is unknown.
        """
        number = next(self._numbers)
        call = Call(number, name, msgspec.Raw(msgspec.msgpack.encode(given)))
        answer = await self._ask(number, framed(call), limit_s)
        try:
            return msgspec.msgpack.decode(answer.value, type=CALLS[name][1])
        except Exception as error:
            raise RuntimeError(f"{name}: an answer that cannot be understood") from error

    async def close(self) -> None:
        """Lets go of the box. What it was asked to do goes on."""
        self._end("the connection was closed")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self, number: int, frame: bytes, limit_s: float) -> Answer:
        if self._why:
            raise ConnectionError(self._why)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            async with asyncio.timeout(limit_s):
                self._process.stdin.write(frame)
                answer = await future
        except TimeoutError as error:
            raise TimeoutError(f"no answer within {limit_s:g} s") from error
        finally:
            del self._waiting[number]
        if answer.error in ("Busy", "Unavailable", "TooMany"):
            raise errors.Busy(answer.text[:400], min(60.0, max(0.1, answer.retry_s)))
        if answer.error:
            raise AGAIN.get(answer.error, RuntimeError)(answer.text[:400])
        return answer

    async def _listen(self) -> None:
        """Hands answers to those who wait for them."""
        try:
            await self._skip_noise()
            while True:
                size = length(int.from_bytes(await self._process.stdout.readexactly(HEAD_BYTES), "big"))
                answer = msgspec.msgpack.decode(await self._process.stdout.readexactly(size), type=Answer)
                waiting = self._waiting.get(answer.id)
                if waiting is not None and not waiting.done():  # else it came too late
                    waiting.set_result(answer)
        except (asyncio.IncompleteReadError, asyncssh.Error, OSError):
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._tasks[1]), 1.0)
            last = self._errors.decode(errors="replace").strip().rpartition("\n")[2]
            self._end(f"the connection was lost{f': {last}' if last else ''}"[:300])
        except Exception as error:  # noqa: BLE001 - the seam of a connection: whatever a box sends, it ends this connection alone
            self._end(f"it sent what is no answer: {error!r}"[:300])

    async def _skip_noise(self) -> None:
        seen = b""
        while not seen.endswith(BEGIN):
            seen += await self._process.stdout.readexactly(1)
            if len(seen) > NOISE_BYTES:
                raise ValueError("its login shell prints too much")

    async def _overhear(self) -> None:
        """Keeps the end of what the program prints as errors."""
        with suppress(asyncssh.Error, OSError):
            while data := await self._process.stderr.read(SAID_BYTES):
                self._errors = (self._errors + data)[-SAID_BYTES:]

    def _end(self, why: str) -> None:
        """Tells those who wait that there will be no answer, and closes the connection."""
        self._why = self._why or why
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ConnectionError(self._why))
        self.connection.abort()
