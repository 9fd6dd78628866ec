"""What a provider is asked to create."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import pytest

from posthouse import bootstrap
from posthouse.domain.endpoint import AccountId, Endpoint, EndpointId
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Command, Observation
from posthouse.engine.executor import Executor
from posthouse.engine.hub import Hub
from posthouse.errors import Refused
from posthouse.ports import InstanceSpec, RegistryLogin, Store
from posthouse.template import Template, TemplateId, Workergroup
from tests.kit.fleets import GROUP, worker
from tests.kit.shop import Clock, Shop

SECRETS = {
    "HF_TOKEN": "hf",
    "REGISTRY_LOGIN": "ghcr.io robot pass word",
    "REGISTRY_LOGIN_HUB": "docker.io me secret",
}


class Maker(Shop):
    """A provider that notes what it is asked for."""

    async def create(self, offer_id: str, spec: InstanceSpec, max_usd_h: float) -> Instance:
        self.spec, self.max_usd_h = spec, max_usd_h
        return Instance("i", spec.label, Observation.RUNNING)


async def asked(image: str = "ghcr.io/team/model", secrets: Mapping[str, str] = SECRETS, root_pem: str = "") -> Maker:
    """A provider that was asked for a worker of a template with that image."""
    hub, maker = Hub(cast(Store, None), Clock(), {}, "shop", "here", 0.0), Maker()
    hub.templates[TemplateId(1)] = Template(
        TemplateId(1), "hash", "name", image, "v1", env="-e MODE=fast -p 3000:3000 -p 8000:8000", onstart="run"
    )
    hub.put_group(Workergroup(GROUP, EndpointId(1), TemplateId(1), launch_args="--ipc=host", gpu_ram=80.0))
    executor = Executor(
        hub,
        report_url=lambda worker: f"https://{worker.provider}.example/",
        worker_token=lambda worker_id: "token",
        secrets=lambda owner: secrets if owner == AccountId(1) else {},
        root_pem=root_pem,
        most_at_once=1,
        timeout_s=1.0,
        on_answer=lambda provider: None,
    )
    managed = hub.open(Endpoint(EndpointId(1), "llm"))
    await executor._ask_once(managed, maker, replace(worker(), num_gpus=8), Command.RENT)
    return maker


async def test_all_that_is_stored_reaches_the_provider() -> None:
    maker = await asked()
    assert maker.spec == InstanceSpec(
        label="test-1",
        worker_id=1,
        image="ghcr.io/team/model:v1",
        onstart=bootstrap.FIND_KEY + "run",
        disk_gb=10.0,
        env={
            "HF_TOKEN": "hf",
            "MODE": "fast",
            "REPORT_ADDR": "https://worker:token@sim.example/w/token",
            "MASTER_TOKEN": "token",
            "USE_SSL": "false",
            "PYTHON": "python3",
        },
        ports=(3000, 8000),
        num_gpus=8,
        gpu_ram_gb=80.0,
        launch_args="--ipc=host",
        registry=RegistryLogin("ghcr.io", "robot", "pass word"),
    )
    assert maker.max_usd_h == pytest.approx(1.2)
    assert maker.max_usd_h >= 1.2
    assert "pass word" not in repr(maker.spec)


@pytest.mark.parametrize(
    ("image", "host"),
    [
        ("model", "docker.io"),
        ("team/model", "docker.io"),
        ("docker.io/team/model", "docker.io"),
        ("ghcr.io/team/model", "ghcr.io"),
        ("quay.io/team/model", None),
        ("localhost:5000/model", None),
    ],
)
async def test_a_login_is_for_its_own_registry_alone(image: str, host: str | None) -> None:
    login = (await asked(image)).spec.registry
    assert (login and login.host) == host


async def test_a_login_that_is_none_is_refused_without_its_value() -> None:
    with pytest.raises(Refused, match="must be HOST USER PASSWORD") as refused:
        await asked(secrets={"REGISTRY_LOGIN": "swordfish"})
    assert "swordfish" not in str(refused.value)


async def test_a_server_with_a_root_of_its_own_has_it_trusted_first() -> None:
    spec = (await asked(root_pem="PEM")).spec
    assert spec.onstart.endswith("\nrun")
    assert "POSTHOUSE_ROOT" in spec.onstart
    assert spec.env["POSTHOUSE_ROOT"] == "UEVN"
