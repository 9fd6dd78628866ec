"""Brings memory up to date with the store, after a change made here or by another server."""

from posthouse.domain.endpoint import Endpoint, EndpointId, WorkergroupId
from posthouse.engine.hub import Hub
from posthouse.template import Template, TemplateId, Workergroup


def take_endpoint(hub: Hub, endpoint: Endpoint) -> None:
    """An endpoint with new parameters or a new name; one that no server has had yet is not opened by this."""
    hub.directory.put(endpoint)
    managed = hub.endpoints.get(endpoint.id)
    if managed is not None:
        hub.configure(managed, endpoint)


def drop_endpoint(hub: Hub, endpoint_id: EndpointId) -> int:
    """An endpoint that was deleted, with its workergroups; returns how many workers of it go, if it is here."""
    hub.directory.drop(endpoint_id)
    for group in hub.groups_of(endpoint_id):
        hub.drop_group(group.id)
    managed = hub.endpoints.get(endpoint_id)
    if managed is None or managed.leaving:
        return 0
    leaving = managed.dismiss(managed.fleet.workers.values(), hub.clock.now())
    managed.close(hub.clock.now())
    return leaving


def take_group(hub: Hub, group: Workergroup) -> None:
    """A workergroup, new or changed. If its workers would run something else now, they are updated."""
    hub.put_group(group)
    _configure(hub, group.endpoint_id)


def drop_group(hub: Hub, group_id: WorkergroupId) -> int:
    """A workergroup that was deleted; returns how many workers go with it, if its endpoint is here."""
    endpoint_id = hub.workergroups[group_id].endpoint_id
    hub.drop_group(group_id)
    managed = hub.endpoints.get(endpoint_id)
    if managed is None:
        return 0
    hub.configure(managed)
    return managed.dismiss(managed.of_group(group_id), hub.clock.now())


def take_template(hub: Hub, template: Template) -> None:
    """A template, new or changed. Workers that would run something else now are updated."""
    hub.templates[template.id] = template
    for group in [g for g in hub.workergroups.values() if g.template_id == template.id]:
        _configure(hub, group.endpoint_id)


def drop_template(hub: Hub, template_id: TemplateId) -> None:
    """A template that was deleted."""
    hub.templates.pop(template_id, None)


def _configure(hub: Hub, endpoint_id: EndpointId) -> None:
    managed = hub.endpoints.get(endpoint_id)
    if managed is not None and not managed.leaving:
        hub.configure(managed)
