"""The use cases of the management API: each checks, writes to the store, and only then changes memory."""

import asyncio
from typing import Protocol

from posthouse.config import Limits
from posthouse.domain.endpoint import AccountId
from posthouse.engine.hub import Hub
from posthouse.engine.management.aliases import Aliases
from posthouse.engine.management.deploy import Deployments
from posthouse.engine.management.endpoints import Endpoints
from posthouse.engine.management.keys import Keys, KeyStock
from posthouse.engine.management.manifests import Manifests
from posthouse.engine.management.plan import UseCases
from posthouse.engine.management.secrets import Sealer, Secrets
from posthouse.engine.management.templates import Templates
from posthouse.engine.management.workergroups import Workergroups
from posthouse.engine.management.workers import Workers


class Keyring(KeyStock, Sealer, Protocol):
    """Makes keys, and encrypts secrets."""


class Management:
    """What can be changed, one change at a time."""

    def __init__(self, hub: Hub, limits: Limits, keyring: Keyring) -> None:
        lock = asyncio.Lock()
        self.hub = hub
        self.endpoints = Endpoints(hub, limits, lock)
        self.workergroups = Workergroups(hub, limits, lock)
        self.templates = Templates(hub, limits, lock)
        self.deployments = Deployments(hub, self.endpoints, self.templates, self.workergroups)
        self.workers = Workers(hub)
        self.aliases = Aliases(hub, lock)
        self.secrets = Secrets(hub, keyring, lock)
        self.keys = Keys(hub, limits, keyring, lock)
        self.manifests = Manifests(hub, self.deployments, self._use_cases)

    def _use_cases(self, owner: AccountId) -> UseCases:
        return UseCases(self.endpoints, self.workergroups, self.templates, self.aliases, self.keys, owner)
