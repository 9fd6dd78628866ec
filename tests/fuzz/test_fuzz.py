"""A few cases of what `make fuzz` makes many of."""

from pathlib import Path

from tests.fuzz.__main__ import explore


def test_no_call_of_anybody_breaks_the_server(tmp_path: Path) -> None:
    made = explore(tmp_path, per_call=6, per_decoder=60, seed=1)
    assert made.total() > 700
    assert made["connections"] > 30
    assert all(
        made[f"as {role}"] for role in ("none", "wrong", "endpoint", "worker", "route", "read", "operate", "admin")
    )
