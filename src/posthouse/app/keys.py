"""What an installation signs and seals with."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from posthouse.app import datadir, sharing
from posthouse.engine.clock import SystemClock
from posthouse.server.auth import load_secret
from posthouse.sharing import Servers
from posthouse.signing.authority import Authority
from posthouse.signing.rsa import RsaKey


@dataclass(frozen=True, slots=True)
class Keys:
    """What an installation signs and seals with: the files of its data directory."""

    secret: bytes
    signer: RsaKey
    authority: Authority


async def load_keys(data_dir: Path, clock: SystemClock, names: Collection[str], servers: Servers | None) -> Keys:
    """Those of the data directory, made if need be; where several servers share a database, those of all."""
    while servers is not None:
        await sharing.fetch_files(servers, data_dir)
        keys = await _own_keys(data_dir, clock, names)
        if await sharing.share_files(servers, data_dir):
            return keys
    return await _own_keys(data_dir, clock, names)


async def _own_keys(data_dir: Path, clock: SystemClock, names: Collection[str]) -> Keys:
    secret, signing, authority = data_dir / "secret", data_dir / "signing.pem", data_dir / "authority.pem"
    with datadir.needed(secret, "put it back from a backup, or remove it, which makes every key invalid"):
        secret_bytes = await asyncio.to_thread(load_secret, secret)
    advice = "put it back from a backup, or remove it: running workers of older generations then need a restart"
    with datadir.needed(signing, advice):
        signer = await asyncio.to_thread(RsaKey.load_or_create, signing)
    advice = "put it and authority.cer back from a backup, or remove both: workers with HTTPS are then to be replaced"
    with datadir.needed(authority, advice):
        return Keys(secret_bytes, signer, Authority(authority, clock.wall(), names))
