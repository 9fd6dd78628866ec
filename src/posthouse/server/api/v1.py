"""Our own management calls, under /v1."""

import asyncio
from collections.abc import Callable
from typing import Annotated, NamedTuple

import msgspec
from fastapi import FastAPI, Query, Request, Response

from posthouse import __version__
from posthouse.domain.endpoint import DEFAULT_ACCOUNT, Endpoint, EndpointId
from posthouse.engine import words
from posthouse.engine.directory import Listed
from posthouse.engine.hub import Hub
from posthouse.engine.management import Management
from posthouse.engine.recorder import traffic
from posthouse.engine.standing import money_left, standing
from posthouse.engine.wishes import held_at
from posthouse.errors import NotFound
from posthouse.server.auth import Keyring, Principal
from posthouse.server.middleware import Caller, Sharing
from posthouse.wire import rows
from posthouse.wire.fallback import EXTERNAL

Explain = Callable[[EndpointId], rows.Explanation]


def add_v1_routes(
    app: FastAPI,
    management: Management,
    keyring: Keyring,
    explain: Explain,
    troubles: Callable[[], list[str]],
    gateway: str,
    sharing: Sharing,
) -> None:
    _add_status_route(app, management.hub, troubles, gateway, sharing)
    _add_endpoint_routes(app, management, keyring, explain)


def _add_status_route(
    app: FastAPI, hub: Hub, troubles: Callable[[], list[str]], gateway: str, sharing: Sharing
) -> None:
    born_at = hub.clock.now()

    @app.get("/v1/status")
    async def show_status(request: Request, caller: Caller) -> rows.Status:
        """What this server is, what fails, and how each endpoint stands."""
        others = [msgspec.convert(found, rows.Status) for found in await sharing.others(request)]
        now = hub.clock.now()
        seen = [m for m in hub.endpoints.values() if caller.may_see(m.fleet.endpoint.account_id)]
        rows_of = [standing(managed, now) for managed in seen if not managed.leaving]
        whole = caller.may_see(DEFAULT_ACCOUNT)
        caps = [*money_left(hub.treasury.left(now)), *hub.external.left(now)] if whole else []
        for managed in seen:
            caps += money_left(hub.treasury.left_of(managed, now), managed.fleet.endpoint.name)
        for other in others:
            rows_of = sorted([*rows_of, *other.standing], key=lambda row: row.id)
            caps += [cap for cap in other.caps if cap.endpoint or cap.cap.startswith(EXTERNAL)]
        theirs = None if whole else await known(hub, caller)
        return rows.Status(
            version=__version__,
            installation=hub.installation,
            providers=sorted(hub.providers),
            default_provider=hub.default_provider,
            endpoints=sum(caller.may_see(endpoint.account_id) for endpoint in hub.directory),
            uptime_s=now - born_at,
            troubles=list(dict.fromkeys([*troubles(), *(text for other in others for text in other.troubles)])),
            usd_h=sum(row.usd_h for row in rows_of),
            spent_usd=hub.treasury.spent_usd(now, theirs and theirs.keys()),
            standing=rows_of,
            caps=caps,
            gateway=gateway,
            servers=hub.lease.server_count(),
        )


def _reachable(endpoint: Endpoint, listed: Listed | None) -> rows.Reachable:
    held = held_at(listed)
    return rows.Reachable(id=endpoint.id, name=endpoint.name, created_at=endpoint.created_at, adapters=held)


def _add_endpoint_routes(app: FastAPI, management: Management, keyring: Keyring, explain: Explain) -> None:
    hub = management.hub

    @app.get("/v1/endpoints")
    async def list_reachable(caller: Caller) -> list[rows.Reachable]:
        """The endpoints that the key may ask for a worker; an endpoint's own key reaches that one alone."""
        seen = [e for e in hub.directory if e.account_id == caller.account_id]
        mine = [e for e in seen if caller.endpoint_id in (None, e.id)]
        return [_reachable(e, hub.directory.get(e.id)) for e in mine]

    # `:path`, because names may have slashes in them.

    @app.get("/v1/endpoints/{endpoint:path}/explain")
    async def explain_endpoint(endpoint: str, caller: Caller) -> rows.Explanation:
        """Why the endpoint has the workers that it has: the latest decision and its reasons."""
        return explain(find_endpoint(hub, caller, endpoint))

    @app.get("/v1/endpoints/{endpoint:path}/journal")
    async def list_decisions(
        endpoint: str, caller: Caller, limit: Annotated[int, Query(ge=1, le=1000)] = 20
    ) -> list[rows.JournalEntry]:
        """The latest decisions about the endpoint, newest first."""
        entries = await hub.store.journal(find_endpoint(hub, caller, endpoint), limit)
        return [
            rows.JournalEntry(
                at=e.at,
                decision=msgspec.convert(e.body, rows.Decision),
                title=words.title(e.body),
                text=words.text(e.body),
            )
            for e in entries
        ]

    @app.get("/v1/endpoints/{endpoint:path}/history")
    async def show_history(
        endpoint: str,
        caller: Caller,
        last_s: Annotated[float, Query(gt=0, le=366 * 86_400)] = 3600.0,
        most: Annotated[int, Query(ge=2, le=1440)] = 1440,
    ) -> rows.History:
        """Load, capacity, waits, workers and spend of the endpoint: of an hour every 5 s, of a day every minute, of a
        fortnight every 15 minutes, of a year every two hours. It outlives the server. `most`: rows, evenly spread."""
        endpoint_id = find_endpoint(hub, caller, endpoint)
        samples = hub.managed(endpoint_id).samples
        return await samples.history(hub.store, endpoint_id, last_s, hub.clock.now(), most)

    @app.get("/v1/endpoints/{endpoint:path}/traffic", response_model=rows.Traffic)
    async def show_traffic(
        endpoint: str, caller: Caller, last_s: Annotated[float, Query(gt=0, le=1e10)] = 1e10
    ) -> Response:
        """What the endpoint was asked and what became of it: all that is kept, or of the last `last_s` seconds."""
        found = await traffic(hub, find_endpoint(hub, caller, endpoint), last_s)
        # Megabytes, packed: beside the event loop, and not looked through again on the way out.
        body = await asyncio.to_thread(msgspec.json.encode, found)
        return Response(body, media_type="application/json")

    @app.post("/v1/endpoints/{endpoint:path}/rotate-key")
    async def rotate_endpoint_key(endpoint: str, caller: Caller) -> rows.EndpointKey:
        """Gives the endpoint a new key. The one before is refused from now on."""
        changed = await management.endpoints.rotate_key(find_endpoint(hub, caller, endpoint))
        return rows.EndpointKey(endpoint_id=changed.id, api_key=keyring.endpoint_key(changed.id, changed.key_version))


class Known(NamedTuple):
    """An endpoint, perhaps of the past."""

    name: str
    deleted: bool


async def known(hub: Hub, caller: Principal) -> dict[EndpointId, Known]:
    """Every endpoint that the caller may see, on whatever server, and those that were deleted of whose costs something
    is kept. Raises: Unavailable."""
    gone = {e.id: Known(e.name, True) for e in await hub.store.deleted_endpoints() if caller.may_see(e.account_id)}
    return gone | {e.id: Known(e.name, False) for e in hub.directory if caller.may_see(e.account_id)}


def find_endpoint(hub: Hub, caller: Principal, name_or_id: str) -> EndpointId:
    """The caller's endpoint with this name, or else the one with this id that it may see. Raises: NotFound."""
    found = hub.directory.id_of(caller.account_id, name_or_id)
    if found is None and name_or_id.isascii() and name_or_id.isdigit() and len(name_or_id) < 19:
        found = hub.find(int(name_or_id), caller.sees).id
    if found is None:
        raise NotFound(f"there is no endpoint {name_or_id[:255]!r}")
    return found
