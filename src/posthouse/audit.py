"""Who changed what: the current actor, what is recorded of an act, and the chain of hashes over the rows."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import astuple, dataclass, field
from typing import Any, Final, Protocol

from posthouse.domain.endpoint import DEFAULT_ACCOUNT, AccountId
from posthouse.errors import BadRequest
from posthouse.wire.env import without_values

MAX_TEXT: Final = 400
"""Longest text of a field that a row keeps whole, in characters; a longer one is cut, with a digest of all of it."""
HIDDEN: Final = "***"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts; by default the server itself, of its own accord."""

    via: str = "server"
    """`key`, `console` (somebody who has signed in), `server`, or `nobody` where no key is needed."""
    key_id: str = ""
    """Of the key that was shown; `user:ID` of a user with a password, `oidc:SUBJECT` of one whom a provider knows."""
    key_name: str = ""
    """Of the key or the user."""
    call: str = ""
    """Method and path of the call, as the table of policies has them."""
    request_id: str = ""
    at: float = 0.0
    """When the call came; 0: nobody called."""


SERVER: Final = Actor()
actor: Final[ContextVar[Actor]] = ContextVar("actor", default=SERVER)
"""Who the present code acts for. The management API sets it, once for each call."""


@dataclass(frozen=True, slots=True)
class Act:
    """What somebody did. Secrets are neither in `before` nor in `after`."""

    action: str
    """What kind of thing, and what was done to it: `endpoint.update`, `worker.drain`."""
    subject: str
    """Its id, or its name where it has no id."""
    account_id: AccountId = DEFAULT_ACCOUNT
    """Whose it is, who may see the row."""
    endpoint_id: int = 0
    """The endpoint that it is, or is part of; 0 if none."""
    name: str = ""
    before: Mapping[str, Any] = field(default_factory=dict)
    """What it said in the fields that changed; all of them, of something that was deleted."""
    after: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ActRecord:
    """An act as it is stored."""

    id: int
    """From 1, without gaps."""
    at: float
    account_id: int
    via: str
    key_id: str
    key_name: str
    call: str
    request_id: str
    action: str
    subject: str
    name: str
    endpoint_id: int
    before: str
    """JSON."""
    after: str
    """JSON."""

    def hash(self, previous: str) -> str:
        """SHA-256, in hexadecimal digits, of all of this and of the hash of the row before."""
        return hashlib.sha256(json.dumps([previous, *astuple(self)]).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ActFilter:
    """Which acts are wanted. What is empty says nothing."""

    account_id: AccountId | None = None
    """Whose; None: everybody's."""
    before: int = 0
    """Those with a smaller id; 0: the latest."""
    limit: int = 100
    action: str = ""
    """The whole of it, or what it begins with, up to a full stop."""
    key: str = ""
    """Id or name of the key that was shown, or of the user."""
    subject: str = ""
    endpoint_id: int = 0
    request_id: str = ""
    since: float = 0.0
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class ActCheck:
    """What a look at the whole chain found."""

    first_id: int
    """The oldest that is kept; those before it were trimmed."""
    last_id: int
    hash: str
    """Of the last row. Noted elsewhere, it shows later whether the chain was cut since."""
    problems: tuple[str, ...]


class Audit(Protocol):
    """What people did. Every change of the catalogue, keys and secrets leaves a row with it, all or nothing."""

    async def note(self, act: Act) -> None:
        """Appends a row for an act that changes nothing in the store, in the name of the current actor."""
        ...

    async def acts(self, wanted: ActFilter) -> Sequence[ActRecord]:
        """The acts that are wanted, the latest first."""
        ...

    async def check_acts(self, witness: str = "") -> ActCheck:
        """Whether the chain of rows is whole. `witness`: ID:HASH of a row, as it was noted elsewhere."""
        ...


def act_of(
    kind: str,
    subject: object,
    account_id: int,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    endpoint_id: int = 0,
) -> Act:
    """The act that made a row of a table out of another: an empty one stands for none."""
    verb = "update" if before and after else "create" if after else "delete"
    name = str({**before, **after}.get("name", ""))
    was, now = _told(before), _told(after)
    if verb == "update":
        changed = [field for field in now if was.get(field) != now[field]]
        now = {field: now[field] for field in changed} | {
            _FIELDS.get(field, field): f"{now[_FIELDS.get(field, field)]} (changed)"
            for field in HIDDEN_FIELDS
            if before.get(field) != after.get(field) and _FIELDS.get(field, field) not in changed
        }
        was = {field: was[field] for field in now if field in was}
    return Act(f"{kind}.{verb}", str(subject), AccountId(account_id), endpoint_id, name, was, now)


def texts(values: Mapping[str, Any]) -> str:
    """The values as a row keeps them."""
    return json.dumps({name: _short(value) for name, value in values.items()}, default=str)


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row of a table says that people have written, without secrets."""
    told: dict[str, Any] = {}
    for name, value in row.items():
        if name in ("scaling", "body"):
            told |= {field: inner for field, inner in value.items() if field not in UNTOLD}
        elif name in HIDDEN_FIELDS:
            told[_FIELDS.get(name, name)] = HIDDEN_FIELDS[name](value)
        elif name not in UNTOLD:
            told[name] = value
    return told


def _variables(env: str) -> str:
    try:
        return without_values(env)
    except BadRequest:
        return HIDDEN


def _size(text: str) -> str:
    return f"({len(text)} characters)" if text else ""


UNTOLD: Final = frozenset(
    {
        *("id", "account_id", "checksum", "revision", "digest", "created_at"),
        *("last_used_at", "used_requests", "used_work", "refused_requests"),
    }
)
"""Fields that nobody has written."""
HIDDEN_FIELDS: Final[Mapping[str, Callable[[str], str]]] = {
    "sealed": lambda sealed: HIDDEN,
    "password": lambda password: HIDDEN,
    "env": _variables,
    "onstart": _size,
    "launch_args": _size,
}
"""Fields that are, or may hold, secrets; and what is told of them."""
_FIELDS: Final = {"sealed": "value"}


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        digest = hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()
        return f"{value[:MAX_TEXT]}… ({len(value)} characters, SHA-256 {digest})"
    return value
