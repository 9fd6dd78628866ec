"""What gateways spent at servers of others, among the costs: the file in which they keep it is what counts."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from posthouse.budget import WARN_SHARE, began
from posthouse.domain.endpoint import EndpointId
from posthouse.engine.costs import DAYS, HOURS, Bucket, Costs, add_up
from posthouse.recording.history import HistoryChunk
from posthouse.wire import rows, spent
from posthouse.wire.fallback import EXTERNAL

NO_ENDPOINT: Final = EndpointId(-2)
"""Under which it is kept beside the costs of endpoints."""


class ExternalCosts(Costs):
    """The same for all such servers together; a part's provider says which."""

    def __init__(self, path: Path | None = None, endpoint_id: EndpointId = NO_ENDPOINT) -> None:
        """`path`: of the gateways' file; None: there is none."""
        super().__init__()
        self.endpoint_id = endpoint_id
        self.loaded = path is None
        """Whether it is known what the store has."""
        self._path = path
        self._rows: dict[str, spent.Spent] = {}

    def load(self, stored: Iterable[HistoryChunk]) -> None:
        super().load(stored)
        self.loaded = True

    def look(self, now: float) -> None:
        """Has today come to what the file says: the present hour is what the hours before it are short of that."""
        if self._path is None:
            return
        self._rows = spent.look(self._path) or self._rows
        hour = self._hour(now)
        day = self._open.get(DAYS)
        before = day if day is not None and day.number == hour.day else Bucket(hour.day)
        by_key: dict[str, float] = defaultdict(float)
        for name, row in self._today(now).items():
            part = f"{EXTERNAL}{name}", "", "external"
            hour.spent[part] = max(0.0, row.usd - before.spent[part])  # less where more was reserved than was used
            add_up(by_key, {key.removeprefix("ph_"): usd for key, usd in row.by_key.items()})
        for key, usd in by_key.items():
            hour.asked[key] = max(0.0, usd - before.asked[key])
        if by_key:
            self._unsaved[HOURS, hour.number] = hour

    def left(self, now: float) -> Iterator[rows.MoneyLeft]:
        """What the cap of each leaves today."""
        ends_at = began("day", now)[1]
        for name, row in self._today(now).items():
            limit, used = row.max_usd_day, row.usd
            left_usd = max(0.0, limit - used)
            yield rows.MoneyLeft(
                cap=f"{EXTERNAL}{name}",
                endpoint="",
                limit=limit,
                used=used,
                usd_h=left_usd / (ends_at - now) * 3600.0,
                ends_at=ends_at,
                level="full" if used >= limit else "warn" if used >= WARN_SHARE * limit else "ok",
                text=f"{EXTERNAL}{name} {limit:g} a day: ${used:.4f} used, ${left_usd:.4f} left until "
                f"{datetime.fromtimestamp(ends_at, UTC):%Y-%m-%d %H:%M} UTC",
            )

    def _today(self, now: float) -> dict[str, spent.Spent]:
        day = datetime.fromtimestamp(now, UTC).date().isoformat()
        return {
            name: row if row.day == day else spent.Spent(day, 0.0, row.max_usd_day) for name, row in self._rows.items()
        }
