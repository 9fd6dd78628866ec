"""The market's HTTP API, and the calls by which a test or a person has things go wrong."""

import asyncio
import hashlib
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any, Final

import msgspec
from aiohttp import web

from posthouse.errors import BadRequest
from posthouse.market import rows
from posthouse.market.faults import changed
from posthouse.market.limits import Limits
from posthouse.market.model import MICRO
from posthouse.market.rows import Order
from posthouse.market.world import Market, Refusal

MAX_BODY_BYTES: Final = 2**20
MAX_RESULTS: Final = 100
MAX_TEMPLATES: Final = 1000
MAX_PAGE: Final = 25
TICK_S: Final = 0.05
"""How often the market looks whether something is due."""

Handler = Callable[[Mapping[str, Any], web.Request], Any]


class Api:
    """The calls of the market, each with the name of its rate limit."""

    def __init__(self, market: Market, keys: Mapping[str, str], now: Callable[[], float], seed: int = 0) -> None:
        """`keys`: by key, what it may do: `all` or `read`."""
        self.market = market
        self.keys = keys
        self.now = now
        self.calls: Counter[tuple[str, int]] = Counter()
        """By name and status."""
        self.url = ""
        self._limits = Limits()
        self._random = Random(f"{seed}/api")
        self._results: dict[str, str] = {}
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        for method, path, limit, handler in self._table():
            app.router.add_route(method, path, self._guarded(limit, handler))
        app.router.add_get("/market/results/{name}", self._result)
        self.app = app

    def _table(self) -> list[tuple[str, str, str, Handler]]:
        paths: list[tuple[str, str, str, Handler]] = [
            ("POST", "/api/v0/bundles", "search", self._bundles),
            ("PUT", "/api/v0/search/asks", "search", lambda body, _: self._bundles(body.get("q") or {}, _)),
            ("PUT", "/api/v0/asks/{id}", "create", self._create),
            ("GET", "/api/v1/instances", "list", self._list),
            ("GET", "/api/v0/instances/filters", "", self._filters),
            ("GET", "/api/v0/instances/{id}", "show", self._show),
            ("PUT", "/api/v0/instances/{id}", "manage", self._manage),
            ("DELETE", "/api/v0/instances/{id}", "destroy", self._destroy),
            ("PUT", "/api/v0/instances", "manage", self._manage_several),
            ("DELETE", "/api/v0/instances", "destroy", self._destroy_several),
            ("PUT", "/api/v0/instances/reboot/{id}", "manage", self._reboot),
            ("PUT", "/api/v0/instances/recycle/{id}", "manage", self._recycle),
            ("PUT", "/api/v0/instances/bid_price/{id}", "manage", self._bid),
            ("PUT", "/api/v0/instances/update_template/{id}", "manage", self._update),
            ("PUT", "/api/v0/instances/request_logs/{id}", "execute", self._logs),
            ("GET", "/api/v0/users/current", "", self._user),
            ("GET", "/api/v0/template", "template", self._templates),
            ("POST", "/api/v0/template", "template", self._add_template),
            ("GET", "/market", "", self._state),
            ("PUT", "/market/faults", "", self._set_faults),
            ("PUT", "/market/machines/{id}", "", self._set_machine),
        ]
        return paths + [(method, path + "/", limit, handler) for method, path, limit, handler in paths]

    # -- around every call ---------------------------------------------------------------------------------------------

    def _guarded(self, limit: str, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            self.market.advance(self.now())
            control = request.path.startswith("/market")
            response: web.StreamResponse | None = self._denied(request, limit, control)
            if response is None:
                spared = control or self.market.faults.only not in ("", limit)
                response = await self._answered(request, handler, spared)
            self.calls[limit or "other", response.status] += 1
            return response

        return handle

    def _denied(self, request: web.Request, limit: str, control: bool) -> web.Response | None:
        faults = self.market.faults
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        key = token if scheme == "Bearer" else request.query.get("api_key", "")
        scope = self.keys.get(key)
        if scope is None and (key or limit != "search"):  # offers are shown to anybody
            return _refused(Refusal(401, "auth_error", "Invalid user key"))
        if faults.moved_to and not control:
            return web.Response(status=301, headers={"Location": faults.moved_to + request.path_qs})
        if scope != "all" and request.method != "GET" and limit != "search":
            return _refused(Refusal(403, "forbidden", "This key may not do that"))
        denied = limit and self._limits.denied(limit, key, self.now(), faults.limits, faults.searches_per_day)
        if not denied:
            return None
        if denied.reset_at:
            body = {"success": False, "error": "search_quota_exceeded", "msg": "Daily search quota exceeded"}
            return _json(body, 429, {"X-RateLimit-Reset": str(int(denied.reset_at))})
        return web.Response(status=429, text=f"API requests too frequent: endpoint threshold={denied.threshold_s:g}")

    async def _answered(self, request: web.Request, handler: Handler, spared: bool) -> web.StreamResponse:
        """What a call gets that is not denied. `spared`: it is none of those that may go wrong."""
        faults, draw = self.market.faults, self._random.random()
        shares = () if spared else (faults.error, faults.lost, faults.late, faults.truncated)
        fate = next((n for n in range(len(shares)) if draw < sum(shares[: n + 1])), -1)
        if fate == 0:
            return web.Response(status=503, text="upstream unavailable")
        response = await self._response(request, handler)
        if fate == 1:
            _cut(request)
        elif fate == 2:
            await asyncio.sleep(faults.late_s)
        elif fate == 3 and isinstance(response.body, bytes):
            cut = web.StreamResponse(status=response.status, headers={"Content-Type": "application/json"})
            cut.content_length = len(response.body)
            await cut.prepare(request)
            await cut.write(response.body[: len(response.body) // 2])
            _cut(request)
            return cut
        return response

    async def _response(self, request: web.Request, handler: Handler) -> web.Response:
        try:
            body = await request.json() if request.can_read_body else {}
            if not isinstance(body, dict):
                raise Refusal(400, "invalid_args", "the body must be an object")
            return _json(handler(body, request))
        except Refusal as refusal:
            return _refused(refusal)
        except (BadRequest, ValueError, msgspec.ValidationError) as error:
            return _refused(Refusal(400, "invalid_args", str(error)[:400]))

    # -- offers and rentals --------------------------------------------------------------------------------------------

    def _bundles(self, body: Mapping[str, Any], _: web.Request) -> Any:
        return {"offers": rows.search(self.market, body)}

    def _create(self, body: Mapping[str, Any], request: web.Request) -> Any:
        wanted = rows.order(body)
        launch = rows.launch(self.market, wanted)
        bid = round(wanted.price * MICRO) if wanted.price else 0
        rental = self.market.rent(_id(request), launch, wanted.label, wanted.disk or rows.MIN_DISK_GB, bid)
        if wanted.target_state == "stopped":
            self.market.stop(rental)
        return {"success": True, "new_contract": rental.id}

    def _list(self, _: Mapping[str, Any], request: web.Request) -> Any:
        query, shown = request.query, rows.Shown(self.market)
        found = shown.fitting(query.get("select_filters", ""))
        order = json.loads(query.get("order_by", "[]"))
        for by in reversed(order):
            col = by["col"]
            found.sort(
                key=lambda n, col=col: str(n if col == "id" else shown.row(n).get(col)),  # type: ignore[misc]
                reverse=by.get("dir") == "desc",
            )
        limit = min(MAX_PAGE, max(1, int(query.get("limit", MAX_PAGE))))
        after = int(query.get("after_token") or 0)
        left = [n for n in found if n > after]
        page = [shown.row(n) for n in left[:limit]]
        columns = json.loads(query["select_cols"]) if "select_cols" in query else None
        return {
            "success": True,
            "instances": [row if columns is None else {name: row.get(name) for name in columns} for row in page],
            "total_instances": len(found),
            "label_counts": Counter(shown.rentals[n].label or "" for n in found),
            "next_token": str(page[-1]["id"]) if len(left) > limit else None,
        }

    def _filters(self, _: Mapping[str, Any], __: web.Request) -> Any:
        names, shown = ("actual_status", "verification", "gpu_name"), rows.Shown(self.market)
        return {"filters": [{name: row[name] for name in names} for row in map(shown.row, shown.rentals)]}

    def _show(self, _: Mapping[str, Any], request: web.Request) -> Any:
        shown, wanted = rows.Shown(self.market), _id(request)
        return {"instances": shown.row(wanted) if wanted in shown.rentals else None}

    def _manage(self, body: Mapping[str, Any], request: web.Request) -> Any:
        rental = self.market.rental(_id(request))
        if "label" in body:
            rental.label = str(body["label"])[: rows.MAX_LABEL]
        elif body.get("state") == "running":
            self.market.start(rental)
        elif body.get("state") == "stopped":
            self.market.stop(rental)
        else:
            raise Refusal(400, "invalid_args", "state must be running or stopped")
        return {"success": True}

    def _manage_several(self, body: Mapping[str, Any], _: web.Request) -> Any:
        order = {"running": self.market.start, "stopped": self.market.stop}.get(str(body.get("state")))
        if order is None:
            raise Refusal(400, "invalid_args", "state must be running or stopped")
        for rental in [self.market.rental(number) for number in _numbers(body, "ids")]:
            order(rental)
        return {"success": True}

    def _destroy(self, _: Mapping[str, Any], request: web.Request) -> Any:
        self.market.destroy(self.market.rental(_id(request)))
        return {"success": True}

    def _destroy_several(self, body: Mapping[str, Any], _: web.Request) -> Any:
        for rental in [self.market.rental(number) for number in _numbers(body, "instance_ids")]:
            self.market.destroy(rental)
        return {"success": True}

    def _reboot(self, _: Mapping[str, Any], request: web.Request) -> Any:
        self.market.reboot(self.market.rental(_id(request)))
        return {"success": True}

    def _recycle(self, _: Mapping[str, Any], request: web.Request) -> Any:
        self.market.recycle(self.market.rental(_id(request)))
        return {"success": True}

    def _bid(self, body: Mapping[str, Any], request: web.Request) -> Any:
        self.market.set_bid(self.market.rental(_id(request)), round(float(body.get("price") or 0) * MICRO))
        return {"success": True}

    def _update(self, body: Mapping[str, Any], request: web.Request) -> Any:
        rental = self.market.rental(_id(request))
        self.market.update(rental, rows.launch(self.market, rows.order(body), rental.launch))
        return {"success": True}

    def _logs(self, body: Mapping[str, Any], request: web.Request) -> Any:
        lines = self.market.runner.logs(self.market.rental(_id(request))).splitlines(keepends=True)
        wanted = str(body.get("filter") or "")
        lines = [line for line in lines if wanted in line]
        name = secrets.token_urlsafe(16)
        self._results[name] = "".join(lines[-int(body.get("tail") or 1000) :])
        while len(self._results) > MAX_RESULTS:
            del self._results[next(iter(self._results))]
        return {"success": True, "result_url": f"{request.url.origin()}/market/results/{name}"}

    async def _result(self, request: web.Request) -> web.Response:
        text = self._results.get(request.match_info["name"])
        return web.Response(status=404 if text is None else 200, text=text or "")

    def _user(self, _: Mapping[str, Any], __: web.Request) -> Any:
        return {"id": 1, "username": "renter", "credit": round(self.market.credit(), 6), "host_agreement_accepted": 0}

    def _templates(self, _: Mapping[str, Any], request: web.Request) -> Any:
        found = list(self.market.templates.values())
        return {"success": True, "templates_found": len(found), "templates": found}

    def _add_template(self, body: Mapping[str, Any], _: web.Request) -> Any:
        msgspec.convert({"image": body.get("image"), "env": body.get("env")}, Order)
        kept = {name: body.get(name) for name in ("name", "image", "env", "onstart", "runtype", "desc")}
        hash_id = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:32]
        if len(self.market.templates) >= MAX_TEMPLATES:
            raise Refusal(400, "limit_reached", f"at most {MAX_TEMPLATES} templates are allowed")
        template = {"id": len(self.market.templates) + 1, "hash_id": hash_id, **kept}
        self.market.templates[hash_id] = template
        return {"success": True, "template": template, "msg": "template created"}

    # -- the simulator's own calls -------------------------------------------------------------------------------------

    def _state(self, _: Mapping[str, Any], __: web.Request) -> Any:
        bills = self.market.bills()
        return {
            "now": self.market.now,
            "faults": msgspec.to_builtins(self.market.faults),
            "spent_usd": self.market.spent_usd(),
            "bills": {
                str(r.id): {"label": r.label, "gpu_usd": _usd(r.gpu), "storage_usd": _usd(r.storage)}
                for r in bills.values()
            },
            "calls": {f"{name} {status}": number for (name, status), number in sorted(self.calls.items())},
        }

    def _set_faults(self, body: Mapping[str, Any], _: web.Request) -> Any:
        self.market.set_faults(changed(self.market.faults, dict(body)))
        return msgspec.to_builtins(self.market.faults)

    def _set_machine(self, body: Mapping[str, Any], request: web.Request) -> Any:
        """`{"offline": true}`, or `{"price": dollars, "min_bid": dollars}`; with `"running": true` of what runs there,
        too, as when a contract ends."""
        machine = self.market.machines.get(_id(request))
        if machine is None:
            raise Refusal(404, "no_such_machine", "no machine has that number")
        if body.get("offline"):
            self.market.go_offline(machine)
        else:
            price, bid = body.get("price", machine.price / MICRO), body.get("min_bid", machine.min_bid / MICRO)
            running = body.get("running") is True
            self.market.set_price(machine, round(float(price) * MICRO), round(float(bid) * MICRO), running)
        return {"success": True}


def _usd(amount: int) -> float:
    return amount / (3600 * MICRO * MICRO)


def _id(request: web.Request) -> int:
    """Raises: Refusal."""
    text = request.match_info["id"]
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise Refusal(404, "not_found", f"{text[:40]!r} is no number of anything here")
    return int(text)


def _numbers(body: Mapping[str, Any], name: str) -> list[int]:
    """The numbers of several instances, each once. Raises: ValidationError."""
    return list(dict.fromkeys(msgspec.convert(body.get(name), list[int])))


def _cut(request: web.Request) -> None:
    """Ends the connection; what is answered after it goes nowhere."""
    if request.transport is not None:
        request.transport.abort()


def _json(reply: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(reply), status=status, headers=headers, content_type="application/json"
    )


def _refused(refusal: Refusal) -> web.Response:
    left = {"new_contract": refusal.contract} if refusal.contract else {}
    return _json({"success": False, "error": refusal.code, "msg": refusal.text, **left}, refusal.status)


@asynccontextmanager
async def served(api: Api, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serves the market as long as the context lasts; its URL."""
    runner = web.AppRunner(api.app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    ticking = asyncio.create_task(_tick(api))
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        listening = runner.addresses[0][1]
        api.url = f"http://[{host}]:{listening}" if ":" in host else f"http://{host}:{listening}"
        yield api.url
    finally:
        ticking.cancel()
        with suppress(asyncio.CancelledError):
            await ticking
        await runner.cleanup()


async def _tick(api: Api) -> None:
    while True:
        api.market.advance(api.now())
        await asyncio.sleep(TICK_S)
