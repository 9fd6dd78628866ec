"""The client's management calls: endpoints, workergroups, templates, workers, keys. Answers are rows of `wire.rows`."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from posthouse.client.errors import BadRequest, NotFound
from posthouse.client.http import Http
from posthouse.domain.endpoint import PARAMETERS
from posthouse.wire import rows
from posthouse.wire.checks import unknown

Id = int | str
WHAT_IF_S: Final = 200.0
"""How long a server may take to play traffic again: it gives up after three minutes."""


class Management:
    """The calls that see and change what a server has."""

    def __init__(self, http: Http) -> None:
        self._http = http

    # --- the wire's own calls ---

    async def endpoints(self) -> list[rows.Endpoint]:
        return await self._http.call("GET", "/api/v0/endptjobs/", list[rows.Endpoint], key="results")

    async def endpoint(self, name_or_id: Id) -> rows.Endpoint:
        """Returns the endpoint of that name, or else of that id."""
        endpoints = await self.endpoints()
        for key in ("endpoint_name", "id"):
            for row in endpoints:
                if str(getattr(row, key)) == str(name_or_id):
                    return row
        raise NotFound(f"there is no endpoint {name_or_id!r}")

    async def create_endpoint(self, /, name: str, **scaling: float | str | None) -> int:
        """Creates an endpoint and returns its id. Parameters not given have the server's defaults."""
        _check(scaling)
        return await self._http.call("POST", "/api/v0/endptjobs/", int, {"endpoint_name": name, **scaling}, "result")

    async def update_endpoint(self, /, endpoint_id: int, **changes: float | str | None) -> None:
        """Changes scaling parameters, `endpoint_name` and `endpoint_state`; None changes nothing."""
        _check(changes, "endpoint_name", "endpoint_state")
        await self._http.reply("PUT", f"/api/v0/endptjobs/{endpoint_id}/", changes)

    async def delete_endpoint(self, endpoint_id: int) -> None:
        """Deletes an endpoint, its workergroups and its workers."""
        await self._http.reply("DELETE", f"/api/v0/endptjobs/{endpoint_id}/")

    async def endpoint_workers(self, endpoint_id: int) -> list[rows.WorkerMetrics]:
        """Returns the workers of an endpoint as the wire knows them; `workers` tells more."""
        kind = list[rows.WorkerMetrics]
        return await self._http.call("POST", "/get_endpoint_workers/", kind, {"id": endpoint_id}, "workers")

    async def endpoint_logs(self, endpoint_id: int, tail: int = -1) -> rows.EventLogs:
        """Returns what happened to an endpoint, by level; the last `tail` lines of each, all if below 0."""
        body = {"id": endpoint_id, "tail": tail}
        return await self._http.call("POST", "/get_endpoint_logs/", rows.EventLogs, body)

    async def workergroups(self) -> list[rows.Workergroup]:
        return await self._http.call("GET", "/api/v0/workergroups/", list[rows.Workergroup], key="results")

    async def create_workergroup(self, /, **fields: Any) -> int:
        """Creates a workergroup and returns its id. Needs `endpoint_name` or `endpoint_id`, and a template."""
        return await self._http.call("POST", "/api/v0/workergroups/", int, fields, "id")

    async def update_workergroup(self, /, workergroup_id: int, **fields: Any) -> None:
        await self._http.reply("PUT", f"/api/v0/workergroups/{workergroup_id}/", fields)

    async def update_workers(self, workergroup_id: int, cancel: bool = False) -> int:
        """Has a workergroup's workers updated, or calls that off; returns how many will be."""
        body = {"workergroup_id": workergroup_id, "cancel_update": cancel}
        return await self._http.call("POST", "/update_workers/", int, body, "workers_to_update")

    async def delete_workergroup(self, workergroup_id: int) -> None:
        """Deletes a workergroup and its workers."""
        await self._http.reply("DELETE", f"/api/v0/workergroups/{workergroup_id}/")

    async def templates(self) -> list[rows.Template]:
        return await self._http.call("GET", "/api/v0/template/", list[rows.Template], key="templates")

    async def create_template(self, /, name: str, **fields: Any) -> rows.Template:
        """Creates a template and returns it, with its `id` and `hash_id`."""
        return await self._http.call("POST", "/api/v0/template/", rows.Template, {"name": name, **fields}, "template")

    async def update_template(self, template_id: int, /, **fields: Any) -> rows.Template:
        """Changes the given fields and returns the template, with its new `hash_id`; None changes nothing."""
        body = {"id": template_id, **fields}
        return await self._http.call("PUT", "/api/v0/template/", rows.Template, body, "template")

    async def delete_template(self, template_id: int) -> None:
        await self._http.reply("DELETE", "/api/v0/template/", {"template_id": template_id})

    # --- Posthouse's own calls ---

    async def reachable(self) -> list[rows.Reachable]:
        """Returns the endpoints that this key may ask for a worker."""
        return await self._http.call("GET", "/v1/endpoints", list[rows.Reachable])

    async def explain(self, name_or_id: Id) -> rows.Explanation:
        """Returns why the fleet of an endpoint is the size it is."""
        return await self._http.call("GET", f"/v1/endpoints/{_quoted(name_or_id)}/explain", rows.Explanation)

    async def traffic(self, name_or_id: Id, last_s: float | None = None) -> rows.Traffic:
        """Returns what an endpoint was asked, and what became of it: all that is kept, or of the last `last_s`."""
        query = "" if last_s is None else f"?last_s={last_s}"
        return await self._http.call("GET", f"/v1/endpoints/{_quoted(name_or_id)}/traffic{query}", rows.Traffic)

    async def what_if(self, name_or_id: Id, change: Mapping[str, Any], last_s: float = 86_400.0) -> rows.WhatIf:
        """Returns what was recorded of an endpoint as it was, played as it is, and played with a change of its scaling
        parameters. Takes up to three minutes."""
        body = {"change": dict(change), "last_s": last_s}
        path = f"/v1/endpoints/{_quoted(name_or_id)}/what-if"
        return await self._http.call("POST", path, rows.WhatIf, body, timeout_s=WHAT_IF_S)

    async def history(self, name_or_id: Id, last_s: float = 3600.0, most: int = 1440) -> rows.History:
        """Returns what an endpoint was in the last `last_s` seconds, up to a year, in at most so many rows."""
        path = f"/v1/endpoints/{_quoted(name_or_id)}/history?last_s={last_s}&most={most}"
        return await self._http.call("GET", path, rows.History)

    async def bill(self, name_or_id: Id, days: int = 13, wait_s: float | None = None) -> rows.Bill:
        """Returns what an endpoint cost today and in `days` whole days, beside the least that it could have."""
        query = f"days={days}" + ("" if wait_s is None else f"&wait_s={wait_s}")
        return await self._http.call("GET", f"/v1/endpoints/{_quoted(name_or_id)}/bill?{query}", rows.Bill)

    async def rotate_endpoint_key(self, name_or_id: Id) -> str:
        """Gives an endpoint a new key and returns it; the one before is refused from now on."""
        path = f"/v1/endpoints/{_quoted(name_or_id)}/rotate-key"
        return await self._http.call("POST", path, str, key="api_key")

    async def aliases(self) -> list[rows.Alias]:
        """Returns the aliases that this key may name as a model."""
        return await self._http.call("GET", "/v1/aliases", list[rows.Alias])

    async def put_alias(self, name: str, /, **fields: Any) -> rows.Alias:
        """Makes an alias, or replaces the one of this name; returns it. Needs `targets`."""
        return await self._http.call("PUT", f"/v1/aliases/{_quoted(name)}", rows.Alias, fields)

    async def delete_alias(self, name: str) -> None:
        await self._http.reply("DELETE", f"/v1/aliases/{_quoted(name)}")

    async def manifests(self) -> list[dict[str, Any]]:
        """Returns every endpoint and alias as it is, each as the manifest that makes it again."""
        found = await self._http.call("GET", "/v1/manifests", list[dict[str, Any]])
        return [{name: value for name, value in one.items() if name != "status"} for one in found]

    async def manifest(self, name: str) -> dict[str, Any]:
        """Returns the manifest of an endpoint or an alias as it was applied, with what is other now; and `status`."""
        return await self._http.call("GET", f"/v1/manifests/{_quoted(name)}", dict[str, Any])

    async def apply_manifest(
        self, name: str, manifest: Mapping[str, Any], dry_run: bool = False
    ) -> rows.ManifestStatus:
        """Makes an endpoint or an alias as the manifest says, or with `dry_run` returns what that would change."""
        path = f"/v1/manifests/{_quoted(name)}{_dry(dry_run)}"
        return await self._http.call("PUT", path, rows.ManifestStatus, dict(manifest), "status")

    async def delete_manifest(self, name: str, dry_run: bool = False) -> rows.ManifestStatus:
        """Deletes an endpoint or an alias with what only it uses, or with `dry_run` returns what that would be."""
        path = f"/v1/manifests/{_quoted(name)}{_dry(dry_run)}"
        return await self._http.call("DELETE", path, rows.ManifestStatus, key="status")

    async def workers(self, endpoint: Id | None = None, gone: bool = False) -> list[rows.Worker]:
        """Returns the workers of an endpoint, or of all; `gone`: also those that were destroyed within a day."""
        said = ["gone=true"] if gone else []
        said += [] if endpoint is None else [f"endpoint={_quoted(endpoint)}"]
        query = f"?{'&'.join(said)}" if said else ""
        return await self._http.call("GET", f"/v1/workers{query}", list[rows.Worker])

    async def delete_worker(self, worker_id: Id) -> None:
        """Has a worker drained and destroyed."""
        await self._http.reply("DELETE", f"/v1/workers/{_quoted(worker_id)}")

    async def worker_logs(self, worker_id: Id, tail: int = 200) -> str:
        """Returns the last `tail` lines that a worker logged."""
        return await self._http.call("GET", f"/v1/workers/{_quoted(worker_id)}/logs?tail={tail}", str, key="text")

    async def keys(self) -> list[rows.Key]:
        return await self._http.call("GET", "/v1/keys", list[rows.Key])

    async def create_key(self, /, name: str, scope: str, account: str = "", **limits: int | None) -> rows.MintedKey:
        """Creates an account key and returns it; its `key` is shown this once. `account`: whose, if another's.

        `limits`: `requests_per_minute`, `work_per_minute` and `at_once`.
        """
        owner = {"account": account} if account else {}
        body = {"name": name, "scope": scope, **owner, **limits}
        return await self._http.call("POST", "/v1/keys", rows.MintedKey, body)

    async def update_key(self, key_id: Id, /, name: str | None = None, **limits: int | None) -> rows.Key:
        """Changes the name or the limits of a key and returns it; None changes nothing, 0 takes a limit away."""
        return await self._http.call("PUT", f"/v1/keys/{_quoted(key_id)}", rows.Key, {"name": name, **limits})

    async def delete_key(self, key_id: Id) -> None:
        await self._http.reply("DELETE", f"/v1/keys/{_quoted(key_id)}")

    async def users(self) -> list[rows.ConsoleUser]:
        """Returns who may sign in to the console with a password."""
        return await self._http.call("GET", "/v1/users", list[rows.ConsoleUser])

    async def create_user(self, name: str, password: str, scope: str, account: str = "") -> rows.ConsoleUser:
        body = {"name": name, "password": password, "scope": scope, **({"account": account} if account else {})}
        return await self._http.call("POST", "/v1/users", rows.ConsoleUser, body)

    async def update_user(self, name: str, password: str | None = None, scope: str | None = None) -> rows.ConsoleUser:
        """Changes the password or the scope of a user, whose sessions end; None changes nothing."""
        body = {"password": password, "scope": scope}
        return await self._http.call("PUT", f"/v1/users/{_quoted(name)}", rows.ConsoleUser, body)

    async def delete_user(self, name: str) -> None:
        await self._http.reply("DELETE", f"/v1/users/{_quoted(name)}")

    async def accounts(self) -> list[rows.Account]:
        """Returns every account. For the installation's admins, as is the next."""
        return await self._http.call("GET", "/v1/accounts", list[rows.Account])

    async def create_account(self, name: str) -> rows.Account:
        return await self._http.call("POST", "/v1/accounts", rows.Account, {"name": name})

    async def acts(self, /, *, before: int = 0, limit: int = 100, **wanted: str | float) -> list[rows.Act]:
        """Returns what people did, the latest first; `before`: those with a smaller id, for the next page.

        `wanted`: `action`, `key`, `subject`, `endpoint`, `request_id`, `since` and `until`.
        """
        asked = {"before": before, "limit": limit, **wanted}
        query = urlencode({name: value for name, value in asked.items() if value})
        return await self._http.call("GET", f"/v1/audit?{query}", list[rows.Act])

    async def verify_acts(self, head: str = "") -> rows.ActCheck:
        """Returns whether the record of what people did is whole; `head`: as an earlier call returned it."""
        query = f"?{urlencode({'head': head})}" if head else ""
        return await self._http.call("GET", f"/v1/audit/verify{query}", rows.ActCheck)

    async def providers(self) -> list[rows.Provider]:
        return await self._http.call("GET", "/v1/providers", list[rows.Provider])

    async def check_provider(self, name: str) -> list[rows.ProviderCheck]:
        """Has the server ask a provider now; returns what works there, and what does not."""
        return await self._http.call("POST", f"/v1/providers/{_quoted(name)}/check", list[rows.ProviderCheck])

    async def offers(
        self, search: str = "", *, endpoint: Id = "", provider: str = "", disk_gb: float | None = None, limit: int = 100
    ) -> list[rows.RankedOffer]:
        """Returns what could be rented: of what satisfies `search` with such a disk (None: a template's default), the
        cheapest first; or of what an endpoint's workergroups may rent, the cheapest per unit of work."""
        asked = {"search": search, "endpoint": endpoint, "provider": provider, "disk_gb": disk_gb, "limit": limit}
        query = urlencode({name: value for name, value in asked.items() if value not in ("", None)})
        return await self._http.call("GET", f"/v1/offers?{query}", list[rows.RankedOffer])

    async def orphans(self) -> list[rows.Orphan]:
        """Returns the instances that no worker owns. For the installation's admins, as are the next two."""
        return await self._http.call("GET", "/v1/orphans", list[rows.Orphan])

    async def destroy_orphan(self, instance_id: str, provider: str = "") -> str:
        """Has such an instance destroyed, once it has finished what it has; returns how."""
        named = {"instance_id": instance_id, "provider": provider}
        return await self._http.call("POST", "/v1/orphans/destroy", str, named, key="msg")

    async def adopt_orphan(self, instance_id: str, workergroup_id: int, provider: str = "") -> str:
        """Makes such an instance a worker of a workergroup; returns which."""
        named = {"instance_id": instance_id, "provider": provider, "workergroup_id": workergroup_id}
        return await self._http.call("POST", "/v1/orphans/adopt", str, named, key="msg")

    async def status(self) -> rows.Status:
        return await self._http.call("GET", "/v1/status", rows.Status)


def _check(given: dict[str, Any], *others: str) -> None:
    """Raises: BadRequest for a field that an endpoint has not; the wire's own call would ignore it."""
    allowed = [*PARAMETERS, "min_workers", *others]
    for name in given:
        if name not in allowed:
            raise BadRequest(str(unknown(name, allowed)))


def _dry(dry_run: bool) -> str:
    return "?dry_run=true" if dry_run else ""


def _quoted(name_or_id: Id) -> str:
    return quote(str(name_or_id), safe="")
