"""A network in which servers can be cut off from each other: a namespace for each, and a bridge. It needs root."""

import os
import subprocess
from contextlib import suppress

MAX_NAMES = 200


class Network:
    """`.1` is everybody else, `.2` the database, and `.10` and on are the servers."""

    def __init__(self, count: int) -> None:
        self.count, self.key = count, os.getpid() % MAX_NAMES
        self.bridge = f"phb{self.key}"
        self.here, self.database = self._address(1), self._address(2)
        self.servers = [self._address(10 + number) for number in range(count)]
        self.close()  # what a process left that was killed
        _do("ip", "link", "add", self.bridge, "type", "bridge")
        for address in (self.here, self.database):
            _do("ip", "address", "add", f"{address}/24", "dev", self.bridge)
        _do("ip", "link", "set", self.bridge, "up")
        for number, address in enumerate(self.servers):
            space, inside, outside = self._space(number), f"phi{self.key}x{number}", f"pho{self.key}x{number}"
            _do("ip", "netns", "add", space)
            _do("ip", "link", "add", outside, "type", "veth", "peer", "name", inside)
            _do("ip", "link", "set", inside, "netns", space)
            _do("ip", "link", "set", outside, "master", self.bridge, "up")
            for words in (f"address add {address}/24 dev {inside}", f"link set {inside} up", "link set lo up"):
                _do("ip", "-n", space, *words.split())

    def within(self, number: int) -> list[str]:
        """What a command must begin with to run where a server is."""
        return ["nsenter", f"--net=/run/netns/{self._space(number)}"]

    @property
    def outside(self) -> str:
        """What a command must begin with that a server runs outside of its namespace."""
        return f"nsenter --net=/proc/{os.getpid()}/ns/net"

    def cut(self, number: int, *addresses: str) -> None:
        """Has nothing pass between a server and the addresses, in either direction: nobody is told that it is lost."""
        for address in addresses:
            self._filter(number, "-A", "INPUT", "-s", address, "-j", "DROP")
            self._filter(number, "-A", "OUTPUT", "-d", address, "-j", "DROP")

    def mend(self, number: int) -> None:
        self._filter(number, "-F")

    def close(self) -> None:
        with suppress(subprocess.CalledProcessError):
            _do("ip", "link", "delete", self.bridge)
        for number in range(self.count):
            with suppress(subprocess.CalledProcessError):
                _do("ip", "netns", "delete", self._space(number))

    def _address(self, host: int) -> str:
        return f"10.214.{self.key}.{host}"

    def _space(self, number: int) -> str:
        return f"ph{self.key}-{number}"

    def _filter(self, number: int, *words: str) -> None:
        _do(*self.within(number), "iptables", "-w", *words)


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)
