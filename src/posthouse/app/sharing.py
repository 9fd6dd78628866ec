"""One of several servers: what it has in common with the others, and what keeps it one of them."""

import asyncio
import secrets
import ssl
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from posthouse.app.supervise import supervised
from posthouse.domain.endpoint import EndpointId
from posthouse.engine.changes import Changes
from posthouse.engine.externals import NO_ENDPOINT
from posthouse.engine.hub import Hub
from posthouse.engine.lease import SharedLease
from posthouse.engine.owners import Owners
from posthouse.errors import Refused, Unavailable
from posthouse.files import write_over
from posthouse.server.auth import Keyring
from posthouse.server.middleware import Sharing
from posthouse.server.peers import ElsewhereMiddleware, FreshMiddleware, Peers
from posthouse.sharing import KEY_FILES, Servers

CAPPED_S, UNCAPPED_S = 0.5, 10.0
"""How often it is read what endpoints cost that other servers have: with caps on all together, and without."""
RENEWED: Final = "authority.cer"
"""Made again from its key when the server's names have changed."""


async def fetch_files(servers: Servers, data_dir: Path) -> None:
    """Copies the shared key files into the data directory. Raises: Refused if it has those of another installation."""
    for name in KEY_FILES:
        path, body = data_dir / name, await servers.shared_file(name)
        there = await asyncio.to_thread(path.read_bytes) if path.exists() else None
        if body is None or body == there:
            continue
        if there is not None and name != RENEWED:
            raise Refused(f"{path} is not that of the installation in the database: remove it if nothing needs it")
        await asyncio.to_thread(write_over, path, body)


async def share_files(servers: Servers, data_dir: Path) -> bool:
    """Shares the key files of the data directory. False if another server was first: then fetch them again."""
    for name in KEY_FILES:
        path = data_dir / name
        body = await asyncio.to_thread(path.read_bytes)
        if await servers.put_shared_file(name, body, replace=name == RENEWED) != body:
            for loser in KEY_FILES[KEY_FILES.index(name) :]:
                (data_dir / loser).unlink(missing_ok=True)
            return False
    return True


def server_id(data_dir: Path) -> str:
    """This server's id among the others. It is kept in the data directory, so it stays the same over restarts."""
    path = data_dir / "server-id"
    if not path.exists():
        write_over(path, secrets.token_hex(8).encode())
    return path.read_text(encoding="ascii")


def history_id(data_dir: Path) -> EndpointId:
    """The id under which a server stores what its gateways spend: below 0, and different for each server."""
    return EndpointId(NO_ENDPOINT - 1 - int(server_id(data_dir)[:7], 16))


@dataclass(frozen=True, slots=True)
class Shared:
    """The parts of a server that is one of several."""

    owners: Owners
    changes: Changes
    peers: Peers

    @property
    def of_api(self) -> Sharing:
        elsewhere, fresh = partial(ElsewhereMiddleware, peers=self.peers), partial(FreshMiddleware, peers=self.peers)
        return Sharing([elsewhere], [fresh], self.peers.others)


async def money(hub: Hub) -> None:
    """Reads what endpoints of other servers cost, again and again, until cancelled."""
    caps = hub.treasury.caps
    capped = any(cap is not None for cap in (caps.max_usd_h, caps.max_usd_day, caps.max_usd_month))
    while True:
        with suppress(Unavailable):
            await hub.treasury.meet(hub.store, hub.endpoints.keys(), hub.clock.now())
        await asyncio.sleep(CAPPED_S if capped else UNCAPPED_S)


async def join(
    lease: SharedLease,
    hub: Hub,
    keyring: Keyring,
    url: str,
    root_pem: bytes,
    hold_s: float,
    stack: AsyncExitStack,
) -> Shared:
    """Has this server live among the others until the stack ends. It has no endpoint yet.

    `url`: where they reach it. `root_pem`: of the authority of the installation. `hold_s`: how long calls are held.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(cadata=root_pem.decode())
    owners, changes = Owners(hub, lease, url), Changes(hub, keyring.replace)
    peers = Peers(hub, owners, changes, keyring.server_token, context, hold_s)
    stack.callback(peers.close)

    def notice(topic: str) -> None:
        owners.notice(topic)
        changes.notice(topic)

    lease.servers.on_notice = notice
    await owners.register()
    await stack.enter_async_context(supervised({"lease": owners.keep_lease}))
    return Shared(owners, changes, peers)
