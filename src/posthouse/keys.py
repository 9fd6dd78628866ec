"""Account keys as they are stored, and what they may have."""

from dataclasses import asdict, dataclass, replace

from posthouse.domain.endpoint import DEFAULT_ACCOUNT, AccountId


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key may have; 0: as much as it likes."""

    requests_per_minute: int = 0
    work_per_minute: int = 0
    at_once: int = 0
    """Requests that have not ended."""


@dataclass(slots=True)
class KeyUse:
    """What a key has used, counted while it has limits."""

    requests: int = 0
    work: float = 0.0
    refused: int = 0
    """Requests beyond its limits."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An account key as it is stored: never the key itself."""

    id: str
    name: str
    scope: str
    digest: str
    """HMAC-SHA-256 of the key with the installation's secret, hex."""
    created_at: float
    last_used_at: float = 0.0
    revoked_at: float = 0.0
    account_id: AccountId = DEFAULT_ACCOUNT
    requests_per_minute: int = 0
    work_per_minute: int = 0
    at_once: int = 0
    used_requests: int = 0
    used_work: float = 0.0
    refused_requests: int = 0

    @property
    def limits(self) -> KeyLimits:
        return KeyLimits(self.requests_per_minute, self.work_per_minute, self.at_once)

    def within(self, limits: KeyLimits) -> "KeyRecord":
        """The record with other limits."""
        return replace(self, **asdict(limits))
