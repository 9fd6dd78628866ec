"""The demo's workers as containers of an engine on this machine: Docker or podman.

They share the network of this machine, so that server and workers reach each other at 127.0.0.1 as processes do,
whatever the engine's own networks and firewalls are.
"""

import asyncio
import io
import os
import re
import secrets
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from rich.console import Console

from posthouse.errors import BadRequest, PosthouseError, Refused
from posthouse.providers.bundle import ldd
from posthouse.providers.docker.engine import Engine
from posthouse.providers.docker.layout import INSTALLATION, LABEL
from posthouse.providers.docker.stock import AGENT_MARK

USUAL: Final = "unix:///var/run/docker.sock"
HERE: Final = ("127.0.0.1", "localhost", "::1")
PROGRAMS: Final = ("sh", "cat", "chmod", "mkdir")
"""What the start of a worker uses of its image."""


@dataclass(frozen=True, slots=True)
class Containers:
    """Workers as containers of an engine."""

    engine: Engine
    settings: Mapping[str, object]
    provider: str = "docker"

    async def clear(self, installation: str) -> int:
        workers = set()
        for mark in (INSTALLATION, AGENT_MARK):
            volumes, containers = await self.engine.listed(f"{mark}={installation}")
            for container in containers:
                await self.engine.remove(container["Id"], anonymous=True)
            for volume in volumes:
                await self.engine.remove_volume(volume["Name"])
            workers |= {(found.get("Labels") or {}).get(LABEL) for found in (*containers, *volumes)}
        return len(workers - {None})


@asynccontextmanager
async def containers(url: str, image: str, console: Console) -> AsyncIterator[Containers]:
    """An engine that answers and has the image, which is one of the demo's own if none is named.

    Raises: BadRequest, Refused: by the name of the option that is to be mended.
    """
    option = "--engine" if url or "DOCKER_HOST" not in os.environ else "DOCKER_HOST"
    url = url or os.environ.get("DOCKER_HOST") or USUAL
    parts = urlsplit(url)
    if not (parts.path if parts.scheme == "unix" else parts.scheme == "tcp" and parts.hostname in HERE):
        raise BadRequest(f"{option} {url}: must be an engine of this machine, unix:///PATH or tcp://127.0.0.1:PORT")
    engine = Engine("docker", url, None)
    own = "" if image else f"localhost/posthouse-demo:{secrets.token_hex(4)}"
    try:
        try:
            await engine.info()
        except (OSError, PosthouseError) as error:
            raise Refused(f"{option} {url}: no engine answers there: {error}") from error
        if own:
            await engine.import_image(own, await asyncio.to_thread(_files))
        else:
            try:
                if not await engine.has_image(image):
                    console.print(f"pulling {image}")
                    await engine.pull(image, None, {})
            except (OSError, RuntimeError, PosthouseError) as error:
                raise Refused(f"--image: {error}") from error
        yield Containers(engine, {"url": url, "network": "host", "image": own or image})
    finally:
        if own:
            with suppress(OSError, PosthouseError):
                await engine.remove_image(own)
        await engine.close()


def _files() -> bytes:
    """The files of an image with just enough of this machine for a worker: a shell, and three commands.

    Raises: Refused where this machine's programs cannot be taken along.
    """
    out = io.BytesIO()
    programs = {name: Path(found).resolve() for name in PROGRAMS if (found := shutil.which(name))}
    try:
        printed = ldd(programs.values())
    except (OSError, subprocess.SubprocessError) as error:
        raise Refused(f"--image: none can be made here, as ldd does not work ({error}); name one with sh") from error
    with tarfile.open(fileobj=out, mode="w") as tar:
        tmp = tarfile.TarInfo("tmp")
        tmp.type, tmp.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(tmp)
        for name, program in programs.items():
            tar.add(program, f"bin/{name}")
        for library in sorted(set(re.findall(r"(/\S+) \(0x", printed))):
            tar.add(Path(library).resolve(), library.lstrip("/"))
    return out.getvalue()
