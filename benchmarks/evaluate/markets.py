"""What can be rented in an evaluation: one kind of machine, or several of different price, speed and failure rate."""

ONE_KIND = "one"
MARKETS: dict[str, tuple[dict[str, float | str], ...]] = {
    "mixed": (
        {"gpu": "medium", "perf": 80.0, "slots": 8, "ready_usd_h": 0.40, "refused": 0.03, "crashes_h": 0.005},
        {
            "gpu": "small",
            "perf": 30.0,
            "slots": 3,
            "ready_usd_h": 0.12,
            "refused": 0.10,
            "crashes_h": 0.05,
            "broken": 0.25,
            "slow": 0.2,
        },
        {"gpu": "large", "perf": 240.0, "slots": 24, "ready_usd_h": 1.30, "refused": 0.03, "crashes_h": 0.005},
    ),
    "spot": (
        {"gpu": "medium", "perf": 80.0, "slots": 8, "ready_usd_h": 0.40, "refused": 0.03, "crashes_h": 0.005},
        {
            "gpu": "medium spot",
            "perf": 80.0,
            "slots": 8,
            "ready_usd_h": 0.16,
            "refused": 0.10,
            "crashes_h": 0.005,
            "preempted_h": 0.25,
            "offered_h": 1.5,
            "away_h": 0.5,
        },
        {"gpu": "large", "perf": 240.0, "slots": 24, "ready_usd_h": 1.15, "refused": 0.03, "crashes_h": 0.005},
    ),
}
"""Markets of several kinds of machine. `mixed`: the cheapest for its work is small and fails often, and the largest is
dearest. `spot`: one is to be had at 40 % of its price, but it can be interrupted, and at times there is none."""
MARKET_SIZES, MARKET_STARTS, MARKET_SPAN_S, MARKET_WARM_S = (3.0, 12.0), (30.0, 300.0), 3600.0, 1800.0
"""Worlds of several kinds begin without a worker, so that every machine was chosen by the policy."""
