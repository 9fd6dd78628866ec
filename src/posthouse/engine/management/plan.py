"""The difference between a manifest and what there is, and the steps that end it."""

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from posthouse.domain.endpoint import AccountId, Endpoint
from posthouse.engine.management.aliases import Aliases
from posthouse.engine.management.endpoints import Endpoints
from posthouse.engine.management.inputs import (
    EndpointChanges,
    KeyChanges,
    NewAlias,
    NewEndpoint,
    NewTemplate,
    NewWorkergroup,
    TemplateChanges,
    TemplateRef,
    WorkergroupChanges,
)
from posthouse.engine.management.keys import Keys
from posthouse.engine.management.templates import Templates
from posthouse.engine.management.wording import made
from posthouse.engine.management.workergroups import Workergroups
from posthouse.errors import BadRequest, PosthouseError
from posthouse.keys import KeyRecord
from posthouse.manifest import AliasManifest, Manifest
from posthouse.manifest.actual import image_of
from posthouse.manifest.alias import alias_fields
from posthouse.manifest.describe import BLANK, Group
from posthouse.template import Template, TemplateId, Workergroup
from posthouse.wire import rows
from posthouse.wire.checks import unknown
from posthouse.wire.env import parse_env
from posthouse.wire.search import parse_search

SHOWN = {"recommended_disk_space": "disk_gb", "extra_filters": "search", "search_params": "search"}
"""What a manifest calls fields that have another name on the wire."""
DONE = {"create": "created", "change": "changed", "delete": "deleted"}

_SECRET = re.compile("TOKEN(?!S)|KEY|SECRET|PASSW", re.IGNORECASE)  # TOKENS are counted

Ids = dict[str, int]
"""Ids of what there is, by its kind and name: `template chat`."""


@dataclass(frozen=True, slots=True)
class UseCases:
    """What changes endpoints and what they need, in the name of their owner."""

    endpoints: Endpoints
    workergroups: Workergroups
    templates: Templates
    aliases: Aliases
    keys: Keys
    owner: AccountId


@dataclass(frozen=True, slots=True)
class Found:
    """What an account has."""

    endpoints: Sequence[Endpoint]
    templates: Mapping[TemplateId, Template]
    groups: Sequence[Workergroup]
    aliases: Mapping[str, rows.Alias]
    keys: Sequence[KeyRecord] | None
    """None: the caller may not see them."""
    check_provider: Callable[[str], object]
    """Raises: BadRequest for a provider that there is not."""
    foresee: Callable[[Endpoint | None, EndpointChanges], object]
    """Raises: BadRequest for an endpoint that cannot be so."""

    def endpoint(self, name: str) -> Endpoint | None:
        return next((row for row in self.endpoints if row.name == name), None)

    def template(self, name: str) -> Template | None:
        return next((row for row in self.templates.values() if row.name == name), None)

    def groups_of(self, endpoint: Endpoint | None) -> list[Workergroup]:
        return [row for row in self.groups if endpoint is not None and row.endpoint_id == endpoint.id]

    def users_of(self, template: Template) -> set[str]:
        """The names of the endpoints that use a template."""
        used = {row.endpoint_id for row in self.groups if row.template_id == template.id}
        return {row.name for row in self.endpoints if row.id in used}


Do = Callable[[UseCases, Ids], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is made, changed or deleted."""

    how: Literal["create", "change", "delete"]
    what: str
    """Kind and name."""
    do: Do = field(compare=False)
    fields: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """What a field is, and what it becomes."""
    note: str = ""

    def row(self) -> rows.Change:
        """The same as it is answered."""
        told = {name: rows.Difference(before=a, after=b) for name, (a, b) in self.fields.items()}
        return rows.Change(how=self.how, what=self.what, note=self.note, fields=told)


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to be done for an endpoint or an alias to be as its manifest says, in this order."""

    changes: tuple[Change, ...]
    ids: Ids = field(default_factory=dict)

    async def carry_out(self, use: UseCases, after: Callable[[Change, Ids], Awaitable[None]] | None = None) -> None:
        """Does it; `after` follows each step. Raises: what a step raises, with what was done before in its words: that
        stays, and the same again does the rest."""
        ids, done = dict(self.ids), list[str]()
        try:
            for change in self.changes:
                await change.do(use, ids)
                done.append(f"{change.what} {DONE[change.how]}")
                if after is not None:
                    await after(change, ids)
        except PosthouseError as error:
            if done:
                count = f"{len(done)} of {len(self.changes)} steps were done ({', '.join(done)})"
                error.args = (f"{error}; {count}: the same again goes on with the others",)
            raise


def plan(manifest: Manifest | AliasManifest, found: Found) -> Plan:
    """What has to be done for it to be as it is described. Raises: BadRequest where it names what there is not."""
    if isinstance(manifest, AliasManifest):
        return _alias(manifest, found)
    for group in manifest.groups:
        _check_group(manifest, group, found)
    endpoint = found.endpoint(manifest.name)
    ids: Ids = {f"template {row.name}": row.id for row in reversed([*found.templates.values()])}
    ids |= {} if endpoint is None else {f"endpoint {endpoint.name}": endpoint.id}
    changes = [
        *_template(manifest, found),
        *_endpoint(manifest, endpoint, found),
        *_groups(manifest, found, found.groups_of(endpoint)),
        *_keys(manifest, found),
    ]
    return Plan(tuple(changes), ids)


def deletion(name: str, found: Found) -> Plan:
    """What has to be done for an endpoint or an alias not to be. Its template goes with it, if it has its name and
    nothing else uses it."""
    if name in found.aliases:
        return Plan((Change("delete", f"alias {name}", lambda use, ids: use.aliases.delete(name, use.owner)),))
    endpoint = found.endpoint(name)
    if endpoint is None:
        return Plan(())
    endpoint_id, groups = endpoint.id, found.groups_of(endpoint)
    note = f"with {len(groups)} workergroups and their workers"
    changes = [
        Change("delete", f"endpoint {name}", lambda use, ids: use.endpoints.delete(endpoint_id, use.owner), note=note)
    ]
    template = next((t for t in found.templates.values() if t.id in {g.template_id for g in groups}), None)
    if template is not None and template.name == name and found.users_of(template) == {name}:
        named = TemplateRef(template_id=template.id)
        changes.append(Change("delete", f"template {name}", lambda use, ids: use.templates.delete(named, use.owner)))
    return Plan(tuple(changes))


def _check_group(manifest: Manifest, group: Group, found: Found) -> None:
    """Raises: BadRequest for a provider or a template that there is not, or what no workergroup may have."""
    try:
        found.check_provider(group.fields["provider"])
    except BadRequest as error:
        raise group.place.refused(f"{_path(group)}{error}") from None
    own = manifest.template is not None and group.template == manifest.template["name"]
    if not own and found.template(group.template) is None:
        names = [t.name for t in found.templates.values()]
        raise group.place.refused(f"{_path(group)}template: {unknown(group.template, names, 'template')}")
    made(NewWorkergroup, group.fields, lambda name, why: group.place.refused(f"{_path(group)}{_told_as(name)}: {why}"))


def _path(group: Group) -> str:
    """Of its fields; none where it is not written down."""
    return f"{group.place.path}." if group.place.path.startswith("workergroups") else ""


def _told_as(name: str) -> str:
    return SHOWN.get(name, name)


def _template(manifest: Manifest, found: Found) -> Iterable[Change]:
    wanted = manifest.template
    if wanted is None:
        return
    name, what = str(wanted["name"]), f"template {wanted['name']}"
    of_it = manifest.document.plain
    place = of_it.get("template") or of_it["recipe"]
    new = made(NewTemplate, wanted, lambda field, why: place.other(None, _told_as(field)).wrong(why))
    there = found.template(name)
    if there is None:

        async def create(use: UseCases, ids: Ids) -> None:
            ids[what] = (await use.templates.create(new, use.owner)).id

        said = {key: value for key, value in wanted.items() if key != "name" and value != BLANK[key]}
        yield Change("create", what, create, _new(said))
        return
    has = {
        "name": there.name,
        "image": image_of(there),
        "env": there.env,
        "onstart": there.onstart,
        "recommended_disk_space": there.disk_gb,
        "extra_filters": json.dumps(there.extra_filters) if there.extra_filters else "",
        "desc": there.desc,
        "loading_timeout_s": there.loading_timeout_s,
    }
    if changed := _differing(has, wanted):
        users = found.users_of(there) - {manifest.name}
        note = f"also of the endpoints {', '.join(sorted(users))}" if users else ""
        tag = {"tag": ""} if "image" in changed else {}
        changes = TemplateChanges(id=there.id, **{key: wanted[key] for key in changed}, **tag)
        yield Change("change", what, lambda use, ids: use.templates.update(changes, use.owner), _shown(changed), note)


def _endpoint(manifest: Manifest, there: Endpoint | None, found: Found) -> Iterable[Change]:
    what, wanted = f"endpoint {manifest.name}", manifest.scaling
    if there is None:
        # None is what a new endpoint has, and in a change it would change nothing: a word takes a parameter back.
        new = NewEndpoint(endpoint_name=manifest.name, **wanted)
        found.foresee(None, new)

        async def create(use: UseCases, ids: Ids) -> None:
            ids[what] = (await use.endpoints.create(new, use.owner)).id

        yield Change("create", what, create, _new(wanted))
    elif changed := _differing({name: getattr(there.scaling, name) for name in wanted}, wanted):
        changes = EndpointChanges(**{name: "none" if wanted[name] is None else wanted[name] for name in changed})
        found.foresee(there, changes)
        endpoint_id = there.id
        yield Change("change", what, lambda use, ids: use.endpoints.update(endpoint_id, changes, use.owner), changed)


def _groups(manifest: Manifest, found: Found, there: list[Workergroup]) -> Iterable[Change]:
    names = {row.id: row.name for row in found.templates.values()}
    pairs, missing = _paired(manifest.groups, names, there)
    for group in missing:
        create = partial(_create_group, manifest.name, group)
        fields = _new({"template": group.template, **group.fields})
        yield Change("create", f"workergroup {_of_provider(group.fields['provider'])}", create, fields)
    for group, row in pairs:
        wanted = {"template": group.template, **group.fields}
        has = {"template": names[row.template_id]} | {name: getattr(row, name) for name in group.fields}
        if changed := _differing(has, wanted):
            update = partial(_update_group, row.id, group, tuple(changed))
            yield Change("change", f"workergroup {row.id}", update, _shown(changed))
    kept = {row.id for _, row in pairs}
    for row in there:
        if row.id not in kept:
            what = f"workergroup {row.id} {_of_provider(row.provider)}"
            yield Change("delete", what, partial(_delete_group, row.id), note="with its workers")


async def _create_group(endpoint: str, group: Group, use: UseCases, ids: Ids) -> None:
    named = {"endpoint_id": ids[f"endpoint {endpoint}"], "template_id": ids[f"template {group.template}"]}
    said = {name: value for name, value in group.fields.items() if value != ""}
    await use.workergroups.create(NewWorkergroup(**named, **said), use.owner, use.owner)


async def _update_group(group_id: int, group: Group, changed: Iterable[str], use: UseCases, ids: Ids) -> None:
    new = {name: group.fields[name] for name in changed if name != "template"}
    if "template" in changed:
        new["template_id"] = ids[f"template {group.template}"]
    await use.workergroups.update(group_id, WorkergroupChanges(**new), use.owner, use.owner)


async def _delete_group(group_id: int, use: UseCases, ids: Ids) -> None:
    await use.workergroups.delete(group_id, use.owner)


def _keys(manifest: Manifest, found: Found) -> Iterable[Change]:
    for key in manifest.keys if found.keys is not None else ():
        there = [row for row in found.keys or () if row.name == key.name and not row.revoked_at]
        if len(there) != 1:
            why = f"there are {len(there)} keys" if there else "there is no key"
            hint = "give each a name of its own" if there else f"make it: posthouse key create {key.name}"
            raise key.place.wrong(f"{why} of this name; {hint}")
        if changed := _differing({name: getattr(there[0], name) for name in key.limits}, key.limits):
            changes = KeyChanges(**{name: value for name, (_, value) in changed.items()})
            yield Change("change", f"key {key.name}", partial(_limit_key, there[0].id, changes), changed)


async def _limit_key(key_id: str, changes: KeyChanges, use: UseCases, ids: Ids) -> None:
    await use.keys.change(key_id, changes, use.owner)


def _alias(wanted: AliasManifest, found: Found) -> Plan:
    there = found.aliases.get(wanted.name)
    before = {} if there is None else alias_fields(there)
    changed = {key: (before.get(key), value) for key, value in wanted.fields.items() if before.get(key) != value}
    new = made(NewAlias, wanted.fields, lambda field, why: wanted.document.other(None, field).wrong(why))
    change = Change(
        "create" if there is None else "change",
        f"alias {wanted.name}",
        lambda use, ids: use.aliases.put(wanted.name, new, use.owner),
        {name: (_line(a), _line(b)) for name, (a, b) in changed.items() if a or b},
    )
    return Plan((change,) if changed else ())


def _line(value: Any) -> Any:
    """A list of targets or fallbacks in one line."""
    if not isinstance(value, list):
        return value
    return ", ".join(f"{one['model']}={'+'.join(one.get('faults', [])) or format(one['weight'], 'g')}" for one in value)


def _paired(
    wanted: Iterable[Group], names: Mapping[TemplateId, str], there: Iterable[Workergroup]
) -> tuple[list[tuple[Group, Workergroup]], list[Group]]:
    """Which workergroup each wanted one is, and those that are missing.

    They have no names. What is just so comes first, then what differs in its template or search; one of another
    provider is another workergroup.
    """
    pairs, missing, free = [], list(wanted), list(there)
    tests: list[Callable[[Group, Workergroup], bool]] = [
        lambda group, row: (
            row.provider == group.fields["provider"]
            and names[row.template_id] == group.template
            and _same("search_params", row.search_params, group.fields["search_params"])
        ),
        lambda group, row: row.provider == group.fields["provider"] and names[row.template_id] == group.template,
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
    except BadRequest:  # of an older version
        pass
    return bool(has == wanted)


def _new(wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return _shown({name: (None, value) for name, value in wanted.items() if value not in ("", None)})


def _shown(changed: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """The same by the names of manifests; of the environment, each variable that changes."""
    told: dict[str, tuple[Any, Any]] = {}
    for name, (before, after) in changed.items():
        if name != "env":
            told[_told_as(name)] = before, after
            continue
        (old, old_ports), (new, new_ports) = parse_env(before or ""), parse_env(after or "")
        names = [*old, *(name for name in new if name not in old)]
        told |= {f"env.{n}": (_variable(n, old), _variable(n, new)) for n in names if old.get(n) != new.get(n)}
        told |= {} if old_ports == new_ports else {"ports": (str(list(old_ports)), str(list(new_ports)))}
    return told


def _variable(name: str, variables: Mapping[str, str]) -> str | None:
    """The value of a variable as it may stand in a log."""
    return "***" if name in variables and _SECRET.search(name) else variables.get(name)


def _of_provider(provider: str) -> str:
    return f"of {provider}" if provider else "of the default provider"
