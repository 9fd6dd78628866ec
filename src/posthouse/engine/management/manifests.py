"""Endpoints and aliases as manifests describe them: applied, shown with what has drifted, deleted."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import msgspec

from posthouse.domain.endpoint import AccountId, Endpoint, EndpointId, defaults
from posthouse.engine.hub import Hub, providers_named
from posthouse.engine.management.deploy import Deployments, most_usd_h
from posthouse.engine.management.plan import Change, Found, Ids, UseCases, deletion, plan
from posthouse.errors import BadRequest, NotFound, PreconditionFailed
from posthouse.manifest import AliasManifest, Manifest, Value, described_in
from posthouse.manifest.actual import described
from posthouse.manifest.alias import described_alias
from posthouse.wire import rows
from posthouse.wire.search import parse_search

OFFERS: Final = 100
"""How many offers are looked at for what an endpoint costs at most: the cheapest."""
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Precondition:
    """What the headers If-Match and If-None-Match ask of what is there; empty: nothing."""

    match: str = ""
    none_match: str = ""

    def check(self, tag: str) -> None:
        """`tag`: of what is there; empty if nothing is. Raises: PreconditionFailed."""
        if self.match and not _fits(self.match, tag):
            is_now = f"has the tag {tag}" if tag else "is not there"
            raise PreconditionFailed(f"If-Match: it {is_now}: read it again, then decide again")
        if self.none_match and _fits(self.none_match, tag):
            raise PreconditionFailed("If-None-Match: it is there already")


@dataclass(frozen=True, slots=True)
class Shown:
    """A manifest as it is answered."""

    manifest: Json
    status: rows.ManifestStatus

    @property
    def tag(self) -> str:
        """Another one for each manifest that differs."""
        return f'"{hashlib.sha256(msgspec.json.encode(self.manifest, order="sorted")).hexdigest()[:32]}"'


@dataclass(slots=True)
class Manifests:
    """The use cases of manifests, each in the name of the account that has what it describes."""

    hub: Hub
    deployments: Deployments
    use: Callable[[AccountId], UseCases]
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @staticmethod
    def read(name: str, body: Json) -> Manifest | AliasManifest:
        """What the body says of an endpoint or an alias of this name. Raises: BadRequest."""
        wanted = described_in(Value.of(body), force=True)
        if wanted.name != name:
            what = "alias" if isinstance(wanted, AliasManifest) else "endpoint"
            raise BadRequest(f"{what}: must be {name[:128]!r}, as in the path, not {wanted.name!r}")
        return wanted

    def all(self, owner: AccountId) -> list[Json]:
        """Every endpoint and alias as it is, each as the manifest that makes it again."""
        found = self._found(owner, False)
        ends = [described(row, self.hub.groups_of(row.id), found.templates) for row in found.endpoints]
        return ends + [described_alias(row) for row in found.aliases.values()]

    async def get(self, name: str, owner: AccountId, keys: bool) -> Shown:
        """The manifest as it was applied, with what has drifted as it is now. Of what never was applied, and of what is
        written in a way that is not understood any more: as it is. `keys`: with limits of keys. Raises: NotFound."""
        found = self._found(owner, keys)
        if name in found.aliases:
            return Shown(described_alias(found.aliases[name]), rows.ManifestStatus())
        if (endpoint := found.endpoint(name)) is None:
            raise NotFound(f"there is no endpoint and no alias {name[:255]!r}")
        is_now = described(endpoint, found.groups_of(endpoint), found.templates)
        stored = await self.hub.store.manifest(endpoint.id)
        if stored is None:
            return self._shown(is_now, found)
        body, applied_at = {**stored[0], "endpoint": name}, stored[1]
        if not keys:
            body.pop("keys", None)
        try:
            drift = plan(self.read(name, body), found).changes
        except BadRequest:
            return self._shown(is_now, found)
        told = [change.row() for change in drift]
        return self._shown(_with_drift(body, is_now, drift), found, applied_at=applied_at, drift=told)

    async def put(
        self, wanted: Manifest | AliasManifest, owner: AccountId, dry_run: bool, asked: Precondition, keys: bool
    ) -> Shown:
        """What is there, made as the manifest describes it, with what has changed; with `dry_run` what would.

        Raises: BadRequest before anything is done, where it cannot be; PreconditionFailed; what a step raises.
        """
        body, name, is_alias = wanted.document.bare(), wanted.name, isinstance(wanted, AliasManifest)
        async with self._lock:
            await self._check(asked, name, owner, keys)
            found = self._found(owner, keys)
            steps = plan(wanted, found)
            if not dry_run:
                if not is_alias and (endpoint := found.endpoint(name)) is not None:
                    await self._keep(endpoint.id, body)
                await steps.carry_out(self.use(owner), partial(self._after, name, body))
        changes, found = [change.row() for change in steps.changes], self._found(owner, keys)
        if is_alias:
            is_now = body if dry_run else described_alias(found.aliases[name])
            return Shown(is_now, rows.ManifestStatus(changes=changes))
        return self._shown(body, found, changes=changes)

    async def delete(self, name: str, owner: AccountId, dry_run: bool, asked: Precondition, keys: bool) -> Shown:
        """What there was, with what was deleted. Raises: NotFound, BadRequest while an alias names it; as `put`."""
        async with self._lock:
            shown = await self.get(name, owner, keys)
            self._owned(asked, name, owner)
            asked.check(shown.tag)
            steps = deletion(name, self._found(owner, False))
            if not dry_run:
                await steps.carry_out(self.use(owner))
        return Shown(shown.manifest, rows.ManifestStatus(changes=[change.row() for change in steps.changes]))

    # -- inside --------------------------------------------------------------------------------------------------------

    def _found(self, owner: AccountId, keys: bool) -> Found:
        hub, use = self.hub, self.use(owner)
        mine = [endpoint for endpoint in hub.directory if endpoint.account_id == owner]
        return Found(
            endpoints=mine,
            templates={t.id: t for t in hub.templates.values() if t.account_id == owner},
            groups=[group for endpoint in mine for group in hub.groups_of(endpoint.id)],
            aliases=use.aliases.of(owner),
            keys=use.keys.seen(owner) if keys else None,
            check_provider=partial(providers_named, hub),
            foresee=lambda before, changes: use.endpoints.foreseen(before, changes, owner),
        )

    async def _check(self, asked: Precondition, name: str, owner: AccountId, keys: bool) -> None:
        """Raises: PreconditionFailed."""
        if asked == Precondition():
            return
        self._owned(asked, name, owner)
        try:
            asked.check((await self.get(name, owner, keys)).tag)
        except NotFound:
            asked.check("")

    def _owned(self, asked: Precondition, name: str, owner: AccountId) -> None:
        """With a condition one server does all changes, one after another. Raises: Elsewhere."""
        endpoint_id = self.hub.directory.id_of(owner, name)
        if asked != Precondition() and endpoint_id is not None:
            self.hub.managed(endpoint_id)

    async def _after(self, name: str, body: Json, change: Change, ids: Ids) -> None:
        """Keeps what an endpoint should be as soon as there is one."""
        if (change.how, change.what) == ("create", f"endpoint {name}"):
            await self._keep(EndpointId(ids[change.what]), body)

    async def _keep(self, endpoint_id: EndpointId, body: Json) -> None:
        stored = await self.hub.store.manifest(endpoint_id)
        if stored is None or stored[0] != body:
            await self.hub.store.put_manifest(endpoint_id, body, self.hub.clock.now())

    def _shown(self, manifest: Json, found: Found, **told: Any) -> Shown:
        """The manifest of an endpoint with ids, and the greatest cost of what it describes."""
        endpoint, template = found.endpoint(manifest["endpoint"]), None
        try:
            wanted = described_in(Value.of(manifest), force=True)
            assert isinstance(wanted, Manifest)
            template = None if wanted.template is None else found.template(wanted.name)
            usd_h, words = self._most(wanted, endpoint, found)
        except BadRequest as error:  # made by other calls, which take more, or of an older version
            usd_h, words = None, f"not known: {error}"
        status = rows.ManifestStatus(
            endpoint_id=None if endpoint is None else endpoint.id,
            template_id=None if template is None else template.id,
            workergroup_ids=[group.id for group in found.groups_of(endpoint)],
            most_usd_h=usd_h,
            most=words,
            **told,
        )
        return Shown(manifest, status)

    def _most(self, wanted: Manifest, there: Endpoint | None, found: Found) -> tuple[float | None, str]:
        """What the endpoint comes to cost per hour at most: every worker at the dearest offer, or its cap."""
        named = {name: value for name, value in wanted.scaling.items() if name in ("max_workers", "max_usd_h")}
        scaling = (there.scaling if there else defaults(wanted.scaling.get("slo_mode"))).changed(named)
        prices = list[float]()
        for group in wanted.groups:
            row = found.template(group.template)
            own = wanted.template if wanted.template and wanted.template["name"] == group.template else None
            filters = own["extra_filters"] if own else row.extra_filters if row else ""
            disk_gb = own["recommended_disk_space"] if own else row.disk_gb if row else 0.0
            search = parse_search(group.fields["search_params"] or filters)
            fitting, notes = self.deployments.fitting(search, group.fields["provider"], disk_gb)
            if notes:
                return None, f"not known: {notes[0]}"
            ready = sorted(offer.price.ready_usd_h for offers in fitting.values() for offer in offers)
            prices += ready[:OFFERS]
        most, cap = scaling.max_workers, scaling.max_usd_h
        workers, usd_h = f"{most} worker{'s' * (most != 1)}", most_usd_h(scaling, prices)
        if not prices:
            bound = "" if cap is None else f", ${cap:g} an hour"
            return usd_h, f"nothing is offered now that fits; {workers}{bound}"
        if usd_h != most * max(prices):
            return usd_h, f"${usd_h:g} an hour, its max_usd_h"
        dearest = f"${max(prices):.4g}, the dearest of {len(prices)} offer{'s' * (len(prices) != 1)}"
        return usd_h, f"${usd_h:.4g} an hour: {workers} at {dearest}"


def _with_drift(stored: Json, is_now: Json, drift: tuple[Change, ...]) -> Json:
    """The manifest as it was applied; what is not so any more as it is now. A template or workergroups that are not
    those of the manifest are written out, in place of a recipe."""
    shown = dict(stored)
    for change in drift:
        kind, _, name = change.what.partition(" ")
        was = {field: before for field, (before, _) in change.fields.items()}
        if kind == "endpoint":
            shown["scaling"] = shown["scaling"] | was
        elif kind == "key":
            shown["keys"] = {**shown["keys"], name: shown["keys"][name] | was}
        else:
            for field in ("recipe", "parameters", "gpu_ram_gb"):
                shown.pop(field, None)
            shown |= {"template": is_now["template"], "workergroups": is_now["workergroups"]}
    return shown


def _fits(said: str, tag: str) -> bool:
    """Whether a header that names tags, or `*`, names this one; the empty one is of nothing."""
    tags = [one.strip().removeprefix("W/") for one in said.split(",")]
    return bool(tag) and ("*" in tags or tag in tags)
