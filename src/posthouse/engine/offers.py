"""What providers offer: one catalogue of each, kept for a while, and what of it each workergroup may rent."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import structlog

from posthouse.domain.endpoint import WorkergroupId
from posthouse.domain.offer import GroupOffer, Offer, Price
from posthouse.errors import BadRequest, Busy
from posthouse.ports import Clock, Provider
from posthouse.template import Template, Workergroup
from posthouse.wire.matching import matches, values_of
from posthouse.wire.search import parse_search

log = structlog.get_logger()

CATALOG_TIMEOUT_S = 120.0
"""How long a provider may take for its catalogue, in seconds."""
MAX_AGE_S = 600.0
"""A catalogue that is older is not rented from: machines and prices are others by now. Or three of its periods."""
MAX_OF_A_KIND = 64
"""Most offers of one GPU and number of GPUs for one workergroup, the cheapest: each decision looks at all of them."""

MAX_OFFERS = 20_000
"""Most offers of one provider that are kept, the first ones; no market that we know shows more."""

MAX_ZONES = 10_000
"""Most zones of one provider that are remembered."""

Filters = Mapping[str, Mapping[str, object]]
_Key = tuple[object, ...]


@dataclass(slots=True)
class Catalog:
    """What a provider offered when it was last asked."""

    offers: dict[str, Offer]
    at: float
    period_s: float
    version: int
    """Another one for each answer, and for each rental out of it."""


@dataclass(slots=True)
class Offers:
    """Every provider's catalogue. Calls are answered from memory; `run` asks the providers."""

    clock: Clock
    counts: Counter[str] = field(default_factory=Counter)
    failing: set[str] = field(default_factory=set)
    """Providers whose latest catalogue failed."""
    catalogs: dict[str, Catalog] = field(default_factory=dict)
    regions: Mapping[str, str] = field(default_factory=dict)
    """Where the machines of providers are that do not say it themselves, by name."""
    zones: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Where each provider was seen to have machines."""
    _versions: int = 0
    _of_group: defaultdict[WorkergroupId, dict[str, tuple[_Key, tuple[GroupOffer, ...]]]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    """What was found for a workergroup at each provider, and all that it depends on."""

    async def run(self, provider: Provider, catalog_s: float) -> None:
        """Refreshes one provider's catalogue every `catalog_s`, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(CATALOG_TIMEOUT_S):
                    await self.refresh(provider, catalog_s)
                self.failing.discard(provider.name)
            except Exception as error:  # noqa: BLE001 - the seam of a look: a provider may raise anything; what it offered before stays
                self.counts[f"{provider.name}_catalogs_failed"] += 1
                self.failing.add(provider.name)
                log.warning("could not read a provider's catalogue", provider=provider.name, error=repr(error)[:300])
            await asyncio.sleep(catalog_s)

    async def refresh(self, provider: Provider, catalog_s: float = 0.0) -> None:
        """Reads a provider's catalogue; one call serves every workergroup."""
        asked_at = self.clock.now()
        region = self.regions.get(provider.name, "")
        offers = {offer.id: offer for offer in islice(await provider.catalog(), MAX_OFFERS)}
        if region:
            offers = {name: replace(offer, zone=offer.zone or region) for name, offer in offers.items()}
        seen = self.zones[provider.name] | {offer.zone for offer in offers.values() if offer.zone}
        self.zones[provider.name] = set(islice(seen, MAX_ZONES))
        self._versions += 1
        self.catalogs[provider.name] = Catalog(offers, asked_at, catalog_s, self._versions)
        self.counts[f"{provider.name}_catalogs"] += 1

    def take(self, provider: str, offer_id: str) -> None:
        """Notes that a worker is being rented of an offer, so that nobody counts on it until the next catalogue."""
        catalog = self.catalogs.get(provider)
        offer = None if catalog is None else catalog.offers.get(offer_id)
        if catalog is not None and offer is not None:
            self._versions += 1
            catalog.offers[offer_id] = replace(offer, available=max(0, offer.available - 1))
            catalog.version = self._versions

    def for_group(self, group: Workergroup, provider: str, template: Template | None) -> tuple[GroupOffer, ...]:
        """What the workergroup may rent of a provider; the same object while nothing has changed."""
        catalog = self._fresh(provider)
        if template is None or catalog is None:
            self._of_group[group.id].pop(provider, None)
            return ()
        key: _Key = (catalog.version, group.search_params, template.hash_id)
        before = self._of_group[group.id].get(provider)
        if before is not None and before[0] == key and not any(_ended(o.offer, self.clock) for o in before[1]):
            return before[1]
        try:
            filters = parse_search(group.search_params or template.extra_filters)
            found = _cheapest_of_each_kind(self._matching(catalog, filters, template.disk_gb))
        except BadRequest as error:
            log.warning("no offers for a workergroup", workergroup=group.id, why=str(error)[:300])
            found = []
        offers = tuple(GroupOffer(group.id, offer) for offer in found)
        self._of_group[group.id][provider] = key, offers
        return offers

    def drop_group(self, group_id: WorkergroupId) -> None:
        """Forgets what was found for a workergroup that is gone."""
        self._of_group.pop(group_id, None)

    def known_zones(self, providers: Iterable[str]) -> set[str] | None:
        """Where these providers were seen to have machines; None while one of them has not said what it offers."""
        names = list(providers)
        return None if any(n not in self.catalogs for n in names) else {z for n in names for z in self.zones[n]}

    def search(self, provider: str, filters: Filters, disk_gb: float) -> list[Offer]:
        """What a provider offers that satisfies the filters, cheapest first, each at its price with that disk.

        Raises: Busy until it has been asked for the first time.
        """
        catalog = self._fresh(provider)
        if catalog is None:
            raise Busy(f"provider {provider!r}: what it offers is not known yet", 5.0)
        return self._matching(catalog, filters, disk_gb)

    def troubles(self) -> list[str]:
        """What fails at providers, as texts for users."""
        return [f"provider {name} does not say what it offers" for name in sorted(self.failing)]

    def _fresh(self, provider: str) -> Catalog | None:
        """The provider's catalogue; None if there is none, or it is too old."""
        catalog = self.catalogs.get(provider)
        if catalog is None or self.clock.now() - catalog.at > max(MAX_AGE_S, 3 * catalog.period_s):
            return None
        return catalog

    def _matching(self, catalog: Catalog, filters: Filters, disk_gb: float) -> list[Offer]:
        found = []
        for offer in catalog.offers.values():
            priced = _with_disk(offer, disk_gb)
            usd_h = priced.price.ready_usd_h
            if (
                offer.available > 0
                and disk_gb <= offer.max_disk_gb
                and not _ended(offer, self.clock)
                and matches(filters, values_of(offer, usd_h))
            ):
                found.append(priced)
        return sorted(found, key=lambda offer: (offer.price.ready_usd_h, offer.id))


def _ended(offer: Offer, clock: Clock) -> bool:
    return 0 < offer.expires_at <= clock.wall()


def _with_disk(offer: Offer, disk_gb: float) -> Offer:
    """The offer at its price with a disk, and without what only a search looks at."""
    extra_usd_h = offer.disk_usd_gb_h * disk_gb
    price = offer.price
    if extra_usd_h:
        price = Price(
            price.ready_usd_h + extra_usd_h, price.loading_usd_h + extra_usd_h, price.stopped_usd_h + extra_usd_h
        )
    return replace(offer, price=price, disk_usd_gb_h=0.0, attributes={})


def _cheapest_of_each_kind(offers: Sequence[Offer]) -> list[Offer]:
    """The first ones of each GPU and number of GPUs, which are the cheapest."""
    kinds: defaultdict[tuple[str, int], int] = defaultdict(int)
    found = []
    for offer in offers:
        kinds[offer.gpu_name, offer.num_gpus] += 1
        if kinds[offer.gpu_name, offer.num_gpus] <= MAX_OF_A_KIND:
            found.append(offer)
    return found
