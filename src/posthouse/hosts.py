"""Hosts and ports: how a host is written in a URL, and what is this machine's."""

import errno
import os
import socket
from ipaddress import ip_address


def in_url(host: str) -> str:
    """The host as URLs and `host:port` have it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def bind_failure(error: OSError, chooses: str = "") -> str:
    """Why an address cannot be listened on. `chooses`: what chooses another port, where this one is taken."""
    if error.errno != errno.EADDRINUSE:
        return error.strerror or str(error)
    return os.strerror(errno.EADDRINUSE) + (f"; {chooses} chooses another port" if chooses else "")


def is_loopback(host: str) -> bool:
    """Whether an address or a name is that of the machine that asks for it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_free(port: int) -> bool:
    """True if nothing on this machine has the port, on any address."""
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
