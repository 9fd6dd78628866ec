"""An engine's API: its calls with a time limit each, and what each error means."""

import asyncio
import json
import ssl
import tarfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import aiodocker
from aiodocker import DockerError

from posthouse.errors import Busy, NotFound, Refused
from posthouse.ports import RegistryLogin

CALL_S: Final = 60.0
"""How long an engine may take for a call, in seconds, beyond what it waits for by itself."""
STALL_S: Final = 600.0
"""How long a pull may say nothing, in seconds."""
RETRY_S: Final = 2.0
NO_CONNECTION: Final = 900
"""Status of the client where no engine answers."""
REMOVAL_PAUSES_S: Final = (0.2, 0.5, 1.0, 2.0)
"""Before a removal is tried again while an earlier call is at it."""
MAX_LAYERS: Final = 1000
ARCHIVE_BYTES: Final = 16 * 2**20
"""Most that is read of a file in a container."""


class NameTaken(Exception):
    """There is a container of that name."""


class PortTaken(Busy):
    """Something else on the host has a port."""


MEANINGS: Final = (
    (("no space left on device", "disk quota exceeded"), Refused, "the engine's disk is full; remove images"),
    (("port is already allocated", "address already in use", "ports are not available"), PortTaken, "a port is taken"),
    (
        ("could not select device driver", "nvidia-container", "libnvidia-ml", "unresolvable CDI"),
        Refused,
        "the engine has no GPU runtime; install the NVIDIA Container Toolkit there",
    ),
    (("storage-opt is supported only", "storage opt", "--storage-opt"), Refused, "limit_disk: its driver has no limit"),
    (("toomanyrequests", "too many requests", "rate limit"), Busy, "the registry asks to wait"),
    (
        ("unauthorized", "authentication required", "denied", "no basic auth credentials", "incorrect username"),
        Refused,
        "its registry refuses it; add or mend the secret REGISTRY_LOGIN, `HOST USER PASSWORD`",
    ),
    (
        ("manifest unknown", "no such image", "not found", "does not exist", "invalid reference", "name unknown"),
        Refused,
        "there is no such image",
    ),
)
"""What an engine's words mean, the first that fits: Docker's and podman's."""


def meaning(what: str, error: DockerError) -> Exception:
    """The error as the engine of Posthouse understands it. `what` was tried, in words."""
    text = f"{what}: {error.message}"[:400]
    low = error.message.lower()
    if error.status == NO_CONNECTION:
        return ConnectionError(text)
    if "already in use" in low and "name" in low and "address" not in low:
        return NameTaken(text)
    if "is already in progress" in low or "is in use" in low or "being used" in low:
        return Busy(text, RETRY_S)
    if error.status == 404 and ("no such container" in low or "no such volume" in low or "no container" in low):
        return NotFound(text)
    for words, kind, said in MEANINGS:
        if any(word.lower() in low for word in words):
            told = f"{what}: {said} ({error.message})"[:400]
            return Refused(told) if kind is Refused else (PortTaken if kind is PortTaken else Busy)(told, RETRY_S)
    return Refused(text) if 400 <= error.status < 500 else RuntimeError(text)


@asynccontextmanager
async def trying(what: str, limit_s: float = CALL_S) -> AsyncIterator[None]:
    """Bounds what is tried, and gives its errors their meaning."""
    try:
        async with asyncio.timeout(limit_s):
            yield
    except DockerError as error:
        raise meaning(what, error) from error
    except TimeoutError as error:
        raise TimeoutError(f"{what}: the engine gave no answer within {limit_s:g} s") from error


class Engine:
    """A client of one engine."""

    def __init__(self, name: str, url: str, tls_dir: Path | None) -> None:
        """`name`: of the provider, for messages. Raises: Refused for certificates that cannot be used."""
        self._name = name
        context = None
        if tls_dir is not None:
            url = "https://" + url.partition("://")[2]
            try:
                context = ssl.create_default_context(cafile=str(tls_dir / "ca.pem"))
                context.load_cert_chain(tls_dir / "cert.pem", tls_dir / "key.pem")
            except OSError as error:
                raise Refused(f"providers.{name}.tls_dir {tls_dir}: ca.pem, cert.pem or key.pem: {error}") from error
        self._url, self._tls = url, context
        self._docker: aiodocker.Docker | None = None

    @property
    def docker(self) -> aiodocker.Docker:
        """The client, made within the loop that uses it."""
        if self._docker is None:
            self._docker = aiodocker.Docker(self._url, ssl_context=self._tls)
        return self._docker

    async def close(self) -> None:
        if self._docker is not None:
            await self._docker.close()

    async def info(self) -> Mapping[str, Any]:
        async with trying("info"):
            return await self.docker.system.info()

    async def listed(self, label: str) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
        """The volumes and the containers that carry a label, `NAME=VALUE`, running or not."""
        filters = {"label": [label]}
        async with trying("list"):
            # The containers first: one whose volume is missing then is one that was made in between.
            containers = await self.docker.containers.list(all=True, filters=json.dumps(filters))
            volumes = await self.docker.volumes.list(filters=filters)
        return volumes.get("Volumes") or [], [c._container for c in containers]

    async def has_image(self, image: str) -> bool:
        async with trying(f"image {image}"):
            try:
                await self.docker.images.inspect(image)
            except DockerError as error:
                if error.status == 404:
                    return False
                raise
        return True

    async def pull(self, image: str, login: RegistryLogin | None, layers: dict[str, tuple[int, int]]) -> None:
        """Pulls an image; meanwhile `layers` has the bytes so far and in all, by layer."""
        auth = None
        if login is not None:
            auth = {"username": login.user, "password": login.password}
            if not image.startswith(f"{login.host}/"):  # images of Docker's own registry need not name it
                image = f"{login.host}/{'' if '/' in image else 'library/'}{image}"
        what = f"image {image}"
        async with trying(what, 24 * 3600.0):
            steps = aiter(self.docker.images.pull(image, auth=auth, stream=True))
            while True:
                try:
                    async with asyncio.timeout(STALL_S):
                        step = await anext(steps)
                except StopAsyncIteration:
                    break
                detail = step.get("progressDetail") or {}
                if detail.get("total") and (step.get("id") in layers or len(layers) < MAX_LAYERS):
                    layers[step["id"]] = (detail.get("current", 0), detail["total"])
        if not await self.has_image(image):
            raise RuntimeError(f"{what}: the engine ended the pull before it was whole")

    async def import_image(self, image: str, files: bytes) -> None:
        """Makes an image of an archive of its files."""
        params = {"fromSrc": "-", "repo": image}  # with its tag: podman knows no other way to give it
        query = self.docker._query("images/create", "POST", params=params, data=files)
        async with trying(f"image {image}", 10 * CALL_S), query as response:
            await response.read()

    async def remove_image(self, image: str) -> None:
        async with trying(f"removal of image {image}"):
            await self.docker.images.delete(image)

    async def create(self, name: str, body: dict[str, Any]) -> str:
        """The id of a new container. Raises: NameTaken."""
        async with trying(f"container {name}"):
            return (await self.docker.containers.create(body, name=name)).id

    async def inspect(self, container: str) -> dict[str, Any]:
        async with trying(f"container {container[:12]}"):
            return await self.docker.containers.container(container).show()

    async def start(self, container: str) -> None:
        async with trying(f"start of container {container[:12]}"):
            await self.docker.containers.container(container).start()

    async def stop(self, container: str, grace_s: int) -> None:
        async with trying(f"stop of container {container[:12]}", grace_s + CALL_S):
            await self.docker.containers.container(container).stop(t=grace_s)

    async def rename(self, container: str, name: str) -> None:
        """One that has the name already is success: an earlier call, whose answer nobody waited for, may be done."""
        try:
            async with trying(f"name of container {container[:12]}"):
                await self.docker.containers.container(container).rename(name)
        except (Refused, NameTaken):
            if (await self.inspect(container))["Name"].removeprefix("/") != name:
                raise

    async def remove(self, container: str, *, anonymous: bool) -> None:
        """Ends a container and removes it, with its anonymous volumes if so wished. One that is gone is success."""
        pauses_s = iter(REMOVAL_PAUSES_S)
        with suppress(NotFound):
            while True:
                try:
                    async with trying(f"removal of container {container[:12]}"):
                        await self.docker.containers.container(container).delete(force=True, v=anonymous)
                    return
                except Busy:
                    if (pause_s := next(pauses_s, None)) is None:
                        raise
                    await asyncio.sleep(pause_s)

    async def logs(self, container: str, tail: int) -> bytes:
        """The last lines that a container printed. An engine keeps a few MB of them."""
        async with trying(f"logs of container {container[:12]}"):
            lines = await self.docker.containers.container(container).log(stdout=True, stderr=True, tail=tail)
        return "".join(lines).encode()

    async def make_volume(self, name: str, labels: Mapping[str, str]) -> Mapping[str, str]:
        """The labels of the volume, which are these if there was none of the name."""
        async with trying(f"volume {name}"):
            volume = await self.docker.volumes.create({"Name": name, "Labels": dict(labels)})
            return (await volume.show()).get("Labels") or {}

    async def has_volume(self, name: str) -> bool:
        async with trying(f"volume {name}"):
            try:
                await self.docker.volumes.get(name)
            except DockerError as error:
                if error.status == 404:
                    return False
                raise
        return True

    async def remove_volume(self, name: str) -> None:
        """Removes a volume. One that is gone is success."""
        with suppress(NotFound):
            async with trying(f"removal of volume {name}"):
                await aiodocker.volumes.DockerVolume(self.docker, name).delete()

    async def read(self, container: str, path: str) -> bytes:
        """What a file in a container has, its first `ARCHIVE_BYTES`; empty if it is not there or no file."""
        query = self.docker._query(f"containers/{container}/archive", params={"path": path})
        async with trying(f"file {path} of container {container[:12]}"):
            try:
                async with query as response:
                    head = await response.content.readexactly(tarfile.BLOCKSIZE)
                    member = tarfile.TarInfo.frombuf(head, "utf-8", "replace")
                    text = await response.content.read(0)
                    while member.isreg() and len(text) < min(member.size, ARCHIVE_BYTES):
                        if not (chunk := await response.content.read(2**18)):
                            break
                        text += chunk
                    response.close()
                    return text[: member.size]
            except (tarfile.TarError, asyncio.IncompleteReadError):
                return b""
            except DockerError as error:
                if error.status == 404:
                    return b""
                raise

    async def write(self, container: str, path: str, archive: BinaryIO) -> None:
        """Unpacks an archive in a container, which need not run."""
        async with trying(f"files of container {container[:12]}", 10 * CALL_S):
            await self.docker.containers.container(container).put_archive(path, archive)

    async def events(self, label: str) -> AsyncIterator[Mapping[str, Any]]:
        """What begins and ends among the containers with a label, until the connection ends."""
        filters = {"type": ["container"], "label": [label]}  # Docker and podman name events differently
        events = self.docker.events
        heard = events.subscribe(filters=json.dumps(filters))
        try:
            while (event := await heard.get()) is not None:
                if event.get("Action") in ("start", "die"):
                    yield event
        finally:
            with suppress(DockerError, OSError):
                await events.stop()
