"""Who may call how often: for each key, each address and each worker."""

from collections import Counter

from posthouse.config import Rates
from posthouse.engine.buckets import Buckets
from posthouse.errors import TooMany
from posthouse.places import place
from posthouse.server.auth import Keyring, Principal


class Throttle:
    """The buckets of one server."""

    def __init__(self, rates: Rates) -> None:
        self.counts: Counter[str] = Counter()
        """Calls that were put off."""
        self._routes_of_key = Buckets(rates.routes_per_key)
        self._routes_of_address = Buckets(rates.routes_per_address)
        self._calls_of_key = Buckets(rates.calls_per_key)
        self._calls_of_address = Buckets(rates.calls_per_address)
        self._wrong_keys_of_address = Buckets(rates.wrong_keys_per_address)
        self._passwords_of_name = Buckets(1 / 60, burst_s=600)
        self._passwords_of_address = Buckets(1 / 10, burst_s=300)

    def principal(self, keyring: Keyring, key: str, address: str, now: float) -> Principal | None:
        """Whose key this is; None if it is missing or wrong. Each is checked: a good one is good from everywhere.

        Raises: TooMany for a wrong one, if too many came from the address.
        """
        principal = keyring.check(key, now) if key else None
        if principal is None and key and (wait_s := self._wrong_keys_of_address.take(place(address), now)):
            self.counts["throttled_keys"] += 1
            raise TooMany("api_key: too many wrong keys came from this address", wait_s)
        return principal

    def password(self, name: str, address: str, now: float) -> None:
        """Counts a password before it is looked at, right or wrong: ten for a name and then one a minute, thirty from
        an address and then one every ten seconds. Raises: TooMany."""
        wait_s = self._passwords_of_address.take(place(address), now) or self._passwords_of_name.take(name, now)
        if wait_s:
            self.counts["throttled_keys"] += 1
            raise TooMany(f"too many passwords came: the next may come in {wait_s:.0f} s", wait_s)

    def allows_route(self, key_id: str, address: str, now: float) -> bool:
        """Whether a `/route/` call of this key, from this address, may have a worker now."""
        if self._routes_of_key.take(key_id, now) or self._routes_of_address.take(place(address), now):
            self.counts["throttled_routes"] += 1
            return False
        return True

    def call_from(self, address: str, now: float) -> None:
        """Counts a call of the management API. Raises: TooMany."""
        self._count(self._calls_of_address, place(address), "from this address", now)

    def call_with(self, key_id: str, now: float) -> None:
        """Counts a call of the management API. Raises: TooMany."""
        self._count(self._calls_of_key, key_id, "with this key", now)

    def _count(self, buckets: Buckets, caller: str, how: str, now: float) -> None:
        if wait_s := buckets.take(caller, now):
            self.counts["throttled_calls"] += 1
            raise TooMany(f"too many calls {how}: the next may come in {wait_s:.1f} s", wait_s)
