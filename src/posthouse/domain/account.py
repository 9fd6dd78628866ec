"""An account: who owns endpoints, templates, keys and secrets. An installation begins with one, and needs no other."""

from dataclasses import dataclass
from typing import NewType

AccountId = NewType("AccountId", int)

DEFAULT_ACCOUNT = AccountId(1)
"""The installation's own account. Its admin keys see and change what every account has."""
DEFAULT_ACCOUNT_NAME = "default"


@dataclass(frozen=True, slots=True)
class Account:
    id: AccountId
    name: str
    created_at: float = 0.0
