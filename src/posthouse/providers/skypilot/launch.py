"""What a cluster is told to run: first to keep the worker's script, later, once it is known where it is, to run it."""

import base64
import json
import math
import shlex
from collections.abc import Mapping
from typing import Any, Final

from posthouse import bootstrap
from posthouse.ports import InstanceSpec
from posthouse.providers.skypilot.listing import Machine

MIN_DISK_GB: Final = 50
INNER_PORTS: Final = range(18_288, 18_320)
KEEP, RUN = "posthouse-keep", "posthouse-run"
"""Names of the jobs."""
PLACE: Final = "$HOME/.posthouse"
MARK: Final = "posthouse: onstart has ended with exit code"
WAIT_AND_RUN: Final = f"""\
for _ in $(seq 120); do [ -e "{PLACE}/onstart" ] && break; sleep 0.5; done
cd "{PLACE}" || exit 126
if command -v flock >/dev/null; then exec 9>lock; flock -n 9 || {{ echo "it runs already"; exit 0; }}; fi
export MODEL_LOG="$PWD/model.log"
bash ./onstart 9>&-; code=$?
echo "{MARK} $code"
exit $code
"""
"""The two jobs may run at the same time, so this one waits for what the other one puts there. Where an answer was lost
it may be told to run again: the second one leaves."""


def keeping(spec: InstanceSpec, machine: Machine, image: str) -> str:
    """The task of a launch, as YAML (which JSON is)."""
    infra = "/".join(filter(None, (machine.cloud, machine.region)))
    resources: dict[str, Any] = {
        "infra": infra,
        **({"instance_type": machine.instance_type} if machine.instance_type else {}),
        "accelerators": {machine.gpu: machine.count},
        "use_spot": machine.spot,
        "ports": [str(port) for port in spec.ports],
        "disk_size": max(MIN_DISK_GB, math.ceil(spec.disk_gb)),
        **({"image_id": f"docker:{spec.image or image}"} if spec.image or image else {}),
    }
    packed = base64.b64encode(_script(spec).encode()).decode()
    run = (
        f'mkdir -p "{PLACE}" && chmod 700 "{PLACE}" && cd "{PLACE}" && echo {packed} | base64 -d >new && mv new onstart'
    )
    return json.dumps({"name": KEEP, "resources": resources, "envs": _login(spec), "run": run})


def running(worker_id: int, places: Mapping[int, str]) -> str:
    """The task that runs it. `places`: where each port is reached, `host:port`."""
    host = next(iter(places.values())).rpartition(":")[0]
    reached = {port: int(place.rpartition(":")[2]) for port, place in places.items()}
    first = next(iter(places))
    free = [port for port in INNER_PORTS if port not in places]
    given = bootstrap.variables(worker_id, host, reached, first, (free[0], free[1]), listen_host="0.0.0.0")  # noqa: S104
    usual = ("WORKER_PORT", "WORKER_HTTP_PORT", "MODEL_PORT")
    lines = [f"export {name}={shlex.quote(text)}" for name, text in given.items() if name not in usual]
    lines += [f'export {name}="${{{name}:-{given[name]}}}"' for name in usual]
    lines += [f'export "VAST_TCP_PORT_$WORKER_PORT={reached[first]}"', WAIT_AND_RUN]
    return json.dumps({"name": RUN, "run": "\n".join(lines)})


def _script(spec: InstanceSpec) -> str:
    return "\n".join([*(f"export {name}={shlex.quote(text)}" for name, text in spec.env.items()), spec.onstart]) + "\n"


def _login(spec: InstanceSpec) -> dict[str, str]:
    """What SkyPilot reads a registry's login from."""
    login = spec.registry
    named = {} if login is None else {"USERNAME": login.user, "PASSWORD": login.password, "SERVER": login.host}
    return {f"SKYPILOT_DOCKER_{name}": text for name, text in named.items()}
