"""Our own call for the providers that workers are rented from."""

from fastapi import FastAPI
from pydantic import BaseModel, Field

from posthouse.engine.hub import Hub


class ProviderRow(BaseModel):
    name: str = Field(description="Of its table `[providers.NAME]`, and what workergroups name it by.")
    type: str
    default: bool = Field(description="Whether workergroups that name no provider rent here.")
    capabilities: list[str] = Field(description="Of stop, update, logs, interruptible.")
    answers: bool = Field(description="Whether its latest list of instances and its latest catalogue came.")
    offers: int | None = Field(description="How many offers its latest catalogue has; null before the first.")
    catalog_age_s: float | None = Field(description="How old that is.")


def add_provider_routes(app: FastAPI, hub: Hub) -> None:
    @app.get("/v1/providers")
    async def list_providers() -> list[ProviderRow]:
        """The providers that are in use, and whether they answer."""
        return [_row(hub, name) for name in sorted(hub.providers)]


def _row(hub: Hub, name: str) -> ProviderRow:
    catalog, able = hub.offers.catalogs.get(name), hub.providers[name].capabilities
    return ProviderRow(
        name=name,
        type=hub.provider_types.get(name, name),
        default=name == hub.default_provider,
        capabilities=[what for what in type(able).__slots__ if getattr(able, what)],
        answers=hub.listing.get(name, False) and catalog is not None and name not in hub.offers.failing,
        offers=None if catalog is None else sum(offer.available > 0 for offer in catalog.offers.values()),
        catalog_age_s=None if catalog is None else hub.clock.now() - catalog.at,
    )
