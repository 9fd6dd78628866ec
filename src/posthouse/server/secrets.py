"""The protocol's calls about secrets: environment variables that every new instance is given."""

import asyncio
import re
from typing import Any

from fastapi import FastAPI

from posthouse.domain.errors import BadRequest, NotFound
from posthouse.engine.catalog import Catalog
from posthouse.server.auth import Keyring, Principal
from posthouse.server.middleware import Ask, Caller

MOST = 100
"""Most secrets: our choice."""
TOTAL_BYTES = 32_768
"""Most bytes of all names and values together: half of what an instance's environment may have on this machine, so that
a template's own variables have room beside them."""
MAX_NAME = 128
"""Longest name, in characters: our choice."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OURS = re.compile(
    r"REPORT_ADDR|MASTER_TOKEN|USE_SSL|CONTAINER_ID|PUBLIC_IPADDR|WORKER_(HTTP_)?PORT|MODEL_(PORT|LOG)"
    r"|(VAST_TCP_PORT|POSTHOUSE)_.*",
    re.IGNORECASE,
)
"""Names that the server and its providers set themselves, and prefixes of such."""


def add_secret_routes(app: FastAPI, catalog: Catalog, keyring: Keyring) -> None:
    hub = catalog.hub
    one_at_a_time = asyncio.Lock()

    def owned(caller: Principal) -> dict[str, str]:
        return hub.secrets.get(caller.account_id, {})

    async def put(caller: Principal, name: str, ask: Ask) -> None:
        value = _value(ask)
        plain = {other: keyring.unseal(other, sealed) for other, sealed in owned(caller).items() if other != name}
        total = sum(len(text.encode()) for pair in [*plain.items(), (name, value)] for text in pair)
        if total > TOTAL_BYTES:
            raise BadRequest(f"value: all secrets together would have {total} bytes, and {TOTAL_BYTES} are allowed")
        sealed = keyring.seal(value)
        await hub.store.put_secret(caller.account_id, name, sealed)
        hub.secrets.setdefault(caller.account_id, {})[name] = sealed

    def known(caller: Principal, ask: Ask) -> str:
        name = _name(ask)
        if name not in owned(caller):
            raise NotFound(f"there is no secret {name}")
        return name

    @app.get("/api/v0/secrets")
    async def list_secrets(caller: Caller) -> dict[str, Any]:
        """Every secret with its value. They are given to workers, so whoever may make a template may know them."""
        return {"success": True, "secrets": {n: keyring.unseal(n, s) for n, s in sorted(owned(caller).items())}}

    @app.post("/api/v0/secrets")
    async def create_secret(ask: Ask, caller: Caller) -> dict[str, Any]:
        """Makes a secret from `key`, its name, and `value`. Instances made from now on have it in their environment,
        where their template sets no variable of that name."""
        async with one_at_a_time:
            name = _name(ask)
            if name in owned(caller):
                raise BadRequest(f"key: there is a secret {name}; update or delete it")
            if len(owned(caller)) >= MOST:
                raise BadRequest(f"key: there are {MOST} secrets, which is the limit: delete some")
            await put(caller, name, ask)
        return {"success": True, "msg": f"{name} was created; instances made from now on have it"}

    @app.put("/api/v0/secrets")
    async def update_secret(ask: Ask, caller: Caller) -> dict[str, Any]:
        """Gives the secret `key` another `value`. Instances that are there keep what they were made with."""
        async with one_at_a_time:
            name = known(caller, ask)
            await put(caller, name, ask)
        return {"success": True, "msg": f"{name} was updated; instances made from now on have the new value"}

    @app.delete("/api/v0/secrets")
    async def delete_secret(ask: Ask, caller: Caller) -> dict[str, Any]:
        """Deletes the secret `key`. Instances that are there keep what they were made with."""
        async with one_at_a_time:
            name = known(caller, ask)
            await hub.store.drop_secret(caller.account_id, name)
            del hub.secrets[caller.account_id][name]
        return {"success": True, "msg": f"{name} was deleted; instances made from now on do not have it"}


def _name(ask: Ask) -> str:
    """The name of a secret. Raises: BadRequest."""
    name = ask.get("key")
    if not isinstance(name, str) or len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise BadRequest(
            f"key: must be the name of a variable: 1 to {MAX_NAME} letters, digits and _, and no digit first"
        )
    if _OURS.fullmatch(name):
        raise BadRequest(f"key: {name} is set by the server itself; choose another")
    return name


def _value(ask: Ask) -> str:
    """The value of a secret; no refusal repeats it. Raises: BadRequest."""
    value = ask.get("value")
    if not isinstance(value, str) or "\0" in value:
        raise BadRequest("value: must be text without NUL")
    return value
