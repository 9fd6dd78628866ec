"""One machine that is there anyway, reached by a command such as `ssh gpu-box bash`. It takes one worker at a time.

What it has is there, so nothing is lost when the server dies. It neither keeps a stopped worker's disk nor updates it.
"""

import asyncio
import shlex
from collections.abc import Sequence
from typing import Self

from pydantic import Field

from posthouse import bootstrap
from posthouse.config import ProviderSettings
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Observation
from posthouse.domain.offer import Capabilities, Offer, Price
from posthouse.errors import OfferTaken
from posthouse.ports import InstanceSpec
from posthouse.providers.plugin import BaseProvider, Context

LIST = """cd {root} 2>/dev/null || exit 0
for d in posthouse-*; do [ -e "$d/ports" ] || continue; state=exited
  [ -e "$d/pid" ] && kill -0 -- "-$(cat "$d/pid")" 2>/dev/null && state=running
  printf '%s\\t%s\\t%s\\t%s\\t%s\\t%s\\n' "$d" "$state" "$(cat "$d/ports")" "$(cat "$d/exit_code" 2>/dev/null)" \
    "$(wc -c <"$d/output.log")" "$(tail -c 400 "$d/output.log" | tail -n 1 | tr '\\t\\r' '  ')"
done"""

CREATE = """set -e; mkdir -p {root}; cd {root}; rm -rf .new; mkdir -m 700 .new
printf %s {script} >.new/run.sh; printf %s {onstart} >.new/onstart.sh; echo {ports} >.new/ports
touch .new/output.log; mv .new {label}; cd {label}
setsid nohup bash run.sh >output.log 2>&1 </dev/null & echo $! >pid"""

RUN = '{exports}\nexport MODEL_LOG="$PWD/model.log"\nbash onstart.sh; echo $? >exit_code'

DESTROY = """cd {root} 2>/dev/null || exit 0
[ -e {label}/pid ] && kill -KILL -- "-$(cat {label}/pid)" 2>/dev/null; rm -rf {label}"""


class FixedSettings(ProviderSettings):
    """One machine that is there anyway."""

    shell: str = Field("bash", min_length=1, description="Command that runs a shell there, such as `ssh gpu-box bash`.")
    host: str = Field("127.0.0.1", min_length=1, description="Address at which clients reach it.")
    first_port: int = Field(3000, ge=1, le=65_000, description="First of 18 ports for its worker.")
    root: str = Field("posthouse-workers", min_length=1, description="Directory there for workers.")
    gpu_name: str = Field("CPU", min_length=1, description="What searches find it by, such as `RTX 4090`.")
    num_gpus: int = Field(0, ge=0, le=64, description="How many of them it has.")
    usd_h: float = Field(0.0, ge=0, le=1e4, description="What it costs, in US dollars per hour.")


class FixedProvider(BaseProvider):
    Settings = FixedSettings
    capabilities = Capabilities(stop=False, update=False)

    @classmethod
    async def open(cls, settings: FixedSettings, context: Context) -> Self:
        return cls(settings, context)

    def __init__(self, settings: FixedSettings, context: Context) -> None:
        self.name, self._settings = context.name, settings
        self._label = bootstrap.labels(context.installation)
        self._creating = asyncio.Lock()

    async def catalog(self) -> Sequence[Offer]:
        s, free = self._settings, not await self.instances()
        price = Price(s.usd_h, s.usd_h)
        return [Offer("machine", self.name, s.host, price, s.gpu_name, s.num_gpus, int(free), self.capabilities)]

    async def create(self, offer_id: str, spec: InstanceSpec, max_usd_h: float) -> Instance:
        bootstrap.check(spec, self._label)
        return await asyncio.shield(self._create(offer_id, spec, max_usd_h))

    async def _create(self, offer_id: str, spec: InstanceSpec, max_usd_h: float) -> Instance:
        async with self._creating:
            found = {i.label: i for i in await self.instances()}
            if spec.label not in found:
                if offer_id != "machine" or found or self._settings.usd_h > max_usd_h:
                    raise OfferTaken(f"{self.name}: its one place is taken, or costs more than {max_usd_h:g} $/h")
                await self._start(spec)
        return next(i for i in await self.instances() if i.label == spec.label)

    async def _start(self, spec: InstanceSpec) -> None:
        first = self._settings.first_port
        ports = {inner: first + n for n, inner in enumerate(spec.ports)}
        own = bootstrap.variables(spec.worker_id, self._settings.host, ports, first, (first + 16, first + 17))
        exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in {**spec.env, **own}.items())
        outer = ",".join(map(str, ports.values()))
        await self._run(CREATE, spec.label, script=RUN.format(exports=exports), onstart=spec.onstart, ports=outer)

    async def instances(self) -> Sequence[Instance]:
        rows = (line.split("\t", 5) for line in (await self._run(LIST)).splitlines())
        return [self._instance(*row) for row in rows if self._label.fullmatch(row[0])]

    def _instance(self, label: str, state: str, ports: str, code: str, size: str, last: str) -> Instance:
        why = "" if state == "running" else f"ended with exit code {code}; last line: {last}"
        addresses = frozenset(f"{self._settings.host}:{port}" for port in ports.split(","))
        return Instance(label, label, Observation(state), addresses, progress=f"{size} bytes of log", message=why)

    async def destroy(self, instance_id: str) -> None:
        if self._label.fullmatch(instance_id):
            await self._run(DESTROY, instance_id)

    async def logs(self, instance_id: str, tail: int) -> str:
        known = self._label.fullmatch(instance_id) and tail > 0
        return await self._run(f"tail -n {tail} {{root}}/{{label}}/output.log || true", instance_id) if known else ""

    async def _run(self, order: str, label: str = "", **texts: str) -> str:
        """What a shell there prints. Raises: OSError if it fails, and nobody knows what became of it."""
        texts |= {"root": self._settings.root, "label": label}
        order = order.format(**{name: shlex.quote(text) for name, text in texts.items()})
        return await asyncio.shield(self._shell(order))  # asyncio may hang where it is cancelled as it starts a process

    async def _shell(self, order: str) -> str:
        pipe = asyncio.subprocess.PIPE
        shell = await asyncio.create_subprocess_shell(self._settings.shell, stdin=pipe, stdout=pipe, stderr=pipe)
        said, wrong = await shell.communicate(order.encode())
        if shell.returncode:
            raise OSError(f"{self.name}: {wrong.decode(errors='replace')[-300:]}")
        return said.decode(errors="replace")
