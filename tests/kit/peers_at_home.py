"""Runs tests where the service's names are this machine: unmodified peers find Posthouse with all their defaults.

    python -m tests.kit.peers_at_home DIRECTORY PYTEST_ARGUMENT...

Must run in mount and network namespaces of its own: nothing of the internet is reached there, nor anything changed that
others see. DIRECTORY has the authority that SSL_CERT_FILE and PEERS_AUTHORITY_DIR name; see `live.py` for what follows.
"""

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import certifi

AUTHORITY_DIR = os.environ.get("PEERS_AUTHORITY_DIR", "")
"""Where the authority is that every program here trusts. Set only for this program: where it runs tests, the
server has its own port and names, and all its peers have all their defaults."""
NAMES = ("console.vast.ai", "run.vast.ai")


def enter(directory: Path) -> None:
    """Gives this mount namespace an /etc of its own, in which the service is here, and brings up its loopback.

    The command line trusts the authorities that come with it and no other. So the one here is put among them, as that
    of a server with a publicly trusted certificate is.
    """
    etc = directory / "etc"
    shutil.rmtree(etc, ignore_errors=True)
    shutil.copytree("/etc", etc, symlinks=True, ignore_dangling_symlinks=True)
    (etc / "hosts").unlink()
    (etc / "hosts").write_text(f"127.0.0.1 localhost {' '.join(NAMES)}\n")
    subprocess.run(["mount", "--bind", etc, "/etc"], check=True)
    trusted = directory / "trusted.pem"
    own = Path(AUTHORITY_DIR, "authority.cer").read_text()
    trusted.write_text(Path(certifi.where()).read_text() + own)
    subprocess.run(["mount", "--bind", trusted, certifi.where()], check=True)
    with socket.socket() as any_socket:
        up = struct.pack("16sh14x", b"lo", 1)  # IFF_UP, as in linux/if.h
        fcntl.ioctl(any_socket, 0x8914, up)  # SIOCSIFFLAGS, as in linux/sockios.h


if __name__ == "__main__":
    enter(Path(sys.argv[1]))
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *sys.argv[2:]])
