"""The `Provider` port on boxes."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncssh

from posthouse import bootstrap
from posthouse.domain.instance import Instance
from posthouse.domain.offer import Capabilities, Offer
from posthouse.errors import NotFound, OfferTaken, PosthouseError, Refused, Unavailable
from posthouse.ports import InstanceSpec
from posthouse.providers.plugin import Context
from posthouse.providers.ssh.box import RETRY_S, Box
from posthouse.providers.ssh.known import Known
from posthouse.providers.ssh.settings import Host, SshSettings

if TYPE_CHECKING:  # an extra of its own
    from posthouse.providers.ssh.engine import Engine

MAX_TROUBLES: Final = 10
"""Most that are said at once."""


class SshProvider:
    """The `Provider` port on boxes. An instance's id is its label; which box it is on is noted before it is made."""

    def __init__(self, settings: SshSettings, context: Context) -> None:
        """Raises: Refused for a key that cannot be used, or an installation that no label could carry."""
        self.name = context.name
        self.capabilities = Capabilities()
        self._label = bootstrap.labels(context.installation)
        hosts = settings.hosts
        keys = {path: _key(path, f"providers.{context.name}.hosts") for path in {host.key_file for host in hosts}}
        self._boxes = {
            host.name: Box(host, keys[host.key_file], settings, context, _engine(host, settings, context))
            for host in hosts
        }
        self._known = Known(context.data_dir / f"ssh-{context.name}.json", self._boxes)

    async def catalog(self) -> Sequence[Offer]:
        """Free slots of the boxes that can be reached."""
        found = await asyncio.gather(*(box.catalog() for box in self._boxes.values()))
        return [offer for offers in found for offer in offers]

    async def instances(self) -> Sequence[Instance]:
        """Everything of this installation. What is on a box that does not answer is listed as it was last seen.

        Raises: Unavailable if such a box was never seen.
        """
        lists = await asyncio.gather(*(self._listed(box) for box in self._boxes.values()))
        return list({i.label: i for found in lists for i in found}.values())

    async def create(self, offer_id: str, spec: InstanceSpec, max_usd_h: float) -> Instance:
        """The instance, started. One that has the label already is returned as it is, on whatever box.

        Raises: OfferTaken, Refused for a spec that cannot be run; Busy, after which nothing was made.
        """
        bootstrap.check(spec, self._label)
        name, _, own_id = offer_id.partition("/")
        before = self._known.box_of(spec.label)
        box = self._boxes.get(before or name)
        if box is None:
            raise OfferTaken(f"{offer_id}: there is no box {name!r}")
        self._known.begin(box.name, spec.label)
        try:
            made = await box.create(own_id, replace(spec, registry=None), max_usd_h)
            self._known.place(box.name, made)
        except Unavailable as error:
            if before:  # by a call whose answer was lost, perhaps
                raise ConnectionError(str(error)) from error
            self._known.forget(box.name, spec.label)
            raise
        except PosthouseError:
            if not before:
                self._known.forget(box.name, spec.label)
            raise
        finally:
            self._known.end(spec.label)
        return made

    async def start(self, instance_id: str) -> None:
        """Raises: NotFound; Busy while no slot is free there, and while its disk is nearly full."""
        await (await self._box_with(instance_id)).ask("start", instance_id)

    async def update(self, instance_id: str, spec: InstanceSpec) -> Instance:
        """Raises: NotFound, Refused for a spec that cannot be run; Busy."""
        bootstrap.check(spec, self._label)
        return await (await self._box_with(instance_id)).update(instance_id, replace(spec, registry=None))

    async def stop(self, instance_id: str) -> None:
        if (box := await self._box_of(instance_id)) is not None:
            await box.ask("stop", instance_id)

    async def destroy(self, instance_id: str) -> None:
        """Raises: Unavailable while its box cannot be reached, Busy if processes outlive SIGKILL."""
        if (box := await self._box_of(instance_id)) is not None:
            await box.ask("destroy", instance_id)
            self._known.forget(box.name, instance_id)

    async def logs(self, instance_id: str, tail: int) -> str:
        """The last lines that it printed, also of one that is gone, for a day."""
        if not self._label.fullmatch(instance_id) or tail < 1:
            return ""
        known = self._known.box_of(instance_id)
        boxes = [self._boxes[known]] if known else list(self._boxes.values())
        found: list[Any] = await asyncio.gather(
            *(box.ask("logs", instance_id, tail) for box in boxes), return_exceptions=not known
        )
        return next((text for text in found if isinstance(text, str) and text), "")

    def troubles(self) -> list[str]:
        """What is wrong with boxes: each that cannot be reached or takes no worker, and why."""
        return [text for box in self._boxes.values() for text in box.troubles()][:MAX_TROUBLES]

    async def close(self) -> None:
        await asyncio.gather(*(box.close() for box in self._boxes.values()))

    async def _listed(self, box: Box) -> Sequence[Instance]:
        """What a box has, or had when it was last seen. Raises: Unavailable if it never was."""
        try:
            return await self._seen(box)
        except Exception as error:  # the seam of a box: whatever it does, the others are listed
            before = self._known.listed(box.name)
            if before is None:
                raise Unavailable(f"{error}; it was never seen, so what is there is unknown", RETRY_S) from error
            return before

    async def _seen(self, box: Box) -> Sequence[Instance]:
        found = await box.instances()
        # A label is on one box alone: what another says of it is not believed.
        own = [i for i in found if self._label.fullmatch(i.label) and self._known.box_of(i.label) in ("", box.name)]
        self._known.see(box.name, own)
        return own

    async def _box_of(self, instance_id: str) -> Box | None:
        """The box that an instance is on; None if it is nowhere. Raises: Unavailable if a box cannot be asked."""
        if not self._label.fullmatch(instance_id):
            return None
        if not self._known.box_of(instance_id):
            await asyncio.gather(*map(self._seen, self._boxes.values()))
        name = self._known.box_of(instance_id)
        return self._boxes[name] if name else None

    async def _box_with(self, instance_id: str) -> Box:
        """Raises: NotFound if it is nowhere; Unavailable."""
        if (box := await self._box_of(instance_id)) is None:
            raise NotFound(f"instance {instance_id!r} is on no box")
        return box


def _engine(host: Host, settings: SshSettings, context: Context) -> "Engine | None":
    """The box's container engine, where its workers are containers. Raises: Refused without the extra."""
    if not host.engine:
        return None
    try:
        from posthouse.providers.ssh.engine import Engine
    except ModuleNotFoundError as error:
        raise Refused(
            f"providers.{context.name}.hosts: `engine` needs {error.name}; run: pip install 'posthouse[ssh,docker]'"
        ) from error
    return Engine(host, settings, context)


def _key(path: Path, where: str) -> asyncssh.SSHKey:
    """A private key. Raises: Refused."""
    try:
        return asyncssh.read_private_key(path.expanduser())
    except (OSError, asyncssh.KeyImportError) as error:
        raise Refused(f"{where}: key_file {path} cannot be used: {error}") from error
