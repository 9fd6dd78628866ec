"""The id of an account, which owns endpoints, templates, keys and secrets."""

from typing import NewType

AccountId = NewType("AccountId", int)

DEFAULT_ACCOUNT = AccountId(1)
"""The installation's own account. Its admin keys see and change what every account has."""
