"""What the server listens with: its socket, its certificate, and as many connections as files may be open."""

import resource
import socket
import ssl
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from posthouse.app.handover import Inheritance
from posthouse.config import Settings
from posthouse.errors import Refused
from posthouse.hosts import bind_failure, in_url
from posthouse.http1.server import BEYOND
from posthouse.ports import Clock
from posthouse.server.tls import ServerCertificate
from posthouse.signing.authority import Authority

log = structlog.get_logger()

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
"""That our own certificate is for in any case."""
RECEIVE_BYTES = 131_072
"""How much of a request the system buffers before it is read; Linux doubles it. With its own megabytes, callers
without a key would fill its memory and keep the server busy with bytes that it refuses."""
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (read, not listened on)
OWN_FILES = 200
"""How many files the server may have open beside connections: the database, the logs of workers it starts."""


def listen(host: str, port: int, inheritance: Inheritance | None) -> socket.socket:
    """A socket that is bound to the address, or the inherited one if it is. Raises: Refused."""
    try:
        family, _, _, _, (address, *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise Refused(f"server.host: {host!r} is not an address: {error.strerror}") from None
    if inheritance is not None:
        listener.close()
        bound_host, bound_port = inheritance.listener.getsockname()[:2]
        if address != bound_host or port not in (0, bound_port):
            raise Refused(f"server.port: a restart in place cannot change it from {bound_host}:{bound_port}")
        return inheritance.listener
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)  # connections inherit it
        listener.bind((host, port))
        listener.set_inheritable(False)
    except OSError as error:
        listener.close()
        raise Refused(f"server.port: cannot listen on {host}:{port}: {bind_failure(error, '--port')}") from None
    return listener


def url_of(settings: Settings, listener: socket.socket) -> str:
    """The URL at which workers reach the server."""
    if settings.server.port:
        return settings.public_url
    scheme = "http" if settings.server.tls == "off" else "https"
    return f"{scheme}://{in_url(settings.server.host)}:{listener.getsockname()[1]}"


def local_url(settings: Settings, listener: socket.socket) -> str:
    """The URL at which this machine's own processes reach the server."""
    if settings.server.tls == "files":
        return settings.public_url  # whose name is in the certificate
    host, port = listener.getsockname()[:2]
    scheme = "http" if settings.server.tls == "off" else "https"
    return f"{scheme}://{in_url(_ANYWHERE.get(host, host))}:{port}"


def peer_url(settings: Settings, listener: socket.socket) -> str:
    """The URL at which other servers of the installation reach the server."""
    host, port = listener.getsockname()[:2]
    if settings.server.peer_url or host not in _ANYWHERE:
        return settings.server.peer_url or local_url(settings, listener)
    scheme = "http" if settings.server.tls == "off" else "https"
    return f"{scheme}://{in_url(socket.gethostname())}:{port}"


def warn_if_plain(url: str, listener: socket.socket) -> None:
    """Warns where keys and prompts travel unencrypted on an address that others reach."""
    if not url.startswith("https://") and not ip_address(listener.getsockname()[0]).is_loopback:
        log.warning("plain HTTP on an address that others reach: keys and prompts can be read; see server.tls")


def max_connections(wanted: int) -> int:
    """As many connections, or as many as the limit of open files allows, which is raised if it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = int(wanted * BEYOND) + OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        wanted = max(min(wanted, int((soft - OWN_FILES) / BEYOND)), 1)
    return wanted


def names_of(settings: Settings) -> frozenset[str]:
    """What the server is called: the names and addresses of its own certificate."""
    server = settings.server
    urls = [settings.public_url, server.peer_url, *(provider.public_url for provider in settings.providers.values())]
    hosts = {urlsplit(url).hostname or "" for url in urls}
    names = {*(name.strip() for name in server.tls_names.split(",")), server.host, *hosts, *LOCAL_NAMES}
    return frozenset(names - {"", "0.0.0.0", "::"})  # noqa: S104 - nobody calls us by these


def certificate(
    settings: Settings, data_dir: Path, authority: Authority, clock: Clock
) -> tuple[ssl.SSLContext | None, Callable[[], None]]:
    """What the server listens with, None for plain HTTP, and what renews its certificate in time."""
    server = settings.server
    if server.tls == "off":
        return None, lambda: None
    if server.tls == "files":
        given = ServerCertificate(Path(server.tls_certificate).expanduser(), Path(server.tls_key).expanduser())
        return given.context, given.reload_if_changed
    file, names = data_dir / "server.pem", names_of(settings)
    authority.renew(file, names, clock.wall(), begin=True)
    own = ServerCertificate(file, file)

    def renew() -> None:
        authority.renew(file, names, clock.wall())
        own.reload_if_changed()

    return own.context, renew
