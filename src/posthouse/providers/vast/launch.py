"""What an instance is told to run.

The market limits its start script to 4048 characters and builds a command line of the environment. So the script and
the variables travel packed in one variable, which a small shell in front unpacks: nothing in them is read on the way.
The container is what this shell runs, so that it ends when onstart does. It goes where the template's image has no
/workspace of its own, too, and puts what the model logs among what it prints.
"""

import base64
import gzip
import ipaddress
import re
import shlex
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from posthouse import bootstrap
from posthouse.errors import Refused
from posthouse.ports import InstanceSpec
from posthouse.providers.vast.settings import VastSettings

PACKED: Final = "POSTHOUSE_ONSTART"
MAX_PACKED_BYTES: Final = 120_000
"""Linux takes no longer variable than 128 KiB."""
MIN_DISK_GB: Final = 8.0
INNER_PORTS: Final = range(18_288, 18_320)
"""For what stays inside a container."""
MARK: Final = "posthouse: onstart has ended with exit code"
"""What the last line of a worker begins with that has ended by itself."""
BOOT: Final = f"""\
cd "${{WORKSPACE:=/workspace}}" 2>/dev/null || {{ mkdir -p "$WORKSPACE" && cd "$WORKSPACE"; }}
printf %s "${PACKED}" | base64 -d | gunzip >.onstart || exit 126
: >>model.log; tail -n 0 -F model.log 2>/dev/null & log=$!
shell=sh; command -v bash >/dev/null && shell=bash
$shell .onstart & child=$!
trap 'kill -TERM $child' TERM INT
wait $child; code=$?
while kill -0 $child 2>/dev/null; do wait $child; code=$?; done
kill $log
echo "{MARK} $code"
exit $code
"""


def body(spec: InstanceSpec, settings: VastSettings, bid_usd_h: float) -> dict[str, Any]:
    """The body of the call that rents. `bid_usd_h`: 0 on demand. Raises: Refused for what cannot be run there."""
    return {
        "client_id": "me",
        "label": spec.label,
        "disk": max(MIN_DISK_GB, spec.disk_gb),
        "cancel_unavail": True,
        "target_state": "running",
        **({"price": round(bid_usd_h, 6)} if bid_usd_h else {}),
        **({"image_login": _login(spec)} if spec.registry else {}),
        **_template(spec),
        **runs(spec, settings),
    }


def runs(spec: InstanceSpec, settings: VastSettings) -> dict[str, Any]:
    """The part of it that an update changes, too. Raises: Refused."""
    image = spec.image or settings.image
    if not image and not _template(spec):
        raise Refused("image: its template names none, and neither does providers.NAME.image")
    packed = base64.b64encode(gzip.compress(_script(spec).encode(), mtime=0)).decode()
    if len(packed) > MAX_PACKED_BYTES:
        raise Refused(f"onstart: with env it has {len(packed)} bytes packed, at most {MAX_PACKED_BYTES} are allowed")
    return {
        **({"image": image} if image else {}),
        "env": {**{f"-p {port}:{port}": "1" for port in spec.ports}, PACKED: packed},
        "runtype": "args",
        "onstart": "sh",  # with `args` it is what the container runs instead of the image's own
        "args": ["-c", BOOT],
    }


def unreachable(report_url: str, settings: VastSettings, name: str) -> str:
    """Why instances of a market elsewhere cannot report there; empty if they may, and if that is not known."""
    host = urlsplit(report_url).hostname or ""
    if not host or not _is_private(host) or _is_private(urlsplit(settings.url).hostname or ""):
        return ""
    return (
        f"public_url: instances of provider {name} cannot reach {host}; set public_url, or "
        f"providers.{name}.public_url, to an address that the internet reaches"
    )


def _is_private(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == "localhost" or host.endswith((".local", ".localhost", ".internal"))


def _script(spec: InstanceSpec) -> str:
    """What is run: the variables, and onstart.

    Where an instance is, its market says in variables of the protocol's names. What listens inside is at the ports of
    the container, unless the environment names others.
    """
    first, *_ = spec.ports
    free = [port for port in INNER_PORTS if port not in spec.ports]
    inside = bootstrap.variables(spec.worker_id, "", {first: first}, first, (free[0], free[1]))
    defaults = {name: inside[name] for name in ("WORKER_PORT", "WORKER_HTTP_PORT", "MODEL_PORT")}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in spec.env.items()]
    lines += [f'export {name}="${{{name}:-{value}}}"' for name, value in defaults.items()]
    lines += [f"export CONTAINER_ID={spec.worker_id}", 'export MODEL_LOG="$PWD/model.log"', f"unset {PACKED}"]
    return "\n".join([*lines, spec.onstart]) + "\n"


def _template(spec: InstanceSpec) -> Mapping[str, str]:
    """The market's own template that the workergroup's `launch_args` name; what our template says comes first."""
    try:
        words = shlex.split(spec.launch_args)
    except ValueError as error:
        raise Refused(f"launch_args: {str(error).lower()}") from None
    for word, following in zip(words, [*words, ""][1:], strict=True):
        flag, _, joined = word.partition("=")
        if flag in ("--template_hash", "--template-hash"):
            found = joined or following
            if not re.fullmatch(r"[0-9a-fA-F]{1,64}", found):
                raise Refused("launch_args: --template_hash must be followed by the hash of a template")
            return {"template_hash_id": found}
    return {}


def _login(spec: InstanceSpec) -> str:
    assert spec.registry is not None
    login = spec.registry
    return f"-u {shlex.quote(login.user)} -p {shlex.quote(login.password)} {shlex.quote(login.host)}"
