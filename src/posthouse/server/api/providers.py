"""Our own call for the providers that workers are rented from."""

from fastapi import FastAPI

from posthouse.engine.hub import Hub
from posthouse.engine.management import Management
from posthouse.wire import rows


def add_provider_routes(app: FastAPI, management: Management) -> None:
    hub = management.hub

    @app.get("/v1/providers")
    async def list_providers() -> list[rows.Provider]:
        """The providers that are in use, and whether they answer."""
        return [_row(hub, name) for name in sorted(hub.providers)]


def _row(hub: Hub, name: str) -> rows.Provider:
    catalog, able = hub.offers.catalogs.get(name), hub.providers[name].capabilities
    return rows.Provider(
        name=name,
        type=hub.provider_types.get(name, name),
        default=name == hub.default_provider,
        capabilities=[what for what in type(able).__slots__ if getattr(able, what)],
        answers=hub.listing.get(name, False) and catalog is not None and name not in hub.offers.failing,
        offers=None if catalog is None else sum(offer.available > 0 for offer in catalog.offers.values()),
        catalog_age_s=None if catalog is None else hub.clock.now() - catalog.at,
    )
