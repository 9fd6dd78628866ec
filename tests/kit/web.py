"""A management API on a real port, for the tests beside it."""

import io
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import aiohttp
from fastapi import FastAPI

from posthouse.config import Limits, Oidc
from posthouse.domain.endpoint import EndpointId
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import State
from posthouse.domain.offer import ALL_CAPABILITIES, Offer, Price
from posthouse.domain.worker import Worker
from posthouse.engine import journal
from posthouse.engine.clock import SystemClock
from posthouse.engine.hub import Hub
from posthouse.errors import NotFound, OfferTaken
from posthouse.ports import InstanceSpec
from posthouse.server.auth import SECRET_BYTES, Keyring, Scope
from posthouse.server.console.oidc import OpenId
from posthouse.server.fastpath import FastPath
from posthouse.server.http import HttpServer
from posthouse.server.throttle import Throttle
from posthouse.server.web import web_app
from posthouse.store import open_store
from tests.kit import rows
from tests.kit.fleets import Fleet


class Shelf:
    """A provider that shows what it is given, and rents nothing of it out."""

    name = "shelf"
    capabilities = ALL_CAPABILITIES

    def __init__(self) -> None:
        self.lines: dict[str, list[str]] = {}
        self.stock: list[Offer] = []

    async def catalog(self) -> Sequence[Offer]:
        return self.stock

    async def create(self, offer_id: str, spec: InstanceSpec, max_usd_h: float) -> Instance:
        raise OfferTaken("the shelf is empty")

    async def start(self, instance_id: str) -> None:
        raise NotFound(instance_id)

    async def update(self, instance_id: str, spec: InstanceSpec) -> Instance:
        raise NotFound(instance_id)

    async def stop(self, instance_id: str) -> None:
        raise NotFound(instance_id)

    async def destroy(self, instance_id: str) -> None:
        return

    async def instances(self) -> Sequence[Instance]:
        return []

    async def logs(self, instance_id: str, tail: int) -> str:
        return "\n".join(self.lines[instance_id][-tail:])

    def troubles(self) -> list[str]:
        return []

    async def close(self) -> None:
        return


@dataclass(slots=True)
class NoFastPath:
    """Leaves every call to the application."""

    keyring: Keyring
    hub: Hub
    knows = FastPath.knows

    def find(self, method: str, path: str) -> None:
        return


@dataclass(slots=True)
class Answer:
    status: int
    body: Any
    headers: dict[str, str]


@dataclass(slots=True)
class Web:
    """The API as a user meets it, with a key for each scope, and the memory behind it."""

    hub: Hub
    keyring: Keyring
    shelf: Shelf
    app: FastAPI
    url: str
    keys: dict[str, str]
    session: aiohttp.ClientSession

    async def call(
        self, method: str, path: str, body: object = None, key: str | None = "admin", **headers: str
    ) -> Answer:
        """`key`: the name of a scope, a key itself, or None for none at all. `body`: bytes go as they are."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers |= {} if key is None else {"Authorization": f"Bearer {self.keys.get(key, key)}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
            body = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        async with self.session.request(method, self.url + path, data=body, headers=headers) as reply:
            text = await reply.text()
            return Answer(
                reply.status,
                json.loads(text) if text else None,
                {name.lower(): value for name, value in reply.headers.items()},
            )

    async def make_endpoint(self, name: str = "llama", **parameters: object) -> EndpointId:
        answer = await self.call("POST", "/api/v0/endptjobs/", {"endpoint_name": name, **parameters})
        assert answer.status == 200, answer
        return EndpointId(answer.body["result"])

    async def make_template(self, name: str = "tgi", **fields: object) -> dict[str, Any]:
        answer = await self.call("POST", "/api/v0/template/", {"name": name, **fields})
        assert answer.status == 200, answer
        template: dict[str, Any] = answer.body["template"]
        return template

    def endpoint_key(self, endpoint_id: EndpointId) -> str:
        endpoint = self.hub.endpoint(endpoint_id)
        assert endpoint is not None
        return self.keyring.endpoint_key(endpoint_id, endpoint.key_version)

    def staff(self, *workers: Worker) -> Fleet:
        """The fleet of the workers' endpoint, once they are in it."""
        managed = self.hub.managed(workers[0].endpoint_id)
        fleet = Fleet(managed.fleet.endpoint, self.hub.clock.now(), workers)
        self.hub.endpoints[fleet.endpoint.id] = fleet.managed
        listed = self.hub.directory.get(fleet.endpoint.id)
        assert listed is not None
        listed.managed = fleet.managed
        self.hub.configure(fleet.managed)
        return fleet


def worker(worker_id: int, endpoint_id: int = 1, **changes: Any) -> Worker:
    """A ready worker of the shelf."""
    ready: dict[str, Any] = {
        "provider": "shelf",
        "offer_id": "o",
        "machine": "m",
        "gpu_name": "RTX 4090",
        "num_gpus": 1,
        "price": Price(0.5, 0.4, 0.01),
        "state": State.IDLE,
        "instance_id": f"i-{worker_id}",
        "url": "http://127.0.0.1:9",
        "perf": 100.0,
        "loaded_at": 2.0,
    }
    return rows.worker(worker_id, endpoint_id, **ready | changes)


@asynccontextmanager
async def served(
    directory: Path, limits: Limits | None = None, throttle: Throttle | None = None, oidc: Oidc | None = None
) -> AsyncIterator[Web]:
    """A web API with an empty SQLite store in `directory`."""
    store = await open_store(rows.store_url(directory))
    shelf = Shelf()
    hub = Hub(store, SystemClock(), {"shelf": shelf}, "shelf", await store.installation(), stabilization_s=0.0)
    keyring = Keyring(bytes(SECRET_BYTES), [], hub.endpoint)
    keys = {}
    for scope in Scope:
        record, keys[scope.name.lower()] = keyring.mint(scope.name.lower(), scope, hub.clock.now())
        await store.add_key(record)
        keyring.put(record)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = web_app(
            hub,
            keyring,
            limits or Limits(),
            explain=lambda endpoint_id: journal.explain(hub.managed(endpoint_id), hub.treasury, hub.clock.now()),
            throttle=throttle,
            openid=OpenId(oidc, keyring.fernet("oidc"), url) if oidc is not None else None,
        )
        server = HttpServer(cast(FastPath, NoFastPath(keyring, hub)), app)
        await server.start(listener)
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as session:
                yield Web(hub, keyring, shelf, app, url, keys, session)
        finally:
            await server.close()
            await store.close()
