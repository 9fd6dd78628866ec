"""A cluster's API: its calls with a time limit each, and what each error means.

Objects are plain JSON here, in and out: a cluster older or newer than the client's models answers as well. The client
brings what is hard: kubeconfig files, credentials that expire, certificates.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
import msgspec
import yaml
from kubernetes.aio import client as kube
from kubernetes.aio import config as kube_config

from posthouse.errors import Busy, NotFound, Refused
from posthouse.providers.answers import NoAnswer

PAGE: Final = 250
"""Objects in one answer."""
MAX_PAGES: Final = 400
LIST_TRIES: Final = 3
"""How often a list is begun whose pages expire while they are read."""
ANSWER_BYTES: Final = 64 * 2**20
WATCH_S: Final = 240
"""How long a cluster tells of changes before it is asked again, in seconds."""
RETRY_S: Final = 2.0
FULL_S: Final = 10.0
"""When a namespace that is full is asked again, in seconds."""
MERGE: Final = "application/merge-patch+json"
METADATA: Final = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1,application/json"
"""Asks for the metadata of objects alone."""

Json = dict[str, Any]
JSON: Final = "application/json"
NOTHING: Final[Mapping[str, str]] = {}


class AlreadyThere(Exception):
    """There is an object of that name."""


class Expired(Exception):
    """What was asked for is older than what the cluster remembers: 410."""


def meaning(what: str, status: int, reply: Mapping[str, Any], retry_after: str = "") -> Exception:
    """The error as the engine of Posthouse understands it. `what` was tried, in words."""
    said = str(reply.get("message") or "")[:600]
    reason = str(reply.get("reason") or "")
    text = f"{what}: {said or reason or f'status {status}'}"
    if status == 401:
        return Refused(f"{what}: the cluster does not take the credentials of kubeconfig; mend them")
    if status == 403 and "exceeded quota" in said:
        return Busy(text, FULL_S)
    if status == 403 and "cannot" in said and "User" in said:
        return Refused(f"{text}; give it the roles of examples/kubernetes/rbac.yaml")
    if status == 404:
        return Refused(text) if said.startswith("namespaces ") else NotFound(text)
    if status == 409:
        return AlreadyThere(text) if reason == "AlreadyExists" else Busy(text, RETRY_S)
    if status == 410:
        return Expired(text)
    if status == 429:
        return Busy(text, float(retry_after) if retry_after.isdecimal() else RETRY_S)
    return Refused(text) if 400 <= status < 500 else NoAnswer(text)


class Cluster:
    """A client of one cluster."""

    def __init__(self, name: str, kubeconfig: Path | None, context: str, call_s: float) -> None:
        """`name`: of the provider, for messages."""
        self._name = name
        self._kubeconfig = kubeconfig
        self._context = context
        self._call_s = call_s
        self._client: kube.ApiClient | None = None

    async def connect(self) -> None:
        """Reads the credentials; if it has some, they are read again, for tokens expire. Raises: Refused."""
        found = self._client.configuration if self._client else kube.Configuration()
        file = self._kubeconfig
        try:
            if file is None and "KUBERNETES_SERVICE_HOST" in os.environ:
                kube_config.load_incluster_config(found)
            else:
                given = str(file.expanduser()) if file else None
                await kube_config.load_kube_config(given, self._context or None, found, persist_config=False)
            self._client = self._client or kube.ApiClient(found)
        except (kube_config.ConfigException, OSError, ValueError, yaml.YAMLError) as error:
            where = file or "~/.kube/config"
            raise Refused(f"providers.{self._name}.kubeconfig {where}: {error}"[:600]) from error

    async def close(self) -> None:
        if self._client is not None:
            session = self._client.rest_client.pool_manager  # none before the first call
            if session is not None and session.connector is not None:
                await session.connector.close(abort_ssl=True)  # without the cluster's farewells
            await self._client.close()

    @property
    def url(self) -> str:
        """Where the cluster is."""
        return str(self._client.configuration.host) if self._client else ""

    # -- calls -------------------------------------------------------------------------------------------------------

    async def call(
        self, method: str, path: str, body: Json | None = None, accept: str = JSON, query: Mapping[str, str] = NOTHING
    ) -> Json:
        """What the cluster answers. Raises: AlreadyThere, Busy, Expired, NoAnswer, NotFound, Refused."""
        text = await self._bytes(method, path, body, accept, query)
        try:
            return msgspec.json.decode(text, type=Json)
        except msgspec.DecodeError as error:
            raise NoAnswer(f"{method} {path}: the cluster's answer is cut short or no JSON") from error

    async def text(self, path: str, query: Mapping[str, str]) -> str:
        """The same for an answer that is text."""
        return (await self._bytes("GET", path, None, "*/*", query)).decode(errors="replace")

    async def objects(self, path: str, query: Mapping[str, str] = NOTHING, accept: str = JSON) -> list[Json]:
        """Every object of a list, complete as of one moment. Raises: as `call`."""
        for _ in range(LIST_TRIES):
            try:
                return await self._pages(path, accept, query)
            except Expired:
                continue
        raise NoAnswer(f"{path}: the list expires before it is read")

    async def _pages(self, path: str, accept: str, query: Mapping[str, str]) -> list[Json]:
        found: list[Json] = []
        more = dict(query, limit=str(PAGE))
        for _ in range(MAX_PAGES):
            page = await self.call("GET", path, accept=accept, query=more)
            items, metadata = page.get("items", 0), page.get("metadata")  # none at all may be null
            if not isinstance(items, list | None) or not isinstance(metadata, dict):
                raise NoAnswer(f"{path}: the cluster answers without a list")
            found += items or ()
            if not metadata.get("continue"):
                return found
            more["continue"] = str(metadata["continue"])
        raise NoAnswer(f"{path}: the list does not end")

    async def changes(self, path: str, query: Mapping[str, str]) -> AsyncGenerator[str, None]:
        """The kinds of change of a list's objects from now on, until the cluster ends it. The first is empty, once the
        watch has begun. Raises: as `call`."""
        page = await self.call("GET", path, query={**query, "limit": "1"})
        version = str((page.get("metadata") or {}).get("resourceVersion") or "")
        seen = dict(query, watch="true", timeoutSeconds=str(WATCH_S), resourceVersion=version)
        async with self._asked("GET", path, None, JSON, seen, WATCH_S + self._call_s) as response:
            if response.status >= 300:
                await _body(response)
            try:
                yield ""
                while line := await response.content.readline():
                    event = msgspec.json.decode(line, type=Json)
                    if event.get("type") == "ERROR":
                        status = event.get("object") or {}
                        raise meaning(f"watch of {path}", int(status.get("code") or 500), status)
                    yield str(event.get("type"))
            finally:
                if response.connection is not None and (transport := response.connection.transport) is not None:
                    transport.abort()  # with TLS, a farewell that no cluster may answer would keep it open

    async def _bytes(self, method: str, path: str, body: Json | None, accept: str, query: Mapping[str, str]) -> bytes:
        for fresh in (False, True):
            async with self._asked(method, path, body, accept, query, self._call_s) as response:
                if response.status == 401 and not fresh:
                    await self.connect()
                    continue
                return await _body(response)
        raise AssertionError("the second time returns or raises")

    @asynccontextmanager
    async def _asked(
        self, method: str, path: str, body: Json | None, accept: str, query: Mapping[str, str], limit_s: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a call, its status looked at but for a first 401."""
        what = f"{method} {path}"
        if self._client is None:
            await self.connect()
        assert self._client is not None
        client = self._client
        headers = {"Accept": accept, "Content-Type": MERGE if method == "PATCH" else "application/json"}
        try:
            async with asyncio.timeout(limit_s):
                await client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
                url = f"{client.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
                limit = aiohttp.ClientTimeout(total=limit_s)
                answer = await client.rest_client.request(method, url, headers, body, _request_timeout=limit)
                async with answer.response as response:
                    yield response
        except TimeoutError as error:
            raise TimeoutError(f"{what}: the cluster gave no answer within {limit_s:g} s") from error
        except aiohttp.ClientError as error:
            raise ConnectionError(f"{what}: {error or type(error).__name__}"[:400]) from error


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """The whole answer. Raises: what its status means."""
    text = bytearray()
    async for chunk in response.content.iter_chunked(2**18):
        text += chunk
        if len(text) > ANSWER_BYTES:
            raise NoAnswer(f"{response.url.path}: an answer of more than {ANSWER_BYTES} bytes")
    if response.status >= 300:
        raise meaning(
            f"{response.method} {response.url.path}",
            response.status,
            _status(bytes(text)),
            response.headers.get("Retry-After", ""),
        )
    return bytes(text)


def _status(text: bytes) -> Json:
    """What an error says of itself; its text where it is no JSON, as a proxy's."""
    try:
        return msgspec.json.decode(text, type=Json)
    except msgspec.DecodeError:
        return {"message": text[:300].decode(errors="replace")}
