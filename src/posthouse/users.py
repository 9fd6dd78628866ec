"""Who signs in to the console with a name and a password, and who is signed in, as they are stored."""

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


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session of the console: it stands for a proof that was shown once."""

    digest: str
    """Of the token that the browser shows."""
    scope: str
    key_id: str
    account_id: AccountId
    name: str
    """Of the user; empty: it is a key."""
    began_at: float
