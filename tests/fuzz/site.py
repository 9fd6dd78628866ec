"""A whole server in this process, without network: the fast path in front of the management API, over a real store."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, MutableSequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from fastapi import FastAPI
from structlog.testing import capture_logs

from posthouse.config import Limits, Rates
from posthouse.domain.endpoint import DEFAULT_ACCOUNT
from posthouse.engine.buckets import Buckets
from posthouse.engine.certificates import Certificates
from posthouse.engine.ingest import Ingest
from posthouse.engine.router import Router
from posthouse.http1.messages import Answer
from posthouse.server.calls import Call
from posthouse.server.fastpath import FastPath
from posthouse.server.http import HttpServer
from posthouse.server.throttle import Throttle
from posthouse.signing.authority import Authority
from posthouse.signing.rsa import RsaKey
from posthouse.signing.threads import SigningThreads
from tests.kit.web import Web, served, worker

FEW = Limits(endpoints=30, workergroups=30, templates=30, keys=30)
UNLIMITED = Rates(
    routes_per_key=0,
    routes_per_address=0,
    calls_per_key=0,
    calls_per_address=0,
    wrong_keys_per_address=0,
    reports_per_worker=0,
)
ENDPOINT, WORKER_ID = "llm", 1


@dataclass(frozen=True)
class Case:
    """One call. Its text is a call that makes it again."""

    method: str
    path: str
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@dataclass
class Site:
    web: Web
    server: HttpServer
    logs: MutableSequence[Any]
    secrets: dict[str, str] = field(default_factory=dict)
    """What no log line may hold: keys and tokens, by the role of who has them."""
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def app(self) -> FastAPI:
        return self.web.app

    async def prepare(self, scheme: str = "") -> None:
        """There is an endpoint with a ready worker, and a key for each role, whatever the cases before have done.

        `scheme`: in which the worker's requests are signed.
        """
        hub = self.web.hub
        await hub.offers.refresh(self.web.shelf)
        if hub.directory.find(DEFAULT_ACCOUNT, ENDPOINT) is None:
            for endpoint_id in [endpoint.id for endpoint in hub.directory]:
                await self.web.call("DELETE", f"/api/v0/endptjobs/{endpoint_id}")
            await self.web.make_endpoint(ENDPOINT)
        found = hub.directory.id_of(DEFAULT_ACCOUNT, ENDPOINT)
        assert found is not None
        endpoint_id = found
        ready = worker(WORKER_ID, endpoint_id, addresses=frozenset({"127.0.0.1:9"}), scheme=scheme)
        self.web.staff(ready)
        self.web.shelf.lines[ready.instance_id] = ["a line"]
        self.secrets = {
            **self.web.keys,
            "endpoint": self.web.endpoint_key(endpoint_id),
            "worker": self.web.keyring.worker_token(WORKER_ID),
            "wrong": "ph_00000000_" + "w" * 43,
        }

    async def answer(self, case: Case) -> tuple[int, bytes]:
        """Status and body of the answer; 0 where the caller has left. Fails on what no caller may bring about."""
        self.logs.clear()
        async with asyncio.timeout(60):
            status, said = await (self._fast(case) or self._application(case))
        self.statuses[status] += 1
        assert status < 500, (case, status, said[:500], self.logs)
        assert b"could not answer" not in said, (case, said, self.logs)
        assert b"Traceback" not in said, case
        logged = str(self.logs)
        assert "Traceback" not in logged, logged
        for role, secret in self.secrets.items():
            assert secret not in logged, role
        return status, said

    def _fast(self, case: Case) -> "asyncio.Future[tuple[int, bytes]] | None":
        """The answer of the fast path, as a connection has it; None where the call is not of the fast path."""
        found = self.server.fast.find(case.method, unquote(case.path))
        if found is None:
            return None
        answered: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

        def respond(answer: Answer) -> None:
            answered.set_result((answer.status, b"" if case.method == "HEAD" else answer.body))

        headers = [(name.encode(), value.encode("latin-1")) for name, value in case.headers]
        self.server.fast.answer(Call(*found, case.query.encode(), headers, "127.0.0.1", body=case.body), respond)
        return answered

    async def _application(self, case: Case) -> tuple[int, bytes]:
        sent: list[dict[str, Any]] = []
        pieces: list[dict[str, Any]] = [{"type": "http.request", "body": case.body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return pieces.pop() if pieces else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": case.method,
            "path": unquote(case.path),
            "raw_path": case.path.encode(),
            "query_string": case.query.encode(),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in case.headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "scheme": "http",
            "root_path": "",
            "http_version": "1.1",
        }
        await self.server.app(scope, receive, send)
        said = b"".join(message.get("body", b"") for message in sent)
        return (sent[0]["status"] if sent else 0), b"" if case.method == "HEAD" else said


@asynccontextmanager
async def site(directory: Path) -> AsyncIterator[Site]:
    """A site with its store in `directory`."""
    throttle = Throttle(UNLIMITED)
    with capture_logs() as logs:
        async with served(directory, FEW, throttle) as web:
            hub, keyring = web.hub, web.keyring
            signer = RsaKey.generate()
            signing = SigningThreads(signer, 1)
            router = Router(hub, signer, keyring.grant_key, hold_s=0.0, sign_beside=signing.sign)
            authority = Authority(directory / "authority.pem", hub.clock.now())
            fast = FastPath(
                hub,
                router,
                Ingest(hub, keyring.check_worker, Buckets(0)),
                Certificates(hub, keyring.check_worker, authority.sign_request),
                keyring,
                max_body_bytes=1_048_576,
                ready=lambda: "",
                metrics=lambda: b"",
                root_certificate=authority.root_pem,
                throttle=throttle,
            )
            try:
                made = Site(web, HttpServer(fast, web.app), logs)
                await made.prepare()
                yield made
            finally:
                signing.close()
