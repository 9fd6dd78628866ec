"""People who sign in to the console with a name and a password, as they are stored."""

from dataclasses import dataclass, field

from posthouse.domain.endpoint import DEFAULT_ACCOUNT, AccountId


@dataclass(frozen=True, slots=True)
class UserRecord:
    """A user of an account."""

    id: int
    name: str
    """No two of an installation have the same."""
    scope: str
    password: str = field(repr=False)
    """Its hash by Argon2id, with parameters and salt: never the password."""
    created_at: float
    account_id: AccountId = DEFAULT_ACCOUNT
