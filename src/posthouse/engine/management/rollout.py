"""Updates of workers to what their template says."""

from posthouse.domain.template import Template
from posthouse.domain.workergroup import Workergroup
from posthouse.engine.hub import Hub
from posthouse.fleet.events import UpdateAsked
from posthouse.fleet.roster import can_be_updated


def roll_out(hub: Hub, group: Workergroup, before: Template) -> None:
    """Asks for an update of the workergroup's workers if they would run something else than `before`."""
    if hub.templates[group.template_id].runs() != before.runs():
        update_workers(hub, group)


def update_workers(hub: Hub, group: Workergroup) -> int:
    """Asks for an update of every worker that the workergroup has; returns how many these are."""
    managed = hub.managed(group.endpoint_id)
    managed.handle(UpdateAsked(group.id), hub.clock.now())
    return sum(can_be_updated(worker) for worker in managed.of_group(group.id))
