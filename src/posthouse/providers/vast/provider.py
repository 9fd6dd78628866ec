"""The `Provider` port on the market."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Self
from weakref import WeakValueDictionary

import msgspec

from posthouse import bootstrap
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Observation
from posthouse.domain.offer import Capabilities, Offer, Price
from posthouse.errors import Busy, NotFound, OfferTaken, PosthouseError, Refused
from posthouse.ports import InstanceSpec
from posthouse.providers.answers import NoAnswer
from posthouse.providers.plugin import Context
from posthouse.providers.vast import launch, listing
from posthouse.providers.vast.client import Client, HalfMade
from posthouse.providers.vast.listing import BID, Row
from posthouse.providers.vast.pace import Call
from posthouse.providers.vast.settings import VastSettings
from posthouse.providers.vast.shared import Shared
from posthouse.wire.search import parse_search

PAGE: Final = 25
"""Instances in one answer: the market gives no more."""
MAX_PAGES: Final = 400
UNCLEAR_S: Final = 600.0
"""For so long after a rental without an answer nothing else is rented for its label."""
SETTLE_S: Final = 20.0
"""How long such a rental is looked for before the caller is told that its outcome is unknown."""
SETTLE_AGAIN_S: Final = 0.2
"""Between two looks for it, beside the pace of calls."""
UPDATE_S: Final = 60.0
"""How long an update is waited for. It goes on after it."""
LAST_LINES: Final = 6
LAST_WORDS_S: Final = 10.0
"""How long a list waits for what instances printed that have ended."""
MAX_LAST_WORDS: Final = 1000
MAX_LINES: Final = 10_000


class VastProvider:
    """The `Provider` port on the market."""

    Settings = VastSettings

    @classmethod
    async def open(cls, settings: VastSettings, context: Context) -> Self:
        """The provider with these settings. Raises: Refused for an installation that no label could carry."""
        return cls(settings, context)

    def __init__(self, settings: VastSettings, context: Context) -> None:
        self.name = context.name
        self.capabilities = Capabilities(interruptible=settings.rent == "bid")
        self._settings = settings
        self._label = bootstrap.labels(context.installation)
        self._client = Client(context.name, settings, context.servers)
        self._unreachable = launch.unreachable(context.report_url, settings, context.name)
        self._offers: dict[str, Offer] = {}
        """Of the latest catalogue."""
        self._ours: dict[str, str] = {}
        """The label of each instance of this installation that was seen."""
        self._asked: dict[str, float] = {}
        """Labels for which was rented without a clear answer, and when."""
        self._renting: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._last_words: dict[str, str] = {}
        self._list = Shared(self._listed)

    # -- what there is -----------------------------------------------------------------------------------------------

    async def catalog(self) -> Sequence[Offer]:
        """What the search of the settings finds: on demand, by bid, or both. Each machine can be rented once."""
        found: list[Offer] = []
        if self._settings.rent != "bid":
            found += listing.offers(await self._search("on-demand"), self.name, self.capabilities, None)
        if self._settings.rent != "on-demand":
            most = self._settings.max_bid_usd_h
            bids = listing.offers(await self._search("bid"), self.name, self.capabilities, self._settings.bid_over)
            found += [offer for offer in bids if not most or offer.price.ready_usd_h <= most]
        self._offers = {offer.id: offer for offer in found}
        return found

    async def instances(self) -> Sequence[Instance]:
        """Everything of this installation. One that has ended says with what.

        A list of many pages takes a while, so callers that ask meanwhile share the next one.
        """
        return await self._list.answer()

    async def _listed(self) -> Sequence[Instance]:
        rows = [row for row in await self._rows({}) if self._label.fullmatch(row.label)]
        self._ours = {row.id: row.label for row in rows}
        ended = [row for row in rows if row.seen is Observation.EXITED]
        self._last_words = {row.id: self._last_words[row.id] for row in ended if row.id in self._last_words}
        await self._hear([row for row in ended if row.status == "exited" and row.id not in self._last_words])
        return [row.instance(self._last_words.get(row.id, "")) for row in rows]

    async def logs(self, instance_id: str, tail: int) -> str:
        """The last lines that its container printed, with what its model wrote to `MODEL_LOG`."""
        tail = min(tail, MAX_LINES)
        if tail < 1 or not await self._is_ours(instance_id):
            return ""
        try:
            answer = await self._client.call(
                Call.LOGS, "PUT", f"/api/v0/instances/request_logs/{instance_id}/", {"tail": str(tail)}
            )
        except NotFound:
            return ""
        url = answer.get("result_url")
        text = await self._client.text(url) if isinstance(url, str) else ""
        return "".join(text.splitlines(keepends=True)[-tail:])

    def troubles(self) -> list[str]:
        return [text for text in (self._unreachable, *self._client.troubles) if text]

    async def close(self) -> None:
        await self._list.close()
        await self._client.close()

    # -- what is done ------------------------------------------------------------------------------------------------

    async def create(self, offer_id: str, spec: InstanceSpec, max_usd_h: float) -> Instance:
        """The instance, rented. One that has the label already is returned as it is.

        Raises: OfferTaken, Refused for a spec that cannot be run, Busy; NoAnswer where a rental may have been made.
        """
        self._check(spec)
        ask = offer_id.removeprefix(BID)
        lock = self._renting.setdefault(spec.label, asyncio.Lock())
        async with lock:
            if (found := await self._with_label(spec.label)) is not None:
                self._asked.pop(spec.label, None)
                return found.instance()
            if _now() - self._asked.get(spec.label, -UNCLEAR_S) < UNCLEAR_S:
                raise NoAnswer(f"{spec.label}: it was rented for before, and the market has not shown it yet")
            if not (ask.isascii() and ask.isdecimal()):
                raise OfferTaken(f"{offer_id}: the market has no such offer")
            return await self._rent(offer_id, ask, spec, max_usd_h)

    async def start(self, instance_id: str) -> None:
        """Starts it; it runs as soon as its GPUs are free. Raises: NotFound; Busy for one that is outbid."""
        row = await self._row(instance_id)
        if row.bid_usd_h and row.min_bid_usd_h > row.bid_usd_h:
            await self._raise_bid(row)
        await self._order(instance_id, "running")

    async def stop(self, instance_id: str) -> None:
        """Ends its container and keeps it, without its GPUs."""
        if await self._is_ours(instance_id):
            with suppress(NotFound):
                await self._order(instance_id, "stopped")

    async def update(self, instance_id: str, spec: InstanceSpec) -> Instance:
        """Has the market make a new container on the same machine: what the old one had written is gone.

        Raises: NotFound, Refused for a spec that cannot be run, Busy.
        """
        self._check(spec)
        runs = launch.runs(spec, self._settings)
        before = await self._row(instance_id)
        path = f"/api/v0/instances/update_template/{instance_id}/"
        await self._client.call(Call.MANAGE, "PUT", path, {"id": int(instance_id), **runs})
        if before.wanted == "stopped":
            await self._order(instance_id, "running")
        return (await self._renewed(instance_id, before)).instance()

    async def destroy(self, instance_id: str) -> None:
        """Ends it, with all that it has."""
        if await self._is_ours(instance_id):
            with suppress(NotFound):
                await self._client.call(Call.DESTROY, "DELETE", f"/api/v0/instances/{instance_id}/", {})

    # -- renting -----------------------------------------------------------------------------------------------------

    async def _rent(self, offer_id: str, ask: str, spec: InstanceSpec, max_usd_h: float) -> Instance:
        offer = self._offers.get(offer_id)
        bid = offer.price.ready_usd_h if offer and offer_id.startswith(BID) else 0.0
        if offer is None and (
            self._offers or offer_id.startswith(BID)
        ):  # it waited for its turn, and somebody else was faster
            raise OfferTaken(f"{offer_id}: it is not among the latest offers")
        if offer is not None and (usd_h := _with_disk(offer, spec.disk_gb)) > max_usd_h * (1 + 1e-9):
            raise OfferTaken(f"{offer_id}: costs {usd_h:g} $/h, more than {max_usd_h:g}")
        body = launch.body(spec, self._settings, bid)
        self._asked = {label: at for label, at in self._asked.items() if _now() - at < UNCLEAR_S}
        self._asked[spec.label] = _now()
        try:
            answer = await self._client.call(Call.CREATE, "PUT", f"/api/v0/asks/{ask}/", body)
        except PosthouseError as refusal:
            del self._asked[spec.label]
            if isinstance(refusal, HalfMade):
                self._ours[refusal.instance_id] = spec.label
                with suppress(PosthouseError, NoAnswer):  # else it is an orphan
                    await self.destroy(refusal.instance_id)
            raise
        except NoAnswer:
            return (await self._settled(spec.label)).instance()
        instance_id = answer.get("new_contract")
        if not isinstance(instance_id, int):
            return (await self._settled(spec.label)).instance()
        del self._asked[spec.label]
        self._ours[str(instance_id)] = spec.label
        return await self._checked(str(instance_id), offer_id, spec, max_usd_h)

    async def _checked(self, instance_id: str, offer_id: str, spec: InstanceSpec, max_usd_h: float) -> Instance:
        """What was rented, if it costs no more than it may: prices move between a catalogue and a rental.

        Its disk counts as the offer's did: the market gives no less than a few GB.
        """
        until = _now() + SETTLE_S
        while _now() < until:
            try:
                row = await self._row(instance_id)
            except (NotFound, NoAnswer, Busy):  # the market shows it later
                await asyncio.sleep(SETTLE_AGAIN_S)
                continue
            disk = row.storage_usd_h * min(1.0, spec.disk_gb / launch.MIN_DISK_GB)
            usd_h = row.usd_h - row.storage_usd_h + disk
            if usd_h > max_usd_h * (1 + 1e-4):
                await self.destroy(instance_id)
                raise OfferTaken(f"{offer_id}: costs {usd_h:g} $/h by now, more than {max_usd_h:g}")
            return row.instance()
        return Instance(id=instance_id, label=spec.label, seen=Observation.PROVISIONING)

    async def _settled(self, label: str) -> Row:
        """What was rented without an answer. Raises: NoAnswer if the market does not show it in time."""
        until = _now() + SETTLE_S
        while True:
            with suppress(NoAnswer, Busy):
                if (found := await self._with_label(label)) is not None:
                    del self._asked[label]
                    return found
            if _now() >= until:
                raise NoAnswer(f"{label}: the market gave no answer to its rental, and does not show it yet")
            await asyncio.sleep(SETTLE_AGAIN_S)

    async def _raise_bid(self, row: Row) -> None:
        """Bids what wins now. Raises: Busy if that is too much."""
        bid, most = listing.bid_of(row.min_bid_usd_h, self._settings.bid_over), self._settings.max_bid_usd_h
        if most and bid > most:
            raise Busy(f"{row.id} was outbid: {bid:g} $/h wins now, max_bid_usd_h is {most:g}", SETTLE_S)
        path = f"/api/v0/instances/bid_price/{row.id}/"
        await self._client.call(Call.MANAGE, "PUT", path, {"client_id": "me", "price": bid})

    # -- parts -------------------------------------------------------------------------------------------------------

    def _check(self, spec: InstanceSpec) -> None:
        """Raises: Refused for what cannot be run, or could not report."""
        bootstrap.check(spec, self._label)
        if why := launch.unreachable(spec.env.get("REPORT_ADDR", ""), self._settings, self.name):
            raise Refused(why)

    async def _search(self, kind: str) -> list[Mapping[str, Any]]:
        body = {
            **parse_search(self._settings.search),
            "type": kind,
            "order": [["dph_total", "asc"]],
            "limit": self._settings.max_offers,
            "allocated_storage": listing.PRICED_WITH_GB,
        }
        answer = await self._client.call(Call.SEARCH, "POST", "/api/v0/bundles/", body)
        found = answer.get("offers")
        if not isinstance(found, list):
            raise NoAnswer(f"provider {self.name}: the market answers without offers")
        return [row for row in found if isinstance(row, dict)]

    async def _rows(self, filters: Mapping[str, Any]) -> list[Row]:
        """Every instance of the account that satisfies the filters. Raises: NoAnswer for a list with a gap."""
        query = {
            "select_filters": msgspec.json.encode(filters).decode(),
            "order_by": '[{"col":"id","dir":"asc"}]',
            "limit": str(PAGE),
        }
        found: dict[str, Row] = {}
        for _ in range(MAX_PAGES):
            answer = await self._client.call(Call.LIST, "GET", "/api/v1/instances/", query=query)
            page, total = answer.get("instances"), answer.get("total_instances")
            if not isinstance(page, list):
                raise NoAnswer(f"provider {self.name}: the market answers without instances")
            found |= {row.id: row for row in map(listing.row, page)}
            token = answer.get("next_token")
            if not token:
                if isinstance(total, int) and len(found) < total:
                    raise NoAnswer(f"provider {self.name}: the market lists {len(found)} of {total} instances")
                return list(found.values())
            query = query | {"after_token": str(token)}
        raise NoAnswer(f"provider {self.name}: the market's list does not end")

    async def _with_label(self, label: str) -> Row | None:
        """The instance with the label; of several the first."""
        found = [row for row in await self._rows({"label": {"in": [label]}}) if row.label == label]
        for row in found[:1]:
            self._ours[row.id] = label
        return found[0] if found else None

    async def _row(self, instance_id: str) -> Row:
        """One instance of this installation. Raises: NotFound."""
        if not _is_number(instance_id):
            raise NotFound(f"{instance_id[:100]!r} is not the number of an instance")
        answer = await self._client.call(Call.SHOW, "GET", f"/api/v0/instances/{instance_id}/", query={"owner": "me"})
        shown = answer.get("instances")
        row = listing.row(shown) if isinstance(shown, dict) else None
        if row is None or not self._label.fullmatch(row.label):
            raise NotFound(f"instance {instance_id} is not there, or of another installation")
        self._ours[row.id] = row.label
        return row

    async def _is_ours(self, instance_id: str) -> bool:
        """Whether there is such an instance, of this installation."""
        if instance_id in self._ours:
            return True
        try:
            await self._row(instance_id)
        except NotFound:
            return False
        return True

    async def _order(self, instance_id: str, state: str) -> None:
        await self._client.call(Call.MANAGE, "PUT", f"/api/v0/instances/{instance_id}/", {"state": state})

    async def _renewed(self, instance_id: str, before: Row) -> Row:
        """An instance once its new container runs; as it is then, if that takes long.

        Nothing tells the old container from the new one but that it does not run for a moment. So one that seems to
        run all the time is believed to run what is new only after `UPDATE_S`.
        """
        until, ended = _now() + UPDATE_S, before.seen is not Observation.RUNNING
        while True:
            row = await self._row(instance_id)
            ended = ended or row.seen is not Observation.RUNNING
            if (ended and row.seen is Observation.RUNNING) or _now() >= until:
                return row

    async def _hear(self, ended: Sequence[Row]) -> None:
        """Takes down what instances printed last that have ended, of as many as there is time for."""
        with suppress(TimeoutError, PosthouseError, NoAnswer):
            async with asyncio.timeout(LAST_WORDS_S):
                for row in ended[:MAX_LAST_WORDS]:
                    lines = (await self.logs(row.id, LAST_LINES)).splitlines()
                    self._last_words[row.id] = " | ".join(line.strip() for line in lines if line.strip())[-400:]


def _with_disk(offer: Offer, disk_gb: float) -> float:
    """Dollars per hour of an offer with a disk."""
    price: Price = offer.price
    return price.ready_usd_h + offer.disk_usd_gb_h * disk_gb


def _now() -> float:
    return asyncio.get_running_loop().time()


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 15
