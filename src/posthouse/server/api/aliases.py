"""Our own calls about aliases, under /v1."""

from fastapi import FastAPI

from posthouse.engine.management import Management
from posthouse.engine.management.inputs import NewAlias
from posthouse.server.middleware import Caller
from posthouse.wire import rows


def add_alias_routes(app: FastAPI, management: Management) -> None:
    aliases = management.aliases

    @app.get("/v1/aliases")
    async def list_aliases(caller: Caller) -> list[rows.Alias]:
        """The aliases that the key may name as a model; an endpoint's own key has none."""
        return [] if caller.endpoint_id is not None else list(aliases.of(caller.account_id).values())

    # `:path`, because names may have slashes in them.

    @app.put("/v1/aliases/{name:path}")
    async def put_alias(name: str, new: NewAlias, caller: Caller) -> rows.Alias:
        """Makes an alias, or replaces the one of this name. What it names must be there, and may not lead back to it.
        While it names an endpoint, that can be neither deleted nor renamed."""
        return await aliases.put(name, new, caller.account_id)

    @app.delete("/v1/aliases/{name:path}")
    async def delete_alias(name: str, caller: Caller) -> rows.Alias:
        """Deletes an alias that no other one names."""
        return await aliases.delete(name, caller.account_id)
