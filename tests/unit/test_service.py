"""The units of systemd that `posthouse install-service` writes, and what a service tells systemd."""

import asyncio
import shutil
import socket
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from posthouse.app import systemd
from posthouse.cli import main, service
from posthouse.errors import Refused


def read(text: str) -> dict[str, dict[str, list[str]]]:
    """What a unit says, by section and name."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in text.splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), defaultdict(list))
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            section[name].append(value)
    return found


def unit(*argv: str, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, list[str]]]:
    assert main(["install-service", "--print", *argv]) == 0
    return read(capsys.readouterr().out)


def test_a_server_has_walls_and_its_workers_outlive_it(capsys: pytest.CaptureFixture[str]) -> None:
    made = unit("--", "--host", "0.0.0.0", "--tls-names", 'a b"%$', capsys=capsys)
    own = made["Service"]
    command = f'{sys.executable} -m posthouse serve --host 0.0.0.0 --tls-names "a b\\"%%$$"'
    assert own["ExecStart"] == [command]
    assert own["User"] == [service.USER]
    for name in ("NoNewPrivileges", "PrivateTmp", "LockPersonality", "RestrictSUIDSGID"):
        assert own[name] == ["yes"]
    assert own["ProtectSystem"] == ["strict"]
    assert own["CapabilityBoundingSet"] == [""]
    assert own["StateDirectory"] == ["posthouse"]
    assert own["Environment"] == ["POSTHOUSE_DATA_DIR=/var/lib/posthouse"]
    assert own["KillMode"] == ["process"]
    assert (own["Type"], own["WatchdogSec"], own["Restart"]) == (["notify"], ["30"], ["on-failure"])
    assert made["Install"]["WantedBy"] == ["multi-user.target"]


def test_a_gateway_has_no_state_and_more_walls(capsys: pytest.CaptureFixture[str]) -> None:
    own = unit("--run", "gateway", "--", "--url", "http://a:8080,http://b:8080", capsys=capsys)["Service"]
    assert own["ExecStart"][0].endswith("-m posthouse gateway --url http://a:8080,http://b:8080")
    assert own["DynamicUser"] == own["MemoryDenyWriteExecute"] == own["PrivateDevices"] == ["yes"]
    assert not own["User"]
    assert not own["KillMode"]


def test_a_service_of_ones_own_needs_no_root(capsys: pytest.CaptureFixture[str]) -> None:
    made = unit("--user", capsys=capsys)
    assert not made["Service"]["User"]
    assert not made["Service"]["ProtectSystem"]
    assert made["Service"]["NoNewPrivileges"] == ["yes"]
    assert made["Install"]["WantedBy"] == ["default.target"]


def test_a_flag_that_a_unit_cannot_hold_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install-service", "--print", "--", "--host", "a\nExecStartPre=b"]) == 2
    assert "cannot be printed" in capsys.readouterr().err


def test_it_is_installed_and_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    said: list[tuple[str, ...]] = []

    def systemctl(user: bool, *commands: list[str]) -> bool:
        assert user
        said.extend(map(tuple, commands))
        return True

    monkeypatch.setattr(service, "_systemctl", systemctl)
    path = tmp_path / "systemd/user/posthouse.service"
    assert main(["uninstall-service", "--user"]) == 4
    assert main(["install-service", "--user"]) == 0
    assert main(["install-service", "--user", "--no-start", "--json", "--", "--port", "1"]) == 0  # another time
    assert "--port 1" in path.read_text()
    assert main(["uninstall-service", "--user"]) == 0
    assert not path.exists()
    name = "posthouse.service"
    enabled, disabled, again = ("enable", "--now", name), ("disable", "--now", name), ("daemon-reload",)
    assert said == [again, enabled, again, (), disabled, again]
    path.write_text("[Unit]\n")  # of somebody else
    capsys.readouterr()
    assert main(["install-service", "--user"]) == main(["uninstall-service", "--user"]) == 1
    assert path.read_text() == "[Unit]\n"
    assert capsys.readouterr().err.count("was not written by Posthouse") == 2


def test_where_others_may_not_go_nothing_can_be_started_from(tmp_path: Path) -> None:
    python = tmp_path / "closed/bin/python"
    python.parent.mkdir(parents=True)
    python.touch(mode=0o755)
    (tmp_path / "closed").chmod(0o700)
    with pytest.raises(Refused, match="cannot read"):
        service._check_others_can_read(python)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed: apt install systemd")
@pytest.mark.parametrize("argv", [["--"], ["--run", "gateway"]])
def test_systemd_finds_nothing_wrong_with_it_and_little_exposed(
    tmp_path: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["install-service", "--print", *argv]) == 0
    path = tmp_path / "posthouse-tried.service"
    path.write_text(capsys.readouterr().out.replace("User=posthouse", "User=daemon"))
    for command in (["verify"], ["security", "--offline=true", "--threshold=25", "--no-pager"]):
        done = subprocess.run(["systemd-analyze", *command, path], capture_output=True, text=True, check=False)
        if "Unknown" in done.stderr or "unrecognized" in done.stderr:
            pytest.skip(f"this systemd is too old: {done.stderr}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert str(path) not in done.stderr


async def test_systemd_hears_of_a_service_that_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with systemd.watched():
        assert len(asyncio.all_tasks()) == 1
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(tmp_path / "notify"))
        line.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "30000")
        async with asyncio.timeout(60), systemd.watched():
            for _ in range(3):
                assert await asyncio.get_running_loop().sock_recv(line, 100) == b"WATCHDOG=1"
    systemd.tell(systemd.READY)  # to nobody: no reason to end
