"""Who may do what: account keys, endpoint keys and worker tokens. No check does any input or output.

Account keys are random and stored as HMAC-SHA-256 with the installation's secret; a fast hash is enough for 256 random
bits. Endpoint keys and worker tokens are derived from that secret, so they can be shown again and are never stored.
"""

import base64
import hmac
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from urllib.parse import parse_qs

from cryptography.fernet import Fernet, InvalidToken

from posthouse.audit import Actor
from posthouse.domain.endpoint import DEFAULT_ACCOUNT, AccountId, Endpoint
from posthouse.engine.limits import Meter
from posthouse.errors import BadRequest, Refused
from posthouse.files import write_new
from posthouse.keys import KeyLimits, KeyRecord, KeyUse
from posthouse.wire.grant import grant_key

SECRET_BYTES = 32
"""As long as the output of SHA-256: more adds nothing to an HMAC."""

MAX_KEY = 128
"""Longest text that is looked at as a key, in characters; ours have at most 90."""

MAX_PROVEN = 10_000
"""Most keys that are remembered as good, so that a key in use costs one comparison and no digest."""
MAX_DERIVED = 20_000
"""Most workers whose token and key for grants are remembered: deriving one takes as long as a grant."""

_ACCOUNT_KEY = re.compile(r"ph_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_ENDPOINT_KEY = re.compile(r"phe_([0-9]{1,19})_([0-9]{1,19})_[A-Za-z0-9_-]{43}")


class Scope(IntEnum):
    """What a key may do. Each scope includes the ones below it."""

    ROUTE = 1  # ask for a worker
    READ = 2  # see everything but keys
    OPERATE = 3  # create, change and delete endpoints, workergroups, templates, workers
    ADMIN = 4  # keys

    @classmethod
    def named(cls, name: str) -> "Scope":
        """The scope called `name`. Raises: BadRequest."""
        try:
            return cls[name.upper()]
        except KeyError:
            allowed = ", ".join(scope.name.lower() for scope in cls)
            raise BadRequest(f"scope {name!r} is unknown; allowed: {allowed}") from None


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sent a request."""

    scope: Scope
    endpoint_id: int | None
    """The one endpoint that its key is for; None for an account key, which is for all of the account's."""
    key_id: str
    """Safe to log."""
    account_id: AccountId = DEFAULT_ACCOUNT
    """Whose key it is. Names in a request are names of this account."""
    meter: Meter | None = None
    """What its key has of its limits; None where it has none."""
    session: str = ""
    """The session of the console under which it calls; empty: it has shown its key."""
    name: str = ""
    """Of the user who has signed in; empty: it is a key."""

    @property
    def who(self) -> str:
        """Who it is, for people."""
        return f"user {self.name}" if self.name else f"key {self.key_id}"

    @property
    def sees(self) -> AccountId | None:
        """The account whose things it may see and change; None: every account's, for the installation's own admins."""
        return None if self.account_id == DEFAULT_ACCOUNT and self.scope is Scope.ADMIN else self.account_id

    def may_see(self, account_id: AccountId) -> bool:
        """Whether it may see and change what this account has."""
        return self.sees in (None, account_id)


_NOBODY: tuple[str, Principal | None, int] = ("", None, 0)


class Keyring:
    """Every key of the installation, in memory."""

    def __init__(
        self, secret: bytes, records: Iterable[KeyRecord], endpoint_by_id: Callable[[int], Endpoint | None]
    ) -> None:
        """`endpoint_by_id`: an endpoint as it is now, None if there is no such endpoint."""
        self._secret = secret
        self.worker_token: Callable[[int], str] = lru_cache(MAX_DERIVED)(self._worker_token)
        """What a worker shows with its reports (`mtoken` on the wire), by its id."""
        self.grant_key: Callable[[int], bytes] = lru_cache(MAX_DERIVED)(self._grant_key)
        """What the grants for a worker that runs our agent are made with; it derives the same from its token."""
        self._fernet = self.fernet("secrets")
        self._endpoint_by_id = endpoint_by_id
        self._records: dict[str, KeyRecord] = {}
        self._principals: dict[str, Principal] = {}
        self._proven: dict[int, tuple[str, Principal | None, int]] = {}
        """Keys that were found good, by their hash: the key itself, whose it is, and an endpoint key's version."""
        self._used_at: dict[str, float] = {}
        """Last uses that no record has yet."""
        self._meters: dict[str, Meter] = {}
        """Of the keys that have limits, or had."""
        self.replace(records)

    def replace(self, records: Iterable[KeyRecord]) -> None:
        """Replaces all known records by these. Raises: BadRequest for an unknown scope."""
        self._records.clear()
        self._principals.clear()
        self._proven.clear()
        for record in records:
            self.put(record)

    def records(self) -> list[KeyRecord]:
        """Every account key, with its last use."""
        return [self._latest(key_id) for key_id in self._records]

    def record(self, key_id: str) -> KeyRecord:
        """The key with this id, with its last use. Raises: KeyError."""
        return self._latest(key_id)

    def name_of(self, key_id: str) -> str:
        """What the key with this id is called; empty if there is none."""
        return self._records[key_id].name if key_id in self._records else ""

    def acting(self, principal: Principal, who: Actor) -> Actor:
        """Who acts, where it is this caller."""
        via = "console" if principal.session else "key"
        name = principal.name or self.name_of(principal.key_id)
        return replace(who, via=via, key_id=principal.key_id, key_name=name)

    def is_good(self, key_id: str) -> bool:
        """Whether the account key with this id is still worth something."""
        record = self._records.get(key_id)
        return record is not None and not record.revoked_at

    def revoke(self, key_id: str, now: float) -> None:
        """Refuses the key from now on."""
        self.put(replace(self._latest(key_id), revoked_at=now))

    def mint(
        self, name: str, scope: Scope, now: float, account_id: AccountId = DEFAULT_ACCOUNT
    ) -> tuple[KeyRecord, str]:
        """A new account key's record, and the key itself. It is good once the record has been stored and `put`."""
        key_id = secrets.token_hex(4)
        while key_id in self._records:
            key_id = secrets.token_hex(4)
        key = f"ph_{key_id}_{secrets.token_urlsafe(32)}"
        digest = self._mac(key).hex()
        return KeyRecord(key_id, name, scope.name.lower(), digest, now, account_id=account_id), key

    def mint_key(self, name: str, scope: str, now: float, account_id: AccountId) -> tuple[KeyRecord, str]:
        """The same as `mint`, by the name of the scope. Raises: BadRequest for an unknown one."""
        return self.mint(name, Scope.named(scope), now, account_id)

    def put(self, record: KeyRecord) -> None:
        """Adds or replaces a record. Raises: BadRequest for an unknown scope."""
        scope, meter = Scope.named(record.scope), self._meters.get(record.id)
        if meter is not None:
            meter.change(record.limits)
        elif record.limits != KeyLimits():
            meter = self._meters[record.id] = Meter(record.limits)
        limited = meter if record.limits != KeyLimits() else None
        self._principals[record.id] = Principal(scope, None, record.id, record.account_id, limited)
        self._proven.clear()
        if (known := self._records.get(record.id)) is not None:  # what it used is counted here alone
            used = {name: getattr(known, name) for name in ("used_requests", "used_work", "refused_requests")}
            record = replace(record, **used)
        self._records[record.id] = record

    def check(self, key: str, now: float) -> Principal | None:
        """Whose key this is, or None. Secrets are compared in constant time; ids and versions are none."""
        known = self.remembered(key, now)
        if known is not None:
            return known
        if len(self._proven) >= MAX_PROVEN:
            self._proven.clear()
        return self._prove(key, now)

    def remembered(self, key: str, now: float) -> Principal | None:
        """Whose key this is, if it was found good recently and still is."""
        text, principal, version = self._proven.get(hash(key), _NOBODY)
        if principal is None or not hmac.compare_digest(text, key):
            return None
        if principal.endpoint_id is None:
            self._used_at[principal.key_id] = now
        elif not self._is_current(principal.endpoint_id, version):
            return None
        return principal

    def _is_current(self, endpoint_id: int, version: int) -> bool:
        endpoint = self._endpoint_by_id(endpoint_id)
        return endpoint is not None and endpoint.key_version == version

    def _prove(self, key: str, now: float) -> Principal | None:
        if len(key) > MAX_KEY:
            return None
        if match := _ACCOUNT_KEY.fullmatch(key):
            record = self._records.get(match[1])
            if record is None or not hmac.compare_digest(self._mac(key).hex(), record.digest) or record.revoked_at:
                return None
            self._used_at[record.id] = now
            principal = self._principals[record.id]
            self._proven[hash(key)] = key, principal, 0
            return principal
        if match := _ENDPOINT_KEY.fullmatch(key):
            endpoint_id, version = int(match[1]), int(match[2])
            if not hmac.compare_digest(self.endpoint_key(endpoint_id, version), key):
                return None
            endpoint = self._endpoint_by_id(endpoint_id)
            if endpoint is None or endpoint.key_version != version:
                return None
            principal = Principal(Scope.ROUTE, endpoint_id, f"phe_{endpoint_id}_{version}", endpoint.account_id)
            self._proven[hash(key)] = key, principal, version
            return principal
        return None

    def dirty(self) -> list[tuple[KeyRecord, KeyUse]]:
        """The records used since the last call and what each used meanwhile, for somebody to store at leisure."""
        ids = [i for i in self._records if i in self._used_at or self._unsaved(i) != KeyUse()]
        used = [(self._latest(key_id), self._unsaved(key_id)) for key_id in ids]
        self._records.update((record.id, record) for record, _ in used)
        self._used_at.clear()
        for meter in self._meters.values():
            meter.unsaved = KeyUse()
        return used

    def _unsaved(self, key_id: str) -> KeyUse:
        return self._meters[key_id].unsaved if key_id in self._meters else KeyUse()

    def _latest(self, key_id: str) -> KeyRecord:
        record, use = self._records[key_id], self._unsaved(key_id)
        return replace(
            record,
            last_used_at=self._used_at.get(key_id, record.last_used_at),
            used_requests=record.used_requests + use.requests,
            used_work=record.used_work + use.work,
            refused_requests=record.refused_requests + use.refused,
        )

    def endpoint_key(self, endpoint_id: int, key_version: int) -> str:
        """The key that can only route, and only to this endpoint."""
        return f"phe_{endpoint_id}_{key_version}_{self._token(f'endpoint|{endpoint_id}|{key_version}')}"

    @property
    def server_token(self) -> str:
        """What the servers of the installation show each other."""
        return self._token("server")

    def session_id(self, token: str) -> str:
        """What is kept of the token of a session: nobody finds the token by it, nor makes one without the secret."""
        return self._mac(f"session|{token}").hex()

    def csrf(self, session: str) -> str:
        """What a page shows beside the cookie of a session, of which this is the digest."""
        return self._token(f"csrf|{session}")

    def _worker_token(self, worker_id: int) -> str:
        return self._token(f"worker|{worker_id}")

    def _grant_key(self, worker_id: int) -> bytes:
        return grant_key(self.worker_token(worker_id))

    def check_worker(self, worker_id: int, token: str) -> bool:
        """True if the token is that worker's."""
        return len(token) <= MAX_KEY and token.isascii() and hmac.compare_digest(self.worker_token(worker_id), token)

    def fernet(self, purpose: str) -> Fernet:
        """What encrypts for this purpose, with a key derived from the installation's secret."""
        return Fernet(base64.urlsafe_b64encode(self._mac(purpose)))

    def seal(self, value: str) -> str:
        """A secret's value as it is stored: encrypted, with a key derived from the installation's secret."""
        return self._fernet.encrypt(value.encode()).decode()

    def unseal(self, name: str, sealed: str) -> str:
        """The value of the secret `name`. Raises: Refused if it was sealed with another installation's secret."""
        try:
            return self._fernet.decrypt(sealed).decode()
        except InvalidToken:
            raise Refused(
                f"the secret {name} cannot be read, as the file `secret` was replaced: delete it and make it again"
            ) from None

    def _mac(self, text: str) -> bytes:
        return hmac.digest(self._secret, text.encode(), "sha256")

    def _token(self, text: str) -> str:
        return base64.urlsafe_b64encode(self._mac(text)).decode().rstrip("=")


def keys_in(headers: Mapping[str, str], query: bytes, body: object) -> str:
    """The key that a request carries; empty if none, or several that differ.

    It may be in `Authorization: Bearer KEY`, `Authorization: KEY`, `api_key` or `api_token` in the JSON body, and
    `api_key` in the query. `headers` has lower-case names.
    """
    said = [body.get("api_key"), body.get("api_token")] if isinstance(body, Mapping) else []
    in_body = [value for value in said if isinstance(value, str)]
    return one_key(key_in_header(headers.get("authorization", "")), *in_body, key_in_query(query))


def one_key(*keys: str) -> str:
    """The key among these, most of which are empty; empty if there is none, or several that differ."""
    found = {key for key in keys if key}
    return found.pop() if len(found) == 1 else ""


def key_in_query(query: bytes) -> str:
    """The `api_key` of a query string; empty if it has none, or several that differ."""
    found = set(parse_qs(query.decode("latin-1")).get("api_key", ())) if query else set()
    return found.pop() if len(found) == 1 else ""


def key_in_header(authorization: str) -> str:
    """The key in an Authorization header, with or without the word Bearer; empty if it is of another scheme."""
    words = authorization.split()
    if len(words) == 2 and words[0].lower() == "bearer":
        return words[1]
    return words[0] if len(words) == 1 and words[0].lower() != "bearer" else ""


def password_in_header(authorization: str) -> str:
    """The password of HTTP's Basic scheme (RFC 7617); empty if there is none."""
    words = authorization.split()
    if len(words) != 2 or words[0].lower() != "basic":
        return ""
    with suppress(ValueError):
        return base64.b64decode(words[1], validate=True).decode("latin-1").partition(":")[2]
    return ""


def load_secret(path: Path) -> bytes:
    """The installation's secret: 32 random bytes in a file that only its owner may read, made at the first call.

    Raises: Refused if the file is there and is not such a secret, OSError if it cannot be read or made.
    """
    with suppress(FileNotFoundError):
        return _read_secret(path)
    write_new(path, secrets.token_bytes(SECRET_BYTES))
    return _read_secret(path)


def _read_secret(path: Path) -> bytes:
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise Refused(
            f"{path} has {len(secret)} bytes, and a secret has {SECRET_BYTES}: put it back from a backup, "
            "or remove it, which makes every key invalid"
        )
    return secret
