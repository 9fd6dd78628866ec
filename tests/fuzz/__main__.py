"""`python -m tests.fuzz [--seed N]`: makes calls that nobody foresaw until one breaks the server.

Ends with 1 and the case, made as small as may be, where an answer is a 5xx, a traceback is told or logged, a log line
holds a key, or a decoder raises what is no refusal. A case is told as a call of `Case`, which makes it again.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from posthouse.errors import BadRequest
from posthouse.wire import deletes, route, status
from posthouse.wire.body import sender
from posthouse.wire.env import parse_env
from posthouse.wire.search import parse_search
from tests.fuzz.cases import OBJECTS, RAW, TEXTS, cases, mutated, recorded_bodies, targets
from tests.fuzz.connections import streams, talk
from tests.fuzz.described import described
from tests.fuzz.site import Case, Site, site

AT_ONCE = 500
"""Cases of one call before the site is made ready again: by then they may have deleted what others need."""

DECODERS: dict[str, Callable[[Any], object]] = {
    "reports": status.decode,
    "ended requests": deletes.decode,
    "route calls": lambda raw: route.checked(route.decode(raw)),
    "senders": sender,
    "searches": parse_search,
    "environments": parse_env,
}


def explore(directory: Path, per_call: int, per_decoder: int, seed: int) -> Counter[str]:
    """How many cases of what were made, all of which went well. Raises: the error of the first that did not.

    `per_call`: cases of each call of our own making, and a quarter as many that Schemathesis makes of its description;
    three times as many connections, where requests are signed one by one and where they are not.
    """
    made: Counter[str] = Counter()
    seeds = count(seed)  # or the first case of every call would be made in the same role
    with asyncio.Runner() as runner:
        context = site(directory)
        here = runner.run(context.__aenter__())
        try:
            for method, path, operation in targets(here):
                for first in range(0, per_call, AT_ONCE):
                    runner.run(here.prepare())
                    drawn = cases(here, method, path, operation)
                    tries(drawn, _caller(runner, here, made), min(AT_ONCE, per_call - first), next(seeds))
            for strategy in described(here):
                runner.run(here.prepare())
                tries(strategy, _caller(runner, here, made), max(per_call // 4, 2), next(seeds))
            for scheme in ("", "A5S"):
                runner.run(here.prepare(scheme))
                tries(streams(here), _talker(runner, here, made), 3 * per_call, next(seeds))
            made.update({f"answered {code}": number for code, number in here.statuses.items()})
        finally:
            runner.run(context.__aexit__(None, None, None))
    for name, decode in DECODERS.items():
        texts = name in ("searches", "environments")
        strategy = st.one_of(TEXTS, OBJECTS) if texts else st.one_of(RAW, mutated(recorded_bodies()))
        tries(strategy, _decoder(name, decode, made), per_decoder, next(seeds))
    return made


def tries(strategy: st.SearchStrategy[Any], check: Callable[[Any], None], most: int, number: int) -> None:
    @seed(number)
    @settings(
        max_examples=most,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def holds(case: Any) -> None:
        check(case)

    holds()


def _caller(runner: asyncio.Runner, here: Site, made: Counter[str]) -> Callable[[tuple[str, Case]], None]:
    def check(drawn: tuple[str, Case]) -> None:
        role, case = drawn
        made[f"as {role}"] += 1
        runner.run(here.answer(case))

    return check


def _talker(runner: asyncio.Runner, here: Site, made: Counter[str]) -> Callable[[list[bytes]], None]:
    def check(pieces: list[bytes]) -> None:
        made["connections"] += 1
        cut, whole = (runner.run(talk(here, way)) for way in (pieces, [b"".join(pieces)]))
        assert cut == whole, (pieces, cut, whole)

    return check


def _decoder(name: str, decode: Callable[[Any], object], made: Counter[str]) -> Callable[[Any], None]:
    def check(said: Any) -> None:
        made[f"decoded as {name}"] += 1
        with suppress(BadRequest):
            decode(said)

    return check


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--per-call", type=int, default=1600, help="cases of each call (1600); see `explore`")
    options.add_argument("--per-decoder", type=int, default=4000, help="cases of each decoder (4000)")
    options.add_argument("--seed", type=int, default=random.randrange(2**32), help="of what is drawn (random)")
    chosen = options.parse_args()
    print(f"seed {chosen.seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        try:
            made = explore(Path(directory), chosen.per_call, chosen.per_decoder, chosen.seed)
        except BaseException as error:  # whatever it is, it is what was looked for
            print("".join(getattr(error, "__notes__", [])), file=sys.stderr)
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            print(f"again: python -m tests.fuzz --seed {chosen.seed} --per-call {chosen.per_call}", file=sys.stderr)
            return 1
    for what, number in sorted(made.items()):
        print(f"{what:<24} {number:>8,}")
    cases_made = sum(number for what, number in made.items() if not what.startswith("answered"))
    print(f"{cases_made:,} cases in {time.monotonic() - began:.0f} s: no 5xx, no traceback, no key in a log")
    return 0


if __name__ == "__main__":
    sys.exit(main())
