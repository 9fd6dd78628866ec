"""A workergroup: which workers an endpoint recruits, from which template, among which offers."""

from dataclasses import dataclass
from typing import NewType

from posthouse.domain.endpoint import EndpointId

TemplateId = NewType("TemplateId", int)
WorkergroupId = NewType("WorkergroupId", int)


@dataclass(frozen=True, slots=True)
class Workergroup:
    id: WorkergroupId
    endpoint_id: EndpointId
    template_id: TemplateId
    search_params: str = ""
    """Offer filter as the user wrote it; empty means the template's own filters."""
    launch_args: str = ""
    """Stored and shown; only a provider that understands them uses them."""
    gpu_ram: float = 24.0
    """Size of the model in GB: an estimate for downloads, not a filter."""
    provider: str = ""
    """Which provider to rent from; empty means the server's default."""
    signature_scheme: str = ""
    """Overrides the scheme that a worker's report implies; empty means no override."""
    created_at: float = 0.0
    revision: int = 0
    """Raised by the store at every change."""
