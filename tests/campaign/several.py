"""Lives through hours of several servers: killed, stopped, standing still, cut off from the database, while workers
come and go. One owner acts, and nothing is rented by two.

`python -m tests.campaign.several --seeds 1-500 --record tests/campaign/several.json`
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posthouse.domain.endpoint import EndpointId
from posthouse.engine.management.inputs import EndpointChanges, NewEndpoint, NewTemplate, NewWorkergroup
from posthouse.errors import PosthouseError, Unavailable
from tests.campaign.servers import Estate, Member, live

HERE = Path(__file__).parent
SERVERS = 3
NAMES = ["e0", "e1", "e2", "e3"]
MAX_WORKERS = 3
"""Of each endpoint."""
EVENTS = 30
"""What befalls servers in one seed."""
TAKEN_S = 60.0
"""Virtual seconds in which a server that reaches the database takes over what nobody has."""
LOOK_S = 0.5
"""Virtual seconds between two looks at who believes what."""
PROGRESS = 20


@dataclass
class Lived:
    """What became of a seed."""

    seed: int
    violation: str = ""
    befell: Counter[str] = field(default_factory=Counter)
    """What befell servers, and what went wrong in their world."""
    virtual_s: float = 0.0


async def make(member: Member, name: str, **scaling: Any) -> None:
    management = member.management
    template = await management.templates.create(NewTemplate(name=name, image="v1"))
    plain = {"endpoint_name": name, "cold_workers": 0, "cold_mult": 1, **scaling}
    await management.endpoints.create(NewEndpoint.model_validate(plain))
    await management.workergroups.create(NewWorkergroup(endpoint_name=name, template_id=template.id))


async def begin(estate: Estate) -> None:
    """Starts every server, and makes each endpoint at another one."""
    for name in estate.names:
        await estate.start(name)
    for number, name in enumerate(NAMES):
        member = estate.up[estate.names[number % len(estate.names)]]
        await member.call(make(member, name, min_load=60, max_workers=MAX_WORKERS))


def is_settled(estate: Estate) -> bool:
    """Whether every server has its share, and what they know is what is there."""
    shares = sorted(len(member.hub.endpoints) for member in estate.up.values())
    return (
        all(len(owners) == 1 for owners in estate.owners().values())
        and max(shares) - min(shares) <= 1
        and sorted(estate.known()) == estate.there()
    )


async def settle(estate: Estate) -> None:
    """Waits until all is in order. Raises: AssertionError after five virtual hours."""
    for _ in range(3600):
        if is_settled(estate):
            return
        await asyncio.sleep(5.0)
    raise AssertionError(f"{estate.owners()}, {sorted(estate.known())}, {estate.there()}")


async def watch(estate: Estate) -> None:
    """Looks for ever who believes to have what, how many workers are written down, and what nobody takes over."""
    left, able = dict[EndpointId, float](), dict[Member, float]()
    while True:
        now, lives = estate.loop.time(), estate.register.lives
        members = [m for m in estate.up.values() if m.line.moves.is_set() and not m.line.is_cut]
        able = {member: able.get(member, now) for member in members}
        dead = [e for e in estate.register.wanted() if lives.get(estate.register.holder(e), ("", 0.0))[1] < now]
        left = {endpoint_id: left.get(endpoint_id, now) for endpoint_id in dead}
        for endpoint_id, since in left.items():
            if able and now - max(since, min(able.values())) > TAKEN_S:
                estate.broken.append(("what a dead server had is taken over", f"endpoint {endpoint_id} is not"))
        for endpoint_id in estate.register.wanted():
            acting = [name for name, member in estate.up.items() if member.may_act(endpoint_id)]
            if len(acting) > 1:
                estate.broken.append(("one owner acts", f"{acting} all have endpoint {endpoint_id}"))
            if (count := estate.disk.count_alive(endpoint_id)) > MAX_WORKERS:
                estate.broken.append(("nothing is rented by two", f"endpoint {endpoint_id} has {count} workers"))
        await asyncio.sleep(LOOK_S)


async def storm(estate: Estate, befell: Counter[str], wild: bool) -> None:
    """Has things befall servers. `wild`: their world is faulty meanwhile, too."""
    await begin(estate)
    watching = asyncio.create_task(watch(estate))
    random, waiting = estate.world.random, set[asyncio.Task[None]]()
    estate.world.storm(wild)
    for _ in range(EVENTS):
        await asyncio.sleep(random.uniform(0.0, random.choice([2.0, 20.0, 90.0])))
        name, what = random.choice(estate.names), random.random()
        if name not in estate.up:
            befell["started"] += 1
            await start(estate, name)
        elif what < 0.35:
            befell["endpoint changed"] += 1
            await edit(estate, name)
        elif what < 0.5:
            befell["killed"] += 1
            estate.kill(name)
        elif what < 0.6:
            befell["stopped"] += 1
            await estate.stop(name)
        elif what < 0.65:
            befell["database restarted"] += 1
            await estate.restart_database()
        else:
            befell["stood still" if what < 0.8 else "cut off"] += 1
            befall = estate.still if what < 0.8 else estate.cut
            waiting.add(asyncio.create_task(befall(name, random.choice([1.0, 5.0, 30.0, 120.0]))))
    estate.world.storm(False)
    if waiting:
        await asyncio.wait(waiting)
    for name in estate.names:
        if name not in estate.up:
            await start(estate, name)
    await settle(estate)
    watching.cancel()
    assert len(set(estate.there())) == len(estate.there())


async def start(estate: Estate, name: str) -> None:
    """Starts a server, again until the database answers."""
    while name not in estate.up:
        with suppress(Unavailable):
            await estate.start(name)


async def edit(estate: Estate, name: str) -> None:
    """Changes an endpoint by a call of one server."""
    random, member = estate.world.random, estate.up[name]
    scaling = {"min_load": random.choice([0, 1, 60, 150]), "inactivity_timeout": random.choice([0, "none"])}
    wanted = random.choice(NAMES)
    endpoint = next(e for e in estate.disk.endpoints() if e.name == wanted)
    try:
        async with asyncio.timeout(60):
            changes = EndpointChanges.model_validate(scaling)
            await member.call(member.management.endpoints.update(endpoint.id, changes))
    except (PosthouseError, TimeoutError):
        return  # it was changed at another one, or this one cannot reach the database


def run(seed: int) -> Lived:
    """Lives through a seed; the world of every second one is faulty, too."""
    lived = Lived(seed)

    async def scenario(estate: Estate) -> None:
        try:
            await storm(estate, lived.befell, wild=seed % 2 == 0)
        finally:
            lived.befell.update(estate.world.counts)
            lived.virtual_s = estate.loop.time()

    try:
        live(seed, SERVERS, scenario)
    except Exception as error:  # whatever it is, the seed is broken
        lived.violation = repr(error)[:500]
    return lived


def lives(seeds: range, jobs: int) -> Iterator[Lived]:
    if jobs == 1:
        yield from map(run, seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(run, seeds)


def main() -> int:
    """The exit status: 1 if a rule was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.several", description=__doc__)
    parser.add_argument("--seeds", default="1-500", help="one seed, or the first and the last: 1-500")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--record", type=Path, help="write what was shown; usually several.json beside this module")
    args = parser.parse_args()
    first, _, last = args.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    began, done = time.monotonic(), list[Lived]()
    for lived in lives(seeds, args.jobs):
        done.append(lived)
        if lived.violation:
            print(f"seed {lived.seed}: {lived.violation}", file=sys.stderr, flush=True)
        if len(done) % PROGRESS == 0:
            print(f"{len(done)} of {len(seeds)} seeds", flush=True)
    broken = {str(one.seed): one.violation for one in done if one.violation}
    print(f"{len(done)} seeds of {SERVERS} servers, {len(broken)} broken")
    if args.record:
        version = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=HERE)
        record = {
            "seeds": {"from": seeds[0], "to": seeds[-1], "count": len(done)},
            "servers": SERVERS,
            "virtual_hours": round(sum(one.virtual_s for one in done) / 3600, 1),
            "violations": broken,
            "befell": dict(sorted(sum((one.befell for one in done), Counter[str]()).items())),
            "seeds_per_minute": round(60 * len(done) / (time.monotonic() - began), 1),
            "processes": args.jobs,
            "version": version.stdout.strip() or "unknown",
            "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.system()},
        }
        args.record.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
