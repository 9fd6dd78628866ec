"""The client for programs that use asyncio."""

import asyncio
import io
import math
import os
import random
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, overload
from urllib.parse import quote

import aiohttp
import msgspec

from posthouse.client.answers import Answer, Routed, Waiting
from posthouse.client.errors import BadRequest, NotFound, PosthouseError, TimedOut, Unreachable, WorkerFailed, refusal
from posthouse.client.events import events

URL = "http://127.0.0.1:8080"  # where `posthouse serve` listens unless told otherwise
TIMEOUT_S = 600.0  # seconds for one answer; the wire's own clients give a worker as long
CALL_TIMEOUT_S = 30.0  # seconds for one call of the server, which holds `/route/` open for less than 4
CONNECT_TIMEOUT_S = 10.0  # seconds until a worker that does not even accept a connection counts as failed
RETRIES = 10  # further workers tried; with the back-off below, about 40 s of failures
BACK_OFF_S = (0.25, 5.0)  # seconds before the first retry, doubled each time, and at most
POLL_S = (0.2, 1.0)  # seconds until a waiting request asks again; the server has held it for a while already
COST = 100.0  # work of a request that states none; the wire's own default
LIFETIME_S = 60.0  # seconds that a session lasts without a request; the wire's own default
KEEP_ALIVE_S = 4.0  # seconds; below the 5 of the server, so that it never closes a connection just as it is used
MAX_CONNECTIONS = 1000
MAX_ANSWER_BYTES = 256 * 2**20

Row = dict[str, Any]
Id = int | str
Body = Callable[[Routed], object]
OnWaiting = Callable[[Waiting], None]


class AsyncClient:
    """Sends requests to endpoints and manages them.

    `url` and `api_key` default to the environment's POSTHOUSE_URL and POSTHOUSE_API_KEY. `timeout_s` bounds each
    request, its wait for a worker and its retries included. `ca` is a file of root certificates, in PEM, that are
    trusted beside the machine's own, and defaults to POSTHOUSE_CA; workers' certificates are checked with the root that
    the server states. Every method may raise a `PosthouseError`.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        ca: str | os.PathLike[str] | None = None,
    ) -> None:
        self.url = (url or os.environ.get("POSTHOUSE_URL") or URL).rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise BadRequest(f"url is {self.url!r}; it must begin with http:// or https://")
        self.timeout_s = timeout_s
        self._api_key = (api_key or os.environ.get("POSTHOUSE_API_KEY") or "").strip()
        self._session: aiohttp.ClientSession | None = None
        self._context = _context(ca or os.environ.get("POSTHOUSE_CA") or None)
        self._workers_trusted = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes every connection. The client may be used again."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    # --- requests ---

    async def route(self, endpoint: str, cost: float = COST, request_idx: int = 0) -> Routed | Waiting:
        """Asks once for a worker. `request_idx` above 0 asks again for a request that was answered with it."""
        if not (isinstance(cost, int | float) and 0 <= cost < math.inf):
            raise BadRequest(f"cost is {cost!r}; it must be a number of at least 0")
        reply = await self._call("POST", "/route/", {"endpoint": endpoint, "cost": cost, "request_idx": request_idx})
        try:
            if "url" in reply:
                return msgspec.convert({**reply, "auth_data": reply}, Routed)
            return msgspec.convert(reply, Waiting)
        except (TypeError, msgspec.ValidationError) as error:
            raise PosthouseError(f"{self.url}/route/ gave an answer of another protocol: {error}", 200) from error

    async def request(
        self,
        endpoint: str,
        path: str,
        payload: object,
        cost: float = COST,
        timeout_s: float | None = None,
        retries: int = RETRIES,
        on_waiting: OnWaiting | None = None,
    ) -> Answer:
        """Sends `payload` to `path` of a worker of `endpoint` and returns its answer.

        Waits for a worker while none is free, calling `on_waiting` each time it is told so, and tries another when one
        fails: when it cannot be reached, breaks off, or answers 408, 429 or 5xx.
        """
        return await self._request(_Job(endpoint, path, _wrapped(payload), cost, timeout_s, retries, on_waiting))

    def stream(
        self,
        endpoint: str,
        path: str,
        payload: object,
        cost: float = COST,
        timeout_s: float | None = None,
        retries: int = RETRIES,
        on_waiting: OnWaiting | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Sends like `request` and yields the events of the answer as they come: see `events`.

        A worker that fails is replaced until it begins to answer; what fails later raises. `timeout_s` bounds the time
        to the beginning, and then each silence.
        """
        return self._stream(_Job(endpoint, path, _wrapped(payload), cost, timeout_s, retries, on_waiting))

    @overload
    def generate(
        self,
        endpoint: str,
        prompt: str,
        max_new_tokens: int = 256,
        stream: Literal[False] = False,
        timeout_s: float | None = None,
        on_waiting: OnWaiting | None = None,
    ) -> Awaitable[Answer]: ...

    @overload
    def generate(
        self,
        endpoint: str,
        prompt: str,
        max_new_tokens: int = 256,
        *,
        stream: Literal[True],
        timeout_s: float | None = None,
        on_waiting: OnWaiting | None = None,
    ) -> AsyncGenerator[Any, None]: ...

    def generate(
        self,
        endpoint: str,
        prompt: str,
        max_new_tokens: int = 256,
        stream: bool = False,
        timeout_s: float | None = None,
        on_waiting: OnWaiting | None = None,
    ) -> Awaitable[Answer] | AsyncGenerator[Any, None]:
        """Asks a language model for text: `/generate`, or with `stream` the events of `/generate_stream`.

        The request has the shape of the wire's first published example: what `/route/` answered stands beside the
        model's own fields. The number of tokens is its cost.
        """
        asked = {"inputs": prompt, "parameters": {"max_new_tokens": max_new_tokens}}

        def body(routed: Routed) -> object:
            return {**routed.auth_data, **asked}

        path = "/generate_stream" if stream else "/generate"
        job = _Job(endpoint, path, body, max_new_tokens, timeout_s, RETRIES, on_waiting)
        return self._stream(job) if stream else self._request(job)

    async def session(
        self,
        endpoint: str,
        cost: float = COST,
        lifetime_s: float = LIFETIME_S,
        on_close_route: str | None = None,
        on_close_payload: object = None,
        timeout_s: float | None = None,
        on_waiting: OnWaiting | None = None,
    ) -> "AsyncSession":
        """Opens a session: one worker, held for requests that belong together, until it is closed.

        It closes itself once `lifetime_s` have passed; each request in it adds as many. `cost` is what it holds of the
        worker meanwhile. The worker's model server is then sent `on_close_payload` at `on_close_route`.
        """
        terms = {"lifetime": lifetime_s, "on_close_route": on_close_route, "on_close_payload": on_close_payload}
        job = _Job(endpoint, "/session/create", _wrapped(terms), cost, timeout_s, RETRIES, on_waiting)
        begun = await self._begin(job, whole=True)
        try:
            session_id = msgspec.json.decode(begun.body, type=dict[str, Any])["session_id"]
        except (msgspec.MsgspecError, KeyError) as error:
            raise WorkerFailed(f"worker {begun.routed.url} did not say what session it opened: {error}") from error
        return AsyncSession(self, begun.routed, str(session_id))

    async def _request(self, job: "_Job") -> Answer:
        begun = await self._begin(job, whole=True)
        return Answer(
            status=begun.response.status,
            body=begun.body,
            content_type=begun.response.content_type,
            worker_url=begun.routed.url,
            wait_s=begun.wait_s,
            attempts=begun.attempts,
        )

    async def _stream(self, job: "_Job") -> AsyncGenerator[Any, None]:
        begun = await self._begin(job, whole=False)
        content = begun.response.content
        try:
            async with aclosing(events(begun.response.content_type, content.iter_any())) as answer:
                async for event in answer:
                    yield event
        except (aiohttp.ClientError, ConnectionError, ValueError) as error:
            raise WorkerFailed(f"worker {begun.routed.url}{job.path} broke off: {_said(error)}") from error
        finally:
            begun.response.close()

    async def _begin(self, job: "_Job", *, whole: bool) -> "_Begun":
        """Returns the first good answer of a worker: all of it if `whole`, else at its beginning."""
        if not job.path.startswith("/"):
            raise BadRequest(f"path is {job.path!r}; it must begin with /")
        clock = asyncio.get_running_loop().time
        limit_s = self.timeout_s if job.timeout_s is None else job.timeout_s
        started_at = clock()
        request_idx, attempts, failures, status = 0, 0, 0, ""
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    try:
                        routed = job.routed or await self.route(job.endpoint, job.cost, request_idx)
                        request_idx = routed.request_idx or request_idx
                        if isinstance(routed, Waiting):
                            status = routed.status
                            if job.on_waiting:
                                job.on_waiting(routed)
                            await asyncio.sleep(random.uniform(*POLL_S))  # noqa: S311 - spreads load, hides nothing
                            continue
                        wait_s = clock() - started_at
                        attempts += 1
                        response, body = await self._ask(routed, job, limit_s, whole)
                        return _Begun(response, body, routed, wait_s, attempts)
                    except (WorkerFailed, Unreachable) as error:
                        # A server that never answered has another address; one that did is only restarting.
                        if failures >= job.retries or (isinstance(error, Unreachable) and not request_idx):
                            raise
                        status = error.message
                    first_s, most_s = BACK_OFF_S
                    await asyncio.sleep(min(first_s * 2**failures, most_s) * random.uniform(0.5, 1))  # noqa: S311
                    failures += 1
        except TimeoutError:
            last = f"; last: {status}" if status else ""
            raise TimedOut(f"endpoint {job.endpoint!r} gave no answer within {limit_s:g} s{last}") from None

    async def _ask(
        self, routed: Routed, job: "_Job", silence_s: float, whole: bool
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        url = routed.url.rstrip("/") + job.path
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=silence_s)
        data = io.BytesIO(msgspec.json.encode(job.body(routed)))  # aiohttp warns of bytes when they are many
        headers = {"Content-Type": "application/json"}
        try:
            if url.startswith("https://") and not self._workers_trusted:
                await self._trust_workers()
            # The API key is for the server: no worker gets it.
            response = await self._http().post(url, data=data, headers=headers, timeout=timeout, allow_redirects=False)
            try:
                if response.status < 300:
                    return response, (await _read(response) if whole else b"")
                error = refusal(response.status, await _read(response), f"worker {url}")
                if response.status in (408, 429) or response.status >= 500:
                    raise WorkerFailed(error.message, error.status, error.code)
                raise error
            except BaseException:
                response.close()
                raise
        except (aiohttp.ClientError, ConnectionError, ssl.SSLError, ValueError) as error:
            raise WorkerFailed(f"worker {url}: {_said(error)}") from error

    # --- endpoints, workergroups, templates: the wire's own calls ---

    async def endpoints(self) -> list[Row]:
        return _rows(await self._call("GET", "/api/v0/endptjobs/"), "results")

    async def endpoint(self, name_or_id: Id) -> Row:
        """Returns the endpoint of that name, or else of that id."""
        rows = await self.endpoints()
        for key in ("endpoint_name", "id"):
            for row in rows:
                if str(row.get(key)) == str(name_or_id):
                    return row
        raise NotFound(f"there is no endpoint {name_or_id!r}")

    async def create_endpoint(self, /, name: str, **scaling: Any) -> int:
        """Creates an endpoint and returns its id. Parameters not given have the server's defaults."""
        reply = await self._call("POST", "/api/v0/endptjobs/", {"endpoint_name": name, **scaling})
        return int(reply["result"])

    async def update_endpoint(self, /, endpoint_id: int, **scaling: Any) -> None:
        """Changes the given parameters, `endpoint_name` and `endpoint_state` among them; None changes nothing."""
        await self._call("PUT", f"/api/v0/endptjobs/{endpoint_id}/", scaling)

    async def delete_endpoint(self, endpoint_id: int) -> None:
        """Deletes an endpoint, its workergroups and its workers."""
        await self._call("DELETE", f"/api/v0/endptjobs/{endpoint_id}/")

    async def endpoint_workers(self, endpoint_id: int) -> list[Row]:
        """Returns the workers of an endpoint as the wire knows them; `workers` tells more."""
        return _rows(await self._call("POST", "/get_endpoint_workers/", {"id": endpoint_id}), "workers")

    async def endpoint_logs(self, endpoint_id: int, tail: int = -1) -> dict[str, str]:
        """Returns what happened to an endpoint, by level; the last `tail` lines of each, all if below 0."""
        reply: dict[str, str] = await self._call("POST", "/get_endpoint_logs/", {"id": endpoint_id, "tail": tail})
        return reply

    async def workergroups(self) -> list[Row]:
        return _rows(await self._call("GET", "/api/v0/workergroups/"), "results")

    async def create_workergroup(self, /, **fields: Any) -> int:
        """Creates a workergroup and returns its id. Needs `endpoint_name` or `endpoint_id`, and a template."""
        return int((await self._call("POST", "/api/v0/workergroups/", fields))["id"])

    async def update_workergroup(self, /, workergroup_id: int, **fields: Any) -> None:
        await self._call("PUT", f"/api/v0/workergroups/{workergroup_id}/", fields)

    async def update_workers(self, workergroup_id: int, cancel: bool = False) -> int:
        """Has a workergroup's workers updated, or calls that off; returns how many will be."""
        body = {"workergroup_id": workergroup_id, "cancel_update": cancel}
        return int((await self._call("POST", "/update_workers/", body))["workers_to_update"])

    async def delete_workergroup(self, workergroup_id: int) -> None:
        """Deletes a workergroup and its workers."""
        await self._call("DELETE", f"/api/v0/workergroups/{workergroup_id}/")

    async def templates(self) -> list[Row]:
        return _rows(await self._call("GET", "/api/v0/template/"), "templates")

    async def create_template(self, /, name: str, **fields: Any) -> Row:
        """Creates a template and returns it, with its `id` and `hash_id`."""
        row: Row = (await self._call("POST", "/api/v0/template/", {"name": name, **fields}))["template"]
        return row

    async def update_template(self, template_id: int, /, **fields: Any) -> Row:
        """Changes the given fields and returns the template, with its new `hash_id`; None changes nothing."""
        row: Row = (await self._call("PUT", "/api/v0/template/", {"id": template_id, **fields}))["template"]
        return row

    async def delete_template(self, template_id: int) -> None:
        await self._call("DELETE", "/api/v0/template/", {"template_id": template_id})

    # --- Posthouse's own calls ---

    async def explain(self, name_or_id: Id) -> Row:
        """Returns why the fleet of an endpoint is the size it is."""
        row: Row = await self._call("GET", f"/v1/endpoints/{_quoted(name_or_id)}/explain")
        return row

    async def traffic(self, name_or_id: Id, last_s: float | None = None) -> Row:
        """Returns what an endpoint was asked, and what became of it: all that is kept, or of the last `last_s`."""
        query = "" if last_s is None else f"?last_s={last_s}"
        row: Row = await self._call("GET", f"/v1/endpoints/{_quoted(name_or_id)}/traffic{query}")
        return row

    async def rotate_endpoint_key(self, name_or_id: Id) -> str:
        """Gives an endpoint a new key and returns it; the one before is refused from now on."""
        return str((await self._call("POST", f"/v1/endpoints/{_quoted(name_or_id)}/rotate-key"))["api_key"])

    async def workers(self, endpoint: Id | None = None) -> list[Row]:
        """Returns the workers of an endpoint, or of all."""
        query = "" if endpoint is None else f"?endpoint={_quoted(endpoint)}"
        return _rows(await self._call("GET", f"/v1/workers{query}"), "workers")

    async def delete_worker(self, worker_id: Id) -> None:
        """Has a worker drained and destroyed."""
        await self._call("DELETE", f"/v1/workers/{_quoted(worker_id)}")

    async def worker_logs(self, worker_id: Id, tail: int = 200) -> str:
        """Returns the last `tail` lines that a worker logged."""
        return str((await self._call("GET", f"/v1/workers/{_quoted(worker_id)}/logs?tail={tail}"))["text"])

    async def keys(self) -> list[Row]:
        return _rows(await self._call("GET", "/v1/keys"), "keys")

    async def create_key(self, name: str, scope: str, account: str = "") -> Row:
        """Creates an account key and returns it; its `key` is shown this once. `account`: whose, if another's."""
        owner = {"account": account} if account else {}
        row: Row = await self._call("POST", "/v1/keys", {"name": name, "scope": scope, **owner})
        return row

    async def delete_key(self, key_id: Id) -> None:
        await self._call("DELETE", f"/v1/keys/{_quoted(key_id)}")

    async def accounts(self) -> list[Row]:
        """Returns every account. For the installation's admins, as is the next."""
        return _rows(await self._call("GET", "/v1/accounts"), "accounts")

    async def create_account(self, name: str) -> Row:
        row: Row = await self._call("POST", "/v1/accounts", {"name": name})
        return row

    async def providers(self) -> list[Row]:
        rows: list[Row] = await self._call("GET", "/v1/providers")
        return rows

    async def status(self) -> Row:
        row: Row = await self._call("GET", "/v1/status")
        return row

    # --- HTTP ---

    async def _trust_workers(self) -> None:
        """Trusts the root of workers' certificates. The server says where workers are, so its word is as good here."""
        timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S)
        async with self._http().get(f"{self.url}/static/jvastai_root.cer", timeout=timeout) as response:
            if response.status == 200:  # a server without one has workers that every machine trusts
                self._context.load_verify_locations(cadata=(await _read(response)).decode("ascii"))
        self._workers_trusted = True

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=KEEP_ALIVE_S, ssl=self._context)
            self._session = aiohttp.ClientSession(connector=connector)
        return self._session

    async def _call(self, method: str, path: str, body: object = None) -> Any:
        """Returns the decoded answer of the server; raises what its error means."""
        headers = {"Content-Type": "application/json"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        try:
            async with self._http().request(
                method,
                self.url + path,
                data=None if body is None else msgspec.json.encode(body),
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=CALL_TIMEOUT_S),
                allow_redirects=False,
            ) as response:
                status, raw = response.status, await _read(response)
        except (aiohttp.ClientError, ConnectionError, TimeoutError, ValueError) as error:
            raise Unreachable(f"{self.url} gives no answer: {_said(error)}") from error
        if status >= 300:
            raise refusal(status, raw, f"{method} {path}")
        try:
            reply = msgspec.json.decode(raw) if raw.strip() else {}
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PosthouseError(f"{method} {path}: the answer is not JSON: {error}", status) from error
        if isinstance(reply, dict) and reply.get("success") is False:
            raise refusal(400, raw, f"{method} {path}")
        return reply


class AsyncSession:
    """One worker of an endpoint, held for requests that belong together. Leaving its context closes it."""

    def __init__(self, client: AsyncClient, routed: Routed, session_id: str) -> None:
        self._client = client
        self._routed = routed
        self.session_id = session_id

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(WorkerFailed, TimedOut):  # a worker that is gone holds no session, and a lost one closes itself
            await self.close()

    async def request(self, path: str, payload: object, timeout_s: float | None = None, retries: int = 0) -> Answer:
        """Sends `payload` to `path` of the session's worker and returns its answer; see `AsyncClient.request`.

        Nothing is tried again unless asked for, because a session's requests may depend on each other. Raises
        `NotFound` once the session is closed.
        """
        return await self._client._request(self._job(path, self._wrapped(payload), timeout_s, retries))

    def stream(
        self, path: str, payload: object, timeout_s: float | None = None, retries: int = 0
    ) -> AsyncGenerator[Any, None]:
        """Sends like `request` and yields the events of the answer as they come: see `AsyncClient.stream`."""
        return self._client._stream(self._job(path, self._wrapped(payload), timeout_s, retries))

    async def is_open(self) -> bool:
        answer = await self._client._request(self._job("/session/health", self._named))
        return bool(answer.json().get("ok"))

    async def close(self) -> None:
        """Closes the session. One that is closed already stays so."""
        with suppress(BadRequest):
            await self._client._request(self._job("/session/end", self._named))

    def _wrapped(self, payload: object) -> Body:
        return lambda routed: {"auth_data": routed.auth_data, "session_id": self.session_id, "payload": payload}

    def _named(self, routed: Routed) -> object:
        return {"session_id": self.session_id, "session_auth": routed.auth_data}

    def _job(self, path: str, body: Body, timeout_s: float | None = CALL_TIMEOUT_S, retries: int = 0) -> "_Job":
        return _Job(self._routed.endpoint, path, body, 0.0, timeout_s, retries, None, self._routed)


class _Job(NamedTuple):
    endpoint: str
    path: str
    body: Body
    cost: float
    timeout_s: float | None
    retries: int
    on_waiting: OnWaiting | None
    routed: Routed | None = None
    """The worker that it must go to."""


class _Begun(NamedTuple):
    response: aiohttp.ClientResponse
    body: bytes
    routed: Routed
    wait_s: float
    attempts: int


def _wrapped(payload: object) -> Body:
    return lambda routed: {"auth_data": routed.auth_data, "payload": payload}


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise ValueError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def _context(ca: str | os.PathLike[str] | None) -> ssl.SSLContext:
    """What servers and workers are checked with. Raises: BadRequest."""
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except OSError as error:  # ssl.SSLError is one
            raise BadRequest(f"ca is {os.fspath(ca)!r}; it must be a file of certificates in PEM: {error}") from None
    return context


def _rows(reply: Any, name: str) -> list[Row]:
    rows: list[Row] = reply.get(name, []) if isinstance(reply, dict) else reply
    return rows


def _quoted(name_or_id: Id) -> str:
    return quote(str(name_or_id), safe="")


def _said(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted here, {error.certificate_error}; POSTHOUSE_CA can name its root"
    return str(error) or type(error).__name__
