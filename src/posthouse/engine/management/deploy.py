"""An endpoint with all that its workers need, made in one call: of a recipe, or of a template that is there."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
from pydantic import Field, Strict

from posthouse.domain.endpoint import AccountId, Scaling
from posthouse.domain.offer import Offer
from posthouse.engine.hub import Hub, providers_named
from posthouse.engine.management.endpoints import Endpoints
from posthouse.engine.management.inputs import (
    Gb,
    Id,
    Line,
    Name,
    NewEndpoint,
    NewTemplate,
    NewWorkergroup,
    OwnInput,
    TemplateRef,
)
from posthouse.engine.management.templates import Templates, find_template
from posthouse.engine.management.workergroups import Workergroups
from posthouse.engine.offers import Filters
from posthouse.errors import BadRequest, Busy, PosthouseError
from posthouse.recipes import recipe
from posthouse.template import Template
from posthouse.wire import rows
from posthouse.wire.search import parse_search

SMALL: Final[dict[str, Any]] = {"min_load": 0, "cold_workers": 0, "max_workers": 1}
"""How a new endpoint scales where nothing is said: it costs nothing while nobody asks."""
Text = Annotated[str, Strict(), Field(max_length=4096)]


class NewDeployment(OwnInput):
    """An endpoint, and what its workers run: a recipe with its parameters, or a template by its id."""

    name: Name
    """Of the endpoint, and of the template that is made for it."""
    recipe: Line = ""
    template_id: Id | None = None
    parameters: Annotated[dict[str, Text], Field(default_factory=dict, max_length=64)]
    """Of the recipe; what is absent has its default. Files are paths where the workers are."""
    provider: Line = ""
    """Where to rent: names, types or classes of providers, with commas between; empty: as the server says."""
    gpu: Line = ""
    """Only machines with this GPU, like RTX_4090."""
    gpu_ram_gb: Gb = 0.0
    """Memory that each GPU must have; 0: as the recipe says."""
    scaling: Annotated[dict[str, Any], Field(default_factory=dict, max_length=64)]
    """Scaling parameters by name; what is absent keeps the endpoint small: no worker until somebody asks, and one at
    most."""


@dataclass(slots=True)
class Deployments:
    """The use cases of what is made whole."""

    hub: Hub
    endpoints: Endpoints
    templates: Templates
    workergroups: Workergroups

    async def create(self, new: NewDeployment, owner: AccountId, sees: AccountId | None) -> rows.Deployed:
        """Makes template, endpoint and workergroup, or nothing. Raises: BadRequest, NotFound."""
        fields, template = self._what(new, sees)
        search = _search(new, fields, template)
        wanted = _endpoint(new)
        providers_named(self.hub, new.provider)
        known = set(self.hub.templates)
        endpoint = await self.endpoints.create(wanted, owner)
        try:
            if template is None:
                template = await self.templates.create(NewTemplate(name=new.name, **fields), owner)
            group = NewWorkergroup(
                endpoint_id=endpoint.id,
                template_id=template.id,
                provider=new.provider,
                search_params=search if new.gpu else None,
            )
            made = await self.workergroups.create(group, owner, sees)
        except PosthouseError:
            await self.endpoints.delete(endpoint.id)
            if template is not None and template.id not in known:
                await self.templates.delete(TemplateRef(template_id=template.id))
            raise
        return rows.Deployed(endpoint_id=endpoint.id, template_id=template.id, workergroup_id=made.id)

    def estimate(self, new: NewDeployment, owner: AccountId, sees: AccountId | None) -> rows.Estimate:
        """What it would come to. Raises: BadRequest, NotFound for what cannot be made."""
        fields, template = self._what(new, sees)
        search = _search(new, fields, template)
        scaling = self.endpoints.foreseen(None, _endpoint(new), owner).scaling
        disk_gb = template.disk_gb if template else float(fields.get("recommended_disk_space", 0.0))
        found, notes = self.fitting(search, new.provider, disk_gb)
        offers = [offer for fitting in found.values() for offer in fitting]
        if template is None and recipe(new.recipe).memory and recipe(new.recipe).gpus and "gpu_ram" not in search:
            notes.append("How much memory the model needs is not looked up here: say what each GPU must have.")
        if not offers and not notes:
            notes.append("Nothing is offered now that fits. It waits for an offer.")
        most = most_usd_h(scaling, [offer.price.ready_usd_h for offer in offers])
        left = self._left_usd_h() if sees is None else None
        if left is not None and most is not None and most > left:
            notes.append(f"The installation's cap leaves ${left:,.2f} an hour, less than it may come to.")
        if not scaling.max_workers:
            notes.append("With max_workers 0 it never has a worker.")
        hot = min((offer.price.ready_usd_h for offer in offers), default=None)
        cold = min((offer.price.stopped_usd_h for offer in offers if offer.capabilities.stop), default=hot)
        return rows.Estimate(
            search=" ".join(f"{name} {op} {value}" for name, ops in search.items() for op, value in ops.items()),
            fitting=[_row(name, fitting) for name, fitting in found.items() if fitting],
            rest_usd_h=0.0 if not scaling.cold_workers else None if cold is None else scaling.cold_workers * cold,
            one_usd_h=hot,
            most_usd_h=most,
            left_usd_h=left,
            start=self._start(fields, template, sees),
            notes=notes,
        )

    def fitting(self, search: Filters, provider: str, disk_gb: float) -> tuple[dict[str, list[Offer]], list[str]]:
        """What fits at each provider, and what is not known of that. Raises: BadRequest."""
        found, notes = dict[str, list[Offer]](), list[str]()
        for name in providers_named(self.hub, provider):
            try:
                found[name] = [offer for offer in self.hub.offers.search(name, search, disk_gb) if offer.available > 0]
            except Busy as error:
                notes.append(f"{error}.")
        return found, notes

    # -- inside --------------------------------------------------------------------------------------------------------

    def _what(self, new: NewDeployment, sees: AccountId | None) -> tuple[dict[str, Any], Template | None]:
        """The fields of a template of its recipe, or the template. Raises: BadRequest, NotFound."""
        if bool(new.recipe) == (new.template_id is not None):
            raise BadRequest("recipe or template_id: one of them is required, and not both")
        if new.template_id is None:
            found = recipe(new.recipe)
            return found.template(new.parameters, force=True, endpoint=new.name, gpu_ram_gb=new.gpu_ram_gb), None
        if new.parameters:
            raise BadRequest("parameters: they are of a recipe, and none is named")
        return {}, find_template(self.hub, new.template_id, None, sees, "template_id")

    def _left_usd_h(self) -> float | None:
        """What the installation's caps leave per hour; None where there are none."""
        caps = self.hub.treasury.left(self.hub.clock.now())
        used = self.hub.treasury.committed_usd_h()
        return max(0.0, min(cap.usd_h for cap in caps) - used) if caps else None

    def _start(
        self, fields: Mapping[str, Any], template: Template | None, sees: AccountId | None
    ) -> rows.StartTime | None:
        """How long workers took to be ready that ran the same image and script."""
        wanted = (
            (template.image, template.onstart) if template else (fields.get("image", ""), fields.get("onstart", ""))
        )
        took = list[float]()
        for managed in self.hub.endpoints.values():
            endpoint = managed.fleet.endpoint
            runs = [self.hub.templates[g.template_id] for g in self.hub.groups_of(endpoint.id)]
            if sees in (None, endpoint.account_id) and any((t.image, t.onstart) == wanted for t in runs):
                took += managed.fleet.roster.estimator.create_s
        if not took:
            return None
        low, middle, high = np.quantile(took, (0.05, 0.5, 0.95)).tolist()
        return rows.StartTime(middle_s=middle, low_s=low, high_s=high, starts=len(took))


def most_usd_h(scaling: Scaling, prices: Iterable[float]) -> float | None:
    """The most that an endpoint may come to cost per hour; None where nothing says. `prices`: of what it may have."""
    cap, dearest = scaling.max_usd_h, max(prices, default=None)
    if dearest is None:
        return cap
    most = scaling.max_workers * dearest
    return most if cap is None else min(cap, most)


def _endpoint(new: NewDeployment) -> NewEndpoint:
    """Raises: BadRequest for a wrong parameter."""
    given = SMALL | {name: value for name, value in new.scaling.items() if value is not None}
    Scaling().changed(given)
    return NewEndpoint(endpoint_name=new.name, **given)


def _search(new: NewDeployment, fields: Mapping[str, Any], template: Template | None) -> dict[str, dict[str, object]]:
    """What machines must have. Raises: BadRequest."""
    said = template.extra_filters if template is not None else fields.get("extra_filters", "")
    found = {**parse_search(said)}
    if new.gpu:
        found |= parse_search(f"gpu_name={new.gpu}")
    return found


def _row(name: str, offers: Sequence[Offer]) -> rows.Fitting:
    return rows.Fitting(
        provider=name,
        offers=len(offers),
        workers=sum(offer.available for offer in offers),
        cheapest_usd_h=min(offer.price.ready_usd_h for offer in offers),
    )
