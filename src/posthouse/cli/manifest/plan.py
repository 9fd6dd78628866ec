"""The difference between a manifest and what a server has, and the calls that end it."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from posthouse.cli.manifest.describe import BLANK, Group, Manifest
from posthouse.domain.endpoint import PARAMETERS
from posthouse.errors import BadRequest
from posthouse.wire.checks import unknown
from posthouse.wire.env import parse_env
from posthouse.wire.search import parse_search

if TYPE_CHECKING:
    from posthouse.client import Client
    from posthouse.wire.rows import Alias, Endpoint, Key, Provider, Template, Workergroup

SHOWN = {"recommended_disk_space": "disk_gb", "extra_filters": "search", "search_params": "search"}
"""What a manifest calls fields that have another name on the wire."""

_SECRET = re.compile("TOKEN(?!S)|KEY|SECRET|PASSW", re.IGNORECASE)  # TOKENS are counted

Ids = dict[str, int]
"""Ids of what there is, by its kind and name: `template chat`."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a server has."""

    endpoints: Sequence["Endpoint"]
    templates: Sequence["Template"]
    groups: Sequence["Workergroup"]
    providers: Sequence["Provider"]
    keys: Sequence["Key"] = ()
    """Where manifests name some: only an admin may see them."""
    aliases: Sequence["Alias"] = ()

    @classmethod
    def at(cls, client: "Client", wanted: "Iterable[Manifest]" = ()) -> "Found":
        keys = client.keys() if any(one.keys for one in wanted) else ()
        groups, providers = client.workergroups(), client.providers()
        return cls(client.endpoints(), client.templates(), groups, providers, keys, client.aliases())

    def endpoint(self, name: str) -> "Endpoint | None":
        return next((row for row in self.endpoints if row.endpoint_name == name), None)

    def template(self, name: str) -> "Template | None":
        return next((row for row in self.templates if row.name == name), None)

    def groups_of(self, endpoint: "Endpoint | None") -> list["Workergroup"]:
        return [row for row in self.groups if endpoint is not None and row.endpoint_id == endpoint.id]

    def name_of(self, template_id: int) -> str:
        """The name of a template."""
        return next((row.name for row in self.templates if row.id == template_id), str(template_id))


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is made, changed or deleted."""

    how: Literal["create", "change", "delete"]
    what: str
    """Kind and name."""
    fields: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """What a field is, and what it becomes."""
    note: str = ""
    do: Callable[["Client", Ids], None] = field(default=lambda client, ids: None, compare=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to be done for an endpoint or an alias to be as its manifest says, in this order."""

    what: str
    """Kind and name."""
    changes: tuple[Change, ...]
    ids: Ids

    def carry_out(self, client: "Client", tell: Callable[[Change], None]) -> None:
        """Do it; `tell` is called after each. What fails leaves the rest undone, and the same again goes on."""
        ids = dict(self.ids)
        for change in self.changes:
            change.do(client, ids)
            tell(change)


def plan(manifest: Manifest, found: Found) -> Plan:
    """Raises: BadRequest where the manifest names what there is not."""
    providers = [row.name for row in found.providers]
    for group in manifest.groups:
        if (provider := group.fields["provider"]) and provider not in providers:
            raise group.place.wrong(str(unknown(provider, providers, "provider")))
        own = manifest.template is not None and group.template == manifest.template["name"]
        if not own and found.template(group.template) is None:
            raise group.place.wrong(str(unknown(group.template, [t.name for t in found.templates], "template")))
    endpoint = found.endpoint(manifest.endpoint)
    ids = {f"template {row.name}": row.id for row in reversed(found.templates)}
    ids |= {} if endpoint is None else {f"endpoint {endpoint.endpoint_name}": endpoint.id}
    changes = [
        *_template(manifest, found),
        *_endpoint(manifest, endpoint),
        *_groups(manifest, found, found.groups_of(endpoint)),
        *_keys(manifest, found),
    ]
    return Plan(f"endpoint {manifest.endpoint}", tuple(changes), ids)


def deletion(manifest: Manifest, found: Found) -> Plan:
    """What has to be done for nothing of a manifest to be left. Templates that others use stay."""
    changes = []
    endpoint = found.endpoint(manifest.endpoint)
    groups = found.groups_of(endpoint)
    if endpoint is not None:
        endpoint_id, note = endpoint.id, f"with {len(groups)} workergroups and their workers"
        changes.append(
            Change("delete", f"endpoint {manifest.endpoint}", note=note, do=lambda c, _: c.delete_endpoint(endpoint_id))
        )
    template = found.template(manifest.template["name"]) if manifest.template is not None else None
    others = {row.template_id for row in found.groups} - {row.template_id for row in groups}
    shared = {row.template_id for row in found.groups if row not in groups} | others
    if template is not None and template.id not in shared:
        template_id = template.id
        changes.append(Change("delete", f"template {template.name}", do=lambda c, _: c.delete_template(template_id)))
    return Plan(f"endpoint {manifest.endpoint}", tuple(changes), {})


def _template(manifest: Manifest, found: Found) -> Iterable[Change]:
    wanted = manifest.template
    if wanted is None:
        return
    name = str(wanted["name"])
    there = found.template(name)
    if there is None:

        def create(client: "Client", ids: Ids) -> None:
            ids[f"template {name}"] = client.create_template(**wanted).id

        yield Change(
            "create",
            f"template {name}",
            _new({key: value for key, value in wanted.items() if key != "name" and value != BLANK[key]}),
            do=create,
        )
        return
    has = {key: getattr(there, key) for key in wanted}
    if changed := _differing(has, wanted):
        template_id = there.id
        users = {row.endpoint_name for row in found.groups if row.template_id == there.id} - {manifest.endpoint}
        note = f"also of the endpoints {', '.join(sorted(users))}" if users else ""
        new = {key: wanted[key] for key in changed}

        def update(client: "Client", ids: Ids) -> None:
            client.update_template(template_id, **new)

        yield Change("change", f"template {name}", _shown(changed), note, update)


def _endpoint(manifest: Manifest, there: "Endpoint | None") -> Iterable[Change]:
    what, wanted = f"endpoint {manifest.endpoint}", manifest.scaling
    if there is None:

        def create(client: "Client", ids: Ids) -> None:
            ids[what] = client.create_endpoint(manifest.endpoint, **wanted)

        yield Change("create", what, _new(wanted), do=create)
        return
    if changed := _differing({name: getattr(there, name) for name in wanted}, wanted):
        endpoint_id = there.id
        # None would change nothing: the word takes an optional parameter back.
        new = {name: "none" if wanted[name] is None else wanted[name] for name in changed}
        yield Change("change", what, changed, do=lambda c, _: c.update_endpoint(endpoint_id, **new))


def _groups(manifest: Manifest, found: Found, there: list["Workergroup"]) -> Iterable[Change]:
    pairs, missing = _paired(manifest.groups, found, there)
    for group in missing:
        yield Change(
            "create",
            f"workergroup {_of_provider(group.fields['provider'])}",
            _new({"template": group.template, **group.fields}),
            do=_creation(manifest.endpoint, group),
        )
    for group, row in pairs:
        wanted = {"template": group.template, **group.fields}
        has = {"template": found.name_of(row.template_id)} | {name: getattr(row, name) for name in group.fields}
        if changed := _differing(has, wanted):
            yield Change("change", f"workergroup {row.id}", _shown(changed), do=_update(row.id, group, changed))
    kept = {row.id for _, row in pairs}
    for row in there:
        if row.id not in kept:
            what = f"workergroup {row.id} {_of_provider(row.provider)}"
            yield Change(
                "delete",
                what,
                note="with its workers",
                do=_deletion(row.id),
            )


def _keys(manifest: Manifest, found: Found) -> Iterable[Change]:
    for key in manifest.keys:
        there = [row for row in found.keys if row.name == key.name and not row.revoked_at]
        if len(there) != 1:
            why = f"there are {len(there)} keys" if there else "there is no key"
            hint = "give each a name of its own" if there else f"make it: posthouse key create {key.name}"
            raise key.place.wrong(f"{why} of this name; {hint}")
        has = {name: getattr(there[0], name) or 0 for name in key.limits}
        if changed := _differing(has, key.limits):
            new = {name: value for name, (_, value) in changed.items()}
            yield Change("change", f"key {key.name}", changed, do=_limiting(there[0].id, new))


def _limiting(key_id: str, limits: Mapping[str, Any]) -> Callable[["Client", Ids], None]:
    def change(client: "Client", ids: Ids) -> None:
        client.update_key(key_id, **limits)

    return change


def _deletion(group_id: int) -> Callable[["Client", Ids], None]:
    return lambda client, ids: client.delete_workergroup(group_id)


def _creation(endpoint: str, group: Group) -> Callable[["Client", Ids], None]:
    def create(client: "Client", ids: Ids) -> None:
        named = {"endpoint_id": ids[f"endpoint {endpoint}"], "template_id": ids[f"template {group.template}"]}
        client.create_workergroup(**named, **{name: value for name, value in group.fields.items() if value != ""})

    return create


def _update(group_id: int, group: Group, changed: Iterable[str]) -> Callable[["Client", Ids], None]:
    def update(client: "Client", ids: Ids) -> None:
        new = {name: group.fields[name] for name in changed if name != "template"}
        if "template" in changed:
            new["template_id"] = ids[f"template {group.template}"]
        client.update_workergroup(group_id, **new)

    return update


def _paired(
    wanted: Iterable[Group], found: Found, there: Iterable["Workergroup"]
) -> tuple[list[tuple[Group, "Workergroup"]], list[Group]]:
    """Which workergroup each wanted one is, and those that are missing.

    They have no names. What is just so comes first, then what differs in its template or search; one of another
    provider is another workergroup.
    """
    pairs, missing, free = [], list(wanted), list(there)
    tests: list[Callable[[Group, Workergroup], bool]] = [
        lambda group, row: (
            row.provider == group.fields["provider"]
            and found.name_of(row.template_id) == group.template
            and _same("search_params", row.search_params, group.fields["search_params"])
        ),
        lambda group, row: (
            row.provider == group.fields["provider"] and found.name_of(row.template_id) == group.template
        ),
        lambda group, row: row.provider == group.fields["provider"],
    ]
    for test in tests:
        for group in list(missing):
            row = next((row for row in free if test(group, row)), None)
            if row is not None:
                pairs.append((group, row))
                missing.remove(group)
                free.remove(row)
    return pairs, missing


def _differing(has: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What is not as wanted, by its name: what it is, and what it should be."""
    return {name: (has[name], wanted[name]) for name in wanted if not _same(name, has[name], wanted[name])}


def _same(name: str, has: Any, wanted: Any) -> bool:
    try:
        if name == "env":
            return parse_env(has) == parse_env(wanted)
        if name in {"extra_filters", "search_params"}:
            return parse_search(has) == parse_search(wanted)
    except BadRequest:  # of an older server
        return bool(has == wanted)
    return bool((PARAMETERS[name].check(has) if name in PARAMETERS else has) == wanted)


def _new(wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return _shown({name: (None, value) for name, value in wanted.items() if value not in ("", None)})


def _shown(changed: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """The same by the names of manifests; of the environment, each variable that changes."""
    told: dict[str, tuple[Any, Any]] = {}
    for name, (before, after) in changed.items():
        if name != "env":
            told[SHOWN.get(name, name)] = before, after
            continue
        (old, old_ports), (new, new_ports) = parse_env(before or ""), parse_env(after or "")
        names = [*old, *(name for name in new if name not in old)]
        told |= {f"env.{n}": (_told(n, old), _told(n, new)) for n in names if old.get(n) != new.get(n)}
        told |= {} if old_ports == new_ports else {"ports": (str(list(old_ports)), str(list(new_ports)))}
    return told


def _told(name: str, variables: Mapping[str, str]) -> str | None:
    """The value of a variable as it may stand in a log."""
    return "***" if name in variables and _SECRET.search(name) else variables.get(name)


def _of_provider(provider: str) -> str:
    return f"of {provider}" if provider else "of the default provider"
