"""A template: what a worker runs. A workergroup: from which one an endpoint recruits, and among which offers."""

import hashlib
from dataclasses import dataclass, field
from typing import NewType, TypeAlias

import msgspec

from posthouse.domain.endpoint import DEFAULT_ACCOUNT, AccountId, EndpointId, WorkergroupId

DEFAULT_DISK_GB = 10.0

TemplateId = NewType("TemplateId", int)
Runs: TypeAlias = tuple[str, str, str, str]
"""Image, tag, environment and onstart."""


@dataclass(frozen=True, slots=True)
class Template:
    id: TemplateId
    hash_id: str
    """Hash of the content; changes with every edit."""
    name: str
    image: str = ""
    tag: str = ""
    env: str = ""
    """Environment and ports as docker flags: `-e KEY=VALUE -p 3000:3000`."""
    onstart: str = ""
    """Shell text that a worker runs at every start. The only text from outside that ever reaches a shell."""
    disk_gb: float = DEFAULT_DISK_GB
    extra_filters: dict[str, object] = field(default_factory=dict)
    desc: str = ""
    readme: str = ""
    private: bool = True
    loading_timeout_s: float = 0.0
    """Longest time until a worker is ready, above every other limit on loading; 0: as the server says."""
    created_at: float = 0.0
    account_id: AccountId = DEFAULT_ACCOUNT
    """Its owner. A workergroup uses templates of its own owner alone."""
    revision: int = 0
    """Raised by the store at every change."""

    def runs(self) -> Runs:
        """What a worker runs: where two templates are equal in this, a worker of the one is one of the other."""
        return self.image, self.tag, self.env, self.onstart

    def build(self) -> str:
        """The name of what a worker runs: a digest of it."""
        return hashlib.sha256(msgspec.json.encode(self.runs())).hexdigest()[:16]


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
    """Where to rent: names, types or classes of providers, or `any`; empty means the server's default."""
    signature_scheme: str = ""
    """Overrides the scheme that a worker's report implies; empty means no override."""
    created_at: float = 0.0
    revision: int = 0
    """Raised by the store at every change."""
