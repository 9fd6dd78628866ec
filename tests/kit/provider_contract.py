"""The contract suite of providers: whoever passes it can be used. `docs/guides/add-a-provider.md` says how.

A test class inherits `ProviderContract` and gives it a fixture `provider`: one that is empty, and of installation
`test`. What a provider cannot do by its `capabilities` is not asked of it.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from posthouse.config import load_settings
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Observation
from posthouse.domain.offer import Offer
from posthouse.errors import NotFound, OfferTaken, Refused
from posthouse.ports import InstanceSpec, Provider
from posthouse.providers.answers import NoAnswer
from posthouse.providers.plugin import Context
from posthouse.providers.registry import opened

SLEEP = "echo up; exec sleep 600"
DEADLINE_S = 300.0


def spec(worker_id: int, onstart: str = SLEEP, installation: str = "test", **env: str) -> InstanceSpec:
    return InstanceSpec(
        label=f"posthouse-{installation}-{worker_id}",
        worker_id=worker_id,
        image="",
        onstart=onstart,
        disk_gb=1.0,
        env=env,
    )


@asynccontextmanager
async def opened_provider(
    name: str, table: dict[str, Any], data_dir: Path = Path(), bell: Callable[[], None] = lambda: None
) -> AsyncIterator[Provider]:
    """A provider as a server of installation `test` opens it from its table of settings, behind its wrappers.

    At the end its workers stay.
    """
    settings, _ = load_settings({f"providers.{name}.{key}": value for key, value in table.items()}, None, {})
    provider, _ = await opened(settings.providers[name], Context(name, "test", data_dir, bell))
    try:
        yield provider
    finally:
        await provider.close()


async def rent(provider: Provider, wanted: InstanceSpec) -> Instance:
    """The instance, on the first offer at its price."""
    offer = (await provider.catalog())[0]
    return await provider.create(offer.id, wanted, usd_h(offer, wanted))


def usd_h(offer: Offer, wanted: InstanceSpec) -> float:
    """What the offer costs with the disk, in US dollars per hour."""
    return offer.price.ready_usd_h + offer.disk_usd_gb_h * wanted.disk_gb


async def placed(provider: Provider, made: Instance) -> Instance:
    """The instance once its provider says where it is reached: at once, or when it runs."""
    return made if made.addresses else await seen_as(provider, made.id, Observation.RUNNING)


async def available(provider: Provider, offer_id: str) -> int:
    """How many instances of an offer can be rented."""
    return sum(offer.available for offer in await provider.catalog() if offer.id == offer_id)


def need(provider: Provider, *names: str) -> None:
    """Skips the test for a provider that cannot do what it is about."""
    for name in names:
        if not getattr(provider.capabilities, name):
            pytest.skip(f"provider {provider.name} has no {name}")


async def listed(provider: Provider, instance_id: str) -> Instance | None:
    return {i.id: i for i in await provider.instances()}.get(instance_id)


async def eventually(check: Callable[[], Awaitable[object]]) -> None:
    """Returns once `check` holds; fails if it does not within the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not await check():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.05)


async def seen_as(provider: Provider, instance_id: str, observation: Observation) -> Instance:
    found: list[Instance] = []

    async def check() -> bool:
        instance = await listed(provider, instance_id)
        found[:] = [instance] if instance and instance.seen is observation else []
        return bool(found)

    await eventually(check)
    return found[0]


async def printed(provider: Provider, instance_id: str, text: str) -> str:
    """The instance's log, once it contains `text`."""

    async def check() -> bool:
        return text in await provider.logs(instance_id, 1000)

    await eventually(check)
    return await provider.logs(instance_id, 1000)


async def environment(provider: Provider, worker_id: int, **env: str) -> dict[str, str]:
    """What a fresh instance finds in its environment."""
    made = await rent(provider, spec(worker_id, "env; echo 'all said'; exec sleep 600", **env))
    log = await printed(provider, made.id, "all said")
    return dict(line.split("=", 1) for line in log.splitlines() if "=" in line)


class ProviderContract:
    """What every provider must do."""

    update_keeps_disk = True
    """Whether what a worker wrote is there after an update; a provider that cannot keep it says so here."""

    async def test_an_offer_can_be_rented_and_shows_up_as_running(self, provider: Provider) -> None:
        made = await rent(provider, spec(7))
        assert made.label == "posthouse-test-7"
        assert await seen_as(provider, made.id, Observation.RUNNING)
        assert [i.label for i in await provider.instances()] == ["posthouse-test-7"]

    async def test_an_offer_counts_down_and_ends_in_offer_taken(self, provider: Provider) -> None:
        offer = (await provider.catalog())[0]
        assert (offer.provider, offer.capabilities) == (provider.name, provider.capabilities)
        assert (offer.price.ready_usd_h > 0, bool(offer.machine), bool(offer.gpu_name)) == (True, True, True)
        for worker_id in range(offer.available):
            assert await available(provider, offer.id) == offer.available - worker_id
            await provider.create(offer.id, spec(worker_id), 1e3)
        assert await available(provider, offer.id) == 0
        for instance in await provider.instances():
            if instance.price is not None:
                assert instance.price.ready_usd_h == pytest.approx(
                    offer.price.ready_usd_h + offer.disk_usd_gb_h * instance.disk_gb
                ), "what it costs is what it was"
        with pytest.raises(OfferTaken):
            await provider.create(offer.id, spec(99), 1e3)
        assert await listed(provider, "posthouse-test-99") is None

    async def test_an_unknown_offer_is_taken(self, provider: Provider) -> None:
        with pytest.raises(OfferTaken):
            await provider.create("no such offer", spec(1), 1e3)
        assert list(await provider.instances()) == []

    async def test_an_offer_that_costs_more_than_one_would_pay_is_taken(self, provider: Provider) -> None:
        offer = (await provider.catalog())[0]
        with pytest.raises(OfferTaken):
            await provider.create(offer.id, spec(1), usd_h(offer, spec(1)) * 0.9)
        assert list(await provider.instances()) == []

    async def test_a_worker_finds_the_environment_of_the_protocol(self, provider: Provider) -> None:
        need(provider, "logs")
        env = await environment(provider, 7, REPORT_ADDR="http://127.0.0.1:1", MASTER_TOKEN="t")
        port = env["WORKER_PORT"]
        assert env["CONTAINER_ID"] == "7"
        assert env["REPORT_ADDR"] == "http://127.0.0.1:1"
        assert env["MASTER_TOKEN"] == "t"
        assert env["MODEL_LOG"]
        address = f"{env['PUBLIC_IPADDR']}:{env[f'VAST_TCP_PORT_{port}']}"
        [made] = await provider.instances()
        assert made.addresses == {address}
        assert env["VAST_TCP_PORT_3000"] == env[f"VAST_TCP_PORT_{port}"]
        assert len({port, env["WORKER_HTTP_PORT"], env["MODEL_PORT"]}) == 3

    async def test_the_listed_address_leads_to_the_worker(self, provider: Provider) -> None:
        rented = await rent(provider, spec(1, 'exec "${PYTHON:-python3}" -m http.server "$WORKER_PORT"'))
        made = await placed(provider, rented)
        [address] = made.addresses
        host, port = address.rsplit(":", 1)

        async def answers() -> bool:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                return False
            writer.close()
            await writer.wait_closed()
            return True

        await eventually(answers)

    async def test_a_stopped_worker_keeps_its_disk_and_resumes_at_the_same_address(self, provider: Provider) -> None:
        need(provider, "stop", "logs")
        made = await rent(
            provider, spec(1, 'echo "port $WORKER_PORT" | tee -a kept; echo "run $(wc -l <kept)."; exec sleep 600')
        )
        first = await printed(provider, made.id, "run 1.")
        made = await placed(provider, made)
        await provider.stop(made.id)
        assert await seen_as(provider, made.id, Observation.HALTED)
        await provider.start(made.id)
        again = await seen_as(provider, made.id, Observation.RUNNING)
        assert again.addresses == made.addresses
        log = await printed(provider, made.id, "run 2.")
        assert len(set(re.findall(r"port \d+", first + log))) == 1

    @pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
    async def test_an_updated_worker_runs_what_it_is_told_now_on_its_disk(
        self, provider: Provider, stopped: bool
    ) -> None:
        need(provider, "update", "stop", "logs")
        made = await rent(provider, spec(1, "echo 1 >>runs; echo old $KIND.; exec sleep 600", KIND="a"))
        await printed(provider, made.id, "old a.")
        made = await placed(provider, made)
        if stopped:
            await provider.stop(made.id)
        updated = await provider.update(
            made.id, spec(1, "echo 2 >>runs; echo new $KIND, runs $(echo $(<runs)).; exec sleep 600", KIND="b")
        )
        assert (updated.id, updated.seen, updated.addresses) == (made.id, Observation.RUNNING, made.addresses)
        before = "1 " if self.update_keeps_disk else ""
        log = await printed(provider, made.id, f"new b, runs {before}2.")
        assert log.count("old a.") == self.update_keeps_disk
        await provider.stop(made.id)
        await provider.start(made.id)
        await printed(provider, made.id, f"new b, runs {before}2 2.")

    async def test_a_port_that_is_new_to_a_worker_is_reached_too(self, provider: Provider) -> None:
        need(provider, "update")
        made = await placed(provider, await rent(provider, spec(1)))
        updated = await provider.update(made.id, replace(spec(1), ports=(3000, 8000)))
        assert made.addresses < updated.addresses
        assert len(updated.addresses) == 2

    async def test_what_cannot_be_run_changes_nothing(self, provider: Provider) -> None:
        need(provider, "update", "stop", "logs")
        made = await rent(provider, spec(1, "echo up $KIND.; exec sleep 600", KIND="a"))
        with pytest.raises(Refused, match="onstart"):
            await provider.update(made.id, spec(1, "echo \0"))
        await printed(provider, made.id, "up a.")
        assert await seen_as(provider, made.id, Observation.RUNNING)
        await provider.stop(made.id)
        await provider.start(made.id)

        async def twice() -> bool:
            return (await provider.logs(made.id, 100)).count("up a.") == 2

        await eventually(twice)

    async def test_what_is_not_there_cannot_be_updated(self, provider: Provider) -> None:
        need(provider, "update")
        with pytest.raises(NotFound):
            await provider.update("posthouse-test-404", spec(404))

    async def test_a_destroyed_worker_is_gone(self, provider: Provider) -> None:
        made = await rent(provider, spec(1))
        await provider.destroy(made.id)
        assert list(await provider.instances()) == []
        if provider.capabilities.stop:
            with pytest.raises(NotFound):
                await provider.start(made.id)

    async def test_every_command_may_be_given_twice(self, provider: Provider) -> None:
        onstart = "echo begun >>runs; echo runs $(wc -l <runs).; exec sleep 600"
        offer = (await provider.catalog())[0]
        made = await provider.create(offer.id, spec(1, onstart), usd_h(offer, spec(1)))
        again = await provider.create(offer.id, spec(1, onstart), usd_h(offer, spec(1)))
        assert again.id == made.id
        assert (await placed(provider, again)).addresses == (await placed(provider, made)).addresses
        assert len(await provider.instances()) == 1
        if provider.capabilities.stop and provider.capabilities.logs:
            await provider.start(made.id)
            await printed(provider, made.id, "runs 1.")
            await provider.stop(made.id)
            await provider.stop(made.id)
            await provider.start(made.id)
            await provider.start(made.id)
            await printed(provider, made.id, "runs 2.")
        await provider.destroy(made.id)
        await provider.destroy(made.id)
        if provider.capabilities.stop:
            await provider.stop(made.id)
        assert list(await provider.instances()) == []

    @pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
    async def test_a_call_whose_answer_nobody_waited_for_may_be_made_again(
        self, provider: Provider, part: float
    ) -> None:
        """Cancelled after a part of its time. An answer that is lost, or too late, is the same to whoever asked."""

        async def given_up(call: Awaitable[object]) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(took_s * part):
                    await call

        began = time.monotonic()
        made = await rent(provider, spec(1))
        took_s = time.monotonic() - began
        await provider.destroy(made.id)
        await given_up(provider.create((await provider.catalog())[0].id, spec(2), 1e3))
        try:
            made = await rent(provider, spec(2))
        except NoAnswer:  # it may be made yet, so it is not made again
            assert len(await provider.instances()) == 0
            made = await rent(provider, spec(3))
        assert made.id in [instance.id for instance in await provider.instances()]
        assert len(await provider.instances()) == 1
        if provider.capabilities.stop:
            await seen_as(provider, made.id, Observation.RUNNING)
            for call, seen in ((provider.stop, Observation.HALTED), (provider.start, Observation.RUNNING)):
                await given_up(call(made.id))
                await call(made.id)
                assert await seen_as(provider, made.id, seen)
        await given_up(provider.destroy(made.id))
        await provider.destroy(made.id)
        assert list(await provider.instances()) == []

    async def test_a_worker_that_ends_by_itself_has_exited(self, provider: Provider) -> None:
        made = await rent(provider, spec(1, "echo no weights here; exit 3"))
        gone = await seen_as(provider, made.id, Observation.EXITED)
        assert "3" in gone.message
        assert "no weights here" in gone.message
        if provider.capabilities.stop:
            await provider.start(made.id)
            assert await seen_as(provider, made.id, Observation.EXITED)

    async def test_logs_are_the_last_lines(self, provider: Provider) -> None:
        need(provider, "logs")
        made = await rent(provider, spec(1, "seq 1 500; echo end; exec sleep 600"))
        await printed(provider, made.id, "end")
        assert await provider.logs(made.id, 3) == "499\n500\nend\n"
        assert await provider.logs(made.id, 0) == ""
        assert await provider.logs("posthouse-test-404", 3) == ""

    @pytest.mark.parametrize(
        "label",
        [
            "..",
            "posthouse-test-../x",
            "/posthouse-test-1",
            "posthouse-test-1\n",
            "posthouse-test-",
            "posthouse-other-1",
            "",
        ],
    )
    async def test_a_label_that_is_not_ours_is_refused(self, provider: Provider, label: str, tmp_path: Path) -> None:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(Refused, match="label"):
            await rent(provider, InstanceSpec(label=label, worker_id=1, image="", onstart=SLEEP, disk_gb=1.0))
        await provider.destroy(label)
        if provider.capabilities.stop:
            with pytest.raises(NotFound):
                await provider.start(label)
            await provider.stop(label)
        if provider.capabilities.logs:
            assert await provider.logs(label, 5) == ""
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize(
        ("onstart", "env", "named"),
        [
            ("echo \0", {}, "onstart"),
            ("echo \ud800", {}, "onstart"),
            ("#" * 100_000, {}, "onstart"),
            (SLEEP, {"A": "x\0y"}, "env"),
            (SLEEP, {"A B": "x"}, "env"),
            (SLEEP, {"BASH_FUNC_ls%%": "() { touch x; }"}, "env"),
            (SLEEP, {"": "x"}, "env"),
            (SLEEP, {"A": "x" * 100_000}, "env"),
        ],
    )
    async def test_what_cannot_be_run_is_refused_by_name(
        self, provider: Provider, onstart: str, env: dict[str, str], named: str
    ) -> None:
        with pytest.raises(Refused, match=named):
            await rent(provider, spec(1, onstart, **env))
        assert list(await provider.instances()) == []

    @pytest.mark.parametrize("ports", [(), (0,), (65_536,), (3000, 3000), tuple(range(1, 18))])
    async def test_ports_that_cannot_be_published_are_refused(self, provider: Provider, ports: tuple[int, ...]) -> None:
        with pytest.raises(Refused, match="ports"):
            await rent(provider, replace(spec(1), ports=ports))

    async def test_every_published_port_is_listed(self, provider: Provider) -> None:
        need(provider, "logs")
        made = await rent(provider, replace(spec(1, "env; echo 'all said'; exec sleep 600"), ports=(3000, 8080)))
        log = await printed(provider, made.id, "all said")
        made = await placed(provider, made)
        outside = [re.search(rf"^VAST_TCP_PORT_{port}=(\d+)$", log, re.MULTILINE) for port in (3000, 8080)]
        host = re.search(r"^PUBLIC_IPADDR=(\S+)$", log, re.MULTILINE)
        assert host
        assert made.addresses == {f"{host[1]}:{found[1]}" for found in outside if found}
        assert len(made.addresses) == 2

    async def test_odd_characters_are_data(self, provider: Provider) -> None:
        need(provider, "logs")
        odd = """ '"; touch pwned; $(touch pwned) `touch pwned` \\ ü 漢 \t*"""
        onstart = f"cat <<'END'\n{odd}\nEND\nprintf '%s\\n' \"$ODD\"\nls; echo end; exec sleep 600\n"
        made = await rent(provider, spec(1, onstart, ODD=odd))
        lines = (await printed(provider, made.id, "end")).splitlines()
        assert lines[:2] == [odd, odd]
        assert "pwned" not in lines


class ContractInShort:
    """What shows that a provider works at all: for `make test`, where the whole contract takes long."""

    update_keeps_disk = ProviderContract.update_keeps_disk
    test_rented = ProviderContract.test_an_offer_can_be_rented_and_shows_up_as_running
    test_counted = ProviderContract.test_an_offer_counts_down_and_ends_in_offer_taken
    test_environment = ProviderContract.test_a_worker_finds_the_environment_of_the_protocol
    test_stopped = ProviderContract.test_a_stopped_worker_keeps_its_disk_and_resumes_at_the_same_address
    test_updated = ProviderContract.test_an_updated_worker_runs_what_it_is_told_now_on_its_disk
    test_ended = ProviderContract.test_a_worker_that_ends_by_itself_has_exited
    test_ports = ProviderContract.test_every_published_port_is_listed
    test_odd = ProviderContract.test_odd_characters_are_data
