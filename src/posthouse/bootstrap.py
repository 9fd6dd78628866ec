"""What every instance is given at its start, whatever its provider: the script, and the protocol's variables.

The engine makes the spec with `script`; a provider checks it with `check`, and adds `variables` once it knows where the
instance is reached.
"""

import re
from base64 import b64encode
from collections.abc import Mapping

from posthouse.errors import Refused
from posthouse.ports import InstanceSpec

DEFAULT_PORT = 3000
"""The port that a worker listens on inside its instance, where its template publishes none."""

MAX_ENV_BYTES = 2**16
"""Largest environment of a template. Linux refuses single strings from 128 KiB on."""

MAX_ONSTART_BYTES = 2**16
"""Largest onstart text. The protocol's own marketplace allows 4048 characters."""

MAX_PORTS = 16
"""Most published ports of an instance."""

TRUST_ROOT = """\
# The server's root certificate, beside those that are trusted here already.
{ cat "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" /etc/pki/tls/certs/ca-bundle.crt 2>/dev/null
echo "$POSTHOUSE_ROOT" | base64 -d; } >"${TMPDIR:-/tmp}/roots.pem"
export SSL_CERT_FILE="${TMPDIR:-/tmp}/roots.pem" REQUESTS_CA_BUNDLE="${TMPDIR:-/tmp}/roots.pem"
"""
"""In front of a template's onstart: OpenSSL, and so curl and Python, read the first variable, `requests` the second."""

FIND_KEY = """\
# Workers of before November 2025 have a fixed address for the key that verifies requests: here curl asks this server.
mkdir -p "${TMPDIR:-/tmp}/posthouse" && cat >"${TMPDIR:-/tmp}/posthouse/curl" <<END
#!/bin/sh
for word; do shift
case "\\$word" in https://run.vast.ai/pubkey/) word="\\$REPORT_ADDR/pubkey/" ;; esac
set -- "\\$@" "\\$word"
done
exec "$(command -v curl || echo /usr/bin/curl)" "\\$@"
END
chmod +x "${TMPDIR:-/tmp}/posthouse/curl"
export PATH="${TMPDIR:-/tmp}/posthouse:$PATH"
"""
"""Likewise. Every other call of curl is what it was."""


def script(onstart: str, root_pem: str) -> tuple[str, dict[str, str]]:
    """What is run at every start, and the variables that it needs.

    `root_pem`: the root of the server's certificate, which a worker must trust to report; empty where each does.
    """
    onstart = onstart.replace("\r\n", "\n")  # editors of other systems end lines so, and bash would take \r for text
    if not root_pem:
        return FIND_KEY + onstart, {}
    return TRUST_ROOT + FIND_KEY + onstart, {"POSTHOUSE_ROOT": b64encode(root_pem.encode()).decode()}


def with_token(url: str, token: str) -> str:
    """Return the server's address as a worker is given it, with its token twice: in the path, and as a password.

    Most workers append to the address, which keeps the path. Those of September 2024 to June 2025 join it with an
    absolute path, which keeps the host's part alone: their HTTP client sends its password as `Authorization: Basic`.
    """
    scheme, _, rest = url.rstrip("/").partition("://")
    return f"{scheme}://worker:{token}@{rest}/w/{token}"


def variables(
    worker_id: int,
    host: str,
    ports: Mapping[int, int],
    listen_port: int | None = None,
    inner_ports: tuple[int, int] = (18_288, 18_289),
    model_log: str = "model.log",
    url: str = "",
    listen_host: str = "",
) -> dict[str, str]:
    """The variables that tell a worker where it is, and its template what to use.

    `ports`: port inside the instance, and where on `host` it is reached; the first one is the worker's own.
    `listen_port`: where the worker listens, if that is not the first of `ports`. `inner_ports`: free ones for what
    stays inside, plain HTTP and the model server. `model_log`: where the template writes what its model prints.
    `url`: where clients reach it, if that is behind a tunnel or an ingress. `listen_host`: what it listens on, if that
    does not follow from where it is reached, as where ports are published.
    """
    inner, outer = next(iter(ports.items()))
    listen_port = listen_port or inner
    return {
        "CONTAINER_ID": str(worker_id),
        "PUBLIC_IPADDR": host,
        **{f"VAST_TCP_PORT_{port}": str(reached) for port, reached in {**ports, listen_port: outer}.items()},
        "WORKER_PORT": str(listen_port),
        "WORKER_HTTP_PORT": str(inner_ports[0]),
        "MODEL_PORT": str(inner_ports[1]),
        "MODEL_LOG": model_log,
        **({"POSTHOUSE_WORKER_URL": url} if url else {}),
        **({"POSTHOUSE_LISTEN_HOST": listen_host} if listen_host else {}),
    }


def labels(installation: str) -> re.Pattern[str]:
    """What every label of an installation matches, whole. Raises: Refused for a name that no label could carry."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", installation):
        raise Refused(f"installation: {installation!r} may only have letters, digits and _.- and 64 characters")
    return re.compile(rf"posthouse-{re.escape(installation)}-[0-9]{{1,19}}")


def check(spec: InstanceSpec, label: re.Pattern[str]) -> None:
    """Raises: Refused, by the name of the field, if the spec cannot be run as it stands."""
    if not label.fullmatch(spec.label):
        raise Refused(f"label: {spec.label!r} must match {label.pattern}")
    for name, value in spec.env.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise Refused(f"env: {name!r} is no name for a variable; letters, digits and _ are allowed")
        if not _plain(value):
            raise Refused(f"env: the value of {name} has a NUL or is no Unicode text")
    if not _plain(spec.onstart):
        raise Refused("onstart: has a NUL or is no Unicode text")
    if sum(len(name.encode()) + len(value.encode()) for name, value in spec.env.items()) > MAX_ENV_BYTES:
        raise Refused(f"env: more than {MAX_ENV_BYTES} bytes")
    if len(spec.onstart.encode()) > MAX_ONSTART_BYTES:
        raise Refused(f"onstart: more than {MAX_ONSTART_BYTES} bytes")
    legal = all(0 < port < 65_536 for port in spec.ports)
    if not legal or not 1 <= len(set(spec.ports)) == len(spec.ports) <= MAX_PORTS:
        raise Refused(f"ports: {spec.ports} must be 1 to {MAX_PORTS} different ports from 1 to 65535")


def _plain(text: str) -> bool:
    """True if an operating system can take the text as it is."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False
