"""A real sshd for tests, with keys, a port and a configuration of its own, as a child of the test.

It needs its program: on Debian the package `openssh-server`. Whoever runs the tests is the user that it lets in.
"""

import getpass
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.kit.container_engines import ip, listens, wait_for
from tests.kit.ports import free_port

NETWORK, OUTSIDE, INSIDE = "posthouse-ssh", "10.213.78.1", "10.213.78.2"

CONFIG = """
ListenAddress {address}
Port {port}
HostKey {folder}/rsa_key
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100:30:200
"""


def sshd() -> str:
    """The program; skips the test where it is not installed."""
    found = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None or shutil.which("ssh-keygen") is None:
        pytest.skip("a real sshd is needed; on Debian: apt-get install openssh-server")
    return found


@dataclass
class SshServer:
    """An sshd that can be ended and started again.

    `inside`: what its command is run by, such as a network's own. `config`: further lines of its configuration.
    """

    folder: Path
    address: str = "127.0.0.1"
    config: str = ""
    inside: tuple[str, ...] = ()
    port: int = 0
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.program = sshd()
        self.folder.mkdir(parents=True)
        self.new_key("rsa_key", "rsa")  # as every box has one, too
        self.new_key("host_key")
        self.new_key("user_key")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        if not self.port:
            self.port = free_port(self.address)
        config = CONFIG.format(address=self.address, port=self.port, folder=self.folder)
        (self.folder / "config").write_text(f"{config}{self.config}\n")

    def new_key(self, name: str, kind: str = "ed25519") -> None:
        (self.folder / name).unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", self.folder / name], check=True)

    def start(self) -> None:
        log = self.folder / "log"
        command = [*self.inside, self.program, "-D", "-e", "-f", str(self.folder / "config")]
        with log.open("ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        process = self.process
        wait_for(lambda: listens(f"{self.address}:{self.port}") or process.poll() is not None, log)
        assert process.poll() is None, log.read_text()[-600:]

    def kill(self) -> None:
        """Ends it with every connection at once, and nothing that was started over them."""
        if self.process is None:
            return
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        for child in children:
            with suppress(psutil.NoSuchProcess):  # it ended with its connection
                if child.name().startswith("sshd"):
                    child.kill()
                    child.wait()
        self.process = None

    @property
    def fingerprint(self) -> str:
        command = ["ssh-keygen", "-lf", str(self.folder / "host_key.pub")]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[1]

    def host(self, **table: Any) -> dict[str, Any]:
        """A table of `hosts` for it."""
        own = {"name": "a", "address": self.address, "port": self.port, "user": getpass.getuser()}
        keys = {"key_file": str(self.folder / "user_key"), "host_key": self.fingerprint}
        return own | keys | {"slots": 4, "ready_usd_h": 0.1} | table


@contextmanager
def network_of_its_own() -> Iterator[tuple[str, tuple[str, ...]]]:
    """A network beside this machine's, as a box has one: its address, and what runs a command in it.

    Skips the test where none can be made.
    """
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("a network of its own needs root and `ip`")
    try:
        ip("netns", "add", NETWORK)
        ip("link", "add", NETWORK, "type", "veth", "peer", "name", "box", "netns", NETWORK)
        ip("address", "add", f"{OUTSIDE}/30", "dev", NETWORK)
        ip("link", "set", NETWORK, "up")
        inside = ("ip", "netns", "exec", NETWORK)
        for words in (f"address add {INSIDE}/30 dev box", "link set box up", "link set lo up"):
            subprocess.run([*inside, "ip", *words.split()], check=True, capture_output=True)
        yield INSIDE, inside
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network can be made here: {error.stderr.decode().strip()}")
    finally:
        for words in (f"link delete {NETWORK}", f"netns delete {NETWORK}"):
            subprocess.run(["ip", *words.split()], check=False, capture_output=True)


@contextmanager
def ssh_server(folder: Path, **how: Any) -> Iterator[SshServer]:
    """A server that runs, and is gone at the end."""
    server = SshServer(folder, **how)
    server.start()
    try:
        yield server
    finally:
        server.kill()
