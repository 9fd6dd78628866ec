"""Our own call about what endpoints cost over time, under /v1."""

import csv
import io
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Literal

import msgspec
from fastapi import FastAPI, Query, Request, Response

from posthouse.budget import DAY_S, began
from posthouse.domain.endpoint import DEFAULT_ACCOUNT, EndpointId
from posthouse.engine.costs import DAYS, FOR, HOURS, OTHER, SPANS, Bucket, Costs, add_up, costs_of
from posthouse.engine.hub import Hub
from posthouse.errors import NotFound
from posthouse.server.api.v1 import Known, find_endpoint, known
from posthouse.server.auth import Keyring, Principal, Scope
from posthouse.server.errors import Forbidden
from posthouse.server.middleware import Caller, Sharing, is_passed
from posthouse.wire import rows

By = Literal["endpoint", "key", "gpu", "provider", "state"]

HOURS_S = 7 * 86_400.0
"""Longest past for which costs are given by the hour; beyond it, by the day."""
MAX_LINES = 100
NOBODY = "(nobody asked)"


def add_cost_route(app: FastAPI, hub: Hub, keyring: Keyring, sharing: Sharing) -> None:
    @app.get("/v1/costs", response_model=rows.Costs, responses={200: {"content": {"text/csv": {}}}})
    async def show_costs(
        request: Request,
        caller: Caller,
        by: By = "endpoint",
        endpoint: str = "",
        last_s: Annotated[float, Query(ge=3600, le=366 * 86_400)] = 86_400.0,
        as_csv: bool = False,
    ) -> Response | rows.Costs:
        """What your endpoints, or one of them, cost over time: by the hour for a week, else by the day (UTC).

        By key it is in proportion to the work that each asked for in an hour, and for who may see keys. Storage is what
        workers cost that rest; idle are those without a request. Endpoints that were deleted count, the latest 2,000 of
        the installation. What gateways paid to external servers is listed without `endpoint`, as `external:NAME`.
        `as_csv`: a table, with the units in its head."""
        if by == "key" and caller.scope < Scope.ADMIN:
            raise Forbidden("by: costs by key need the scope admin")
        found = await _costs(hub, keyring, caller, by, endpoint, last_s, is_passed(request))
        for other in await sharing.others(request, as_csv=0):
            found = _with(found, msgspec.convert(other, rows.Costs))
        return _as_csv(found) if as_csv else found


async def _wanted(hub: Hub, caller: Principal, endpoint: str) -> dict[EndpointId, Known]:
    """Every endpoint that the caller may see, or the one with this name or id, or else those that were deleted with it.

    Raises: NotFound, Unavailable.
    """
    seen = await known(hub, caller)
    if not endpoint:
        return seen
    with suppress(NotFound):
        found = find_endpoint(hub, caller, endpoint)
        return {found: seen[found]}
    before = {one: of_it for one, of_it in seen.items() if of_it.deleted and endpoint in (of_it.name, str(one))}
    if not before:
        raise NotFound(
            f"there is no endpoint {endpoint[:255]!r}, and none was deleted of whose costs something is kept"
        )
    return before


async def _costs(
    hub: Hub, keyring: Keyring, caller: Principal, by: By, endpoint: str, last_s: float, passed: bool
) -> rows.Costs:
    """`passed`: by another server, which reads those of endpoints itself."""
    seen = {} if passed else await _wanted(hub, caller, endpoint)
    scale = HOURS if last_s <= HOURS_S else DAYS
    step_s, now = SPANS[scale][0], hub.clock.now()
    last = int(now // step_s)
    first = int((now - last_s) // step_s) + 1
    here: dict[EndpointId, Costs] = {endpoint_id: managed.costs for endpoint_id, managed in hub.endpoints.items()}
    if not endpoint and caller.may_see(DEFAULT_ACCOUNT):
        seen[hub.external.endpoint_id] = Known("", False)
        here[hub.external.endpoint_id] = hub.external
    sums: dict[Known, list[float]] = defaultdict(lambda: [0.0] * (last - first + 1))
    of_for = dict.fromkeys(FOR, 0.0)
    for endpoint_id, buckets in (await costs_of(hub.store, here, seen.keys(), scale, first)).items():
        of_it = seen[endpoint_id]
        for number, bucket in buckets.items():
            if number > last:
                continue
            for (_, _, what_for), usd in bucket.spent.items():
                of_for[what_for] = of_for.get(what_for, 0.0) + usd
            for one, usd in _split(bucket, by, of_it.name).items():
                name = _key_name(hub, keyring, seen, one) if by == "key" else one
                sums[Known(name, by == "endpoint" and of_it.deleted)][number - first] += usd
    return rows.Costs(
        by=by,
        begin=[number * step_s for number in range(first, last + 1)],
        step_s=step_s,
        usd=sum(map(sum, sums.values())),
        idle_usd=of_for["idle"],
        storage_usd=of_for["storage"],
        lines=_lines(sums),
    )


def _lines(sums: Mapping[Known, list[float]]) -> list[rows.CostLine]:
    """The largest, and the others together."""
    ordered = sorted(sums.items(), key=lambda item: -sum(item[1]))
    if len(ordered) > MAX_LINES:
        rest = [sum(column) for column in zip(*(usd_of for _, usd_of in ordered[MAX_LINES:]), strict=True)]
        ordered = [*ordered[:MAX_LINES], (Known(OTHER, False), rest)]
    return [
        rows.CostLine(name=one.name, usd=sum(usd_of), usd_of=usd_of, deleted=one.deleted)
        for one, usd_of in ordered
        if any(usd_of)
    ]


def _with(found: rows.Costs, other: rows.Costs) -> rows.Costs:
    """The same with what another server knows alone; its clock may be in another hour."""
    sums: dict[Known, list[float]] = {Known(line.name, line.deleted): line.usd_of for line in found.lines}
    at = {begin: index for index, begin in enumerate(found.begin)}
    for line in other.lines:
        own = sums.setdefault(Known(line.name, line.deleted), [0.0] * len(found.begin))
        for begin, usd in zip(other.begin, line.usd_of, strict=True):
            if begin in at:
                own[at[begin]] += usd
    return rows.Costs(
        by=found.by,
        begin=found.begin,
        step_s=found.step_s,
        usd=sum(map(sum, sums.values())),
        idle_usd=found.idle_usd + other.idle_usd,
        storage_usd=found.storage_usd + other.storage_usd,
        lines=_lines(sums),
    )


async def usd_month(hub: Hub, caller: Principal, passed: bool) -> dict[str, float]:
    """What each key that the caller may see has cost this month, by its id. `passed`: as above, of those deleted."""
    now = hub.clock.now()
    first, today = int(began("month", now)[0] // DAY_S), int(now // DAY_S)
    sums: dict[str, float] = defaultdict(float)
    here = {e: m.costs for e, m in hub.endpoints.items() if caller.may_see(m.fleet.endpoint.account_id)}
    there = [(e, costs) for e, costs in here.items() if not hub.endpoints[e].leaving]
    for payer_id, costs in (*there, (hub.external.endpoint_id, hub.external)):
        add_up(sums, await costs.by_key(hub.store, payer_id, first, today))
    gone = [] if passed else [e for e, of_it in (await known(hub, caller)).items() if of_it.deleted]
    for buckets in (await costs_of(hub.store, here, gone, DAYS, first)).values():
        for bucket in buckets.values():
            add_up(sums, bucket.by_key())
    return sums


def _split(bucket: Bucket, by: By, endpoint: str) -> dict[str, float]:
    """What an endpoint cost in an hour or a day, in the parts that are asked for."""
    if by == "key":
        return bucket.by_key()
    split: dict[str, float] = defaultdict(float)
    for (provider, gpu, what_for), usd in bucket.spent.items():
        named = {"endpoint": endpoint or provider, "provider": provider, "gpu": gpu or "no GPU", "state": what_for}
        split[named[by]] += usd
    return split


def _key_name(hub: Hub, keyring: Keyring, seen: Mapping[EndpointId, Known], key_id: str) -> str:
    """What a key is called, for people."""
    if not key_id or key_id == OTHER:
        return key_id or NOBODY
    if key_id.startswith("phe_"):
        endpoint_id = EndpointId(int(key_id.split("_")[1]))
        listed, of_it = hub.directory.get(endpoint_id), seen.get(endpoint_id)
        name = listed.endpoint.name if listed else of_it.name if of_it else "a deleted endpoint"
        return f"{name}'s own key"
    name = keyring.name_of(key_id)
    return f"{name} (ph_{key_id})" if name else f"ph_{key_id}"


def _as_csv(found: rows.Costs) -> Response:
    """A row for each line and span of time. Texts that a spreadsheet would compute begin with an apostrophe."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["begin_utc", "span_s", found.by, "usd"])
    for index, begin in enumerate(found.begin):
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begin))
        for line in found.lines:
            name = f"'{line.name}" if line.name.startswith(("=", "+", "-", "@", "\t", "\r")) else line.name
            name += " (deleted)" if line.deleted else ""
            table.writerow([at, f"{found.step_s:.0f}", name, f"{line.usd_of[index]:.6f}"])
    headers = {"Content-Disposition": f'attachment; filename="posthouse-costs-by-{found.by}.csv"'}
    return Response(text.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)
