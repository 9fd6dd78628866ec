"""`posthouse install-service`, `posthouse uninstall-service`: a server or a gateway as a service of systemd."""

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from posthouse.cli.options import AsJson
from posthouse.cli.output import print_json
from posthouse.errors import BadRequest, NotFound, Refused

Kind = Annotated[Literal["server", "gateway"], typer.Option("--run", help="What the service runs.")]
OfUser = Annotated[bool, typer.Option("--user", help="A service of your own user, without root.")]

NAMES: Final = {"server": "posthouse", "gateway": "posthouse-gateway"}
COMMANDS: Final = {"server": "serve", "gateway": "gateway"}
USER: Final = "posthouse"
SYSTEM_UNITS: Final = Path("/etc/systemd/system")
MARK: Final = (
    "# Made by `posthouse install-service`, which overwrites it: put changes into a drop-in, `systemctl edit`.\n"
)
HOMES: Final = ("/home", "/root", "/run/user")

# Both: what no user needs root for.
OWN_WALLS: Final = """\
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service landlock_create_ruleset landlock_add_rule landlock_restrict_self
SystemCallErrorNumber=EPERM
"""
# No MemoryDenyWriteExecute: model servers compile as they run. No PrivateDevices: it would hide GPUs.
WALLS: Final = """\
CapabilityBoundingSet=
ProtectSystem=strict
PrivateTmp=yes
ProtectProc=invisible
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
DevicePolicy=closed
"""
GPUS: Final = """\
DeviceAllow=char-nvidia* rw
DeviceAllow=char-drm rw
DeviceAllow=char-kfd rw
"""
SERVER: Final = """\
# Reload restarts in place, without a refused call.
ExecReload=/bin/kill -USR2 $MAINPID
# Workers of this machine are its children: they outlive it, and one that is out of memory does not end it.
KillMode=process
OOMPolicy=continue
TasksMax=infinity
"""


def install_service(
    arguments: Annotated[
        list[str] | None, typer.Argument(help="After `--`: flags of `posthouse serve` or `posthouse gateway`.")
    ] = None,
    kind: Kind = "server",
    user: OfUser = False,
    only_print: Annotated[bool, typer.Option("--print", help="Print the unit, and change nothing.")] = False,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Start it, now and at each boot.")] = True,
    as_json: AsJson = False,
) -> None:
    """Install a server or a gateway as a service of systemd.

    It runs in systemd's sandbox as a user of its own, which is created, with its
    data in /var/lib/posthouse. Settings come from /etc/posthouse/posthouse.toml and,
    as variables, from /etc/posthouse/server.env or gateway.env. It is started again
    when it fails or hangs; `systemctl reload posthouse` restarts it in place.

    With --user it has your rights, settings in ~/.config/posthouse and data in
    ~/.local/share/posthouse, and a weaker sandbox.

    Examples:
      posthouse install-service
      posthouse install-service --print -- --host 0.0.0.0 --gateway
      posthouse install-service --run gateway -- --url http://a:8080,http://b:8080
    """
    text = unit(kind, arguments or [], user)
    if only_print:
        typer.echo(text, nl=False)
        return
    path = _path(kind, user)
    if not user:
        _need_root()
        _check_others_can_read(Path(sys.executable))
        if kind == "server":
            _make_user()
    if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(MARK):
        raise Refused(f"{path} was not written by Posthouse: remove it first, or keep it")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    has_systemd = _systemctl(user, ["daemon-reload"], ["enable", "--now", path.name] if start else [])
    if as_json:
        print_json({"unit": str(path), "started": has_systemd and start})
        return
    typer.echo(f"wrote {path}")
    flag = " --user" if user else ""
    if not has_systemd:
        typer.echo(f"systemd does not run here; where it does: systemctl{flag} enable --now {path.name}")
    elif start:
        typer.echo(f"it runs: systemctl{flag} status {path.name}, journalctl{flag} -u {path.name}")
    if user:
        typer.echo("to have it run while you are not signed in: loginctl enable-linger")


def uninstall_service(kind: Kind = "server", user: OfUser = False, as_json: AsJson = False) -> None:
    """Stop the service and remove its unit. Its data, its settings and its user stay.

    Workers keep running; to destroy them first: posthouse shutdown --workers

    Example:
      posthouse uninstall-service --run gateway
    """
    path = _path(kind, user)
    if not path.is_file():
        raise NotFound(f"{path} is not there: nothing is installed")
    if not path.read_text(encoding="utf-8", errors="replace").startswith(MARK):
        raise Refused(f"{path} was not written by Posthouse, and stays")
    if not user:
        _need_root()
    _systemctl(user, ["disable", "--now", path.name])
    path.unlink()
    _systemctl(user, ["daemon-reload"])
    if as_json:
        print_json({"unit": str(path)})
    else:
        typer.echo(f"took {path} away; data and settings stay")


def unit(kind: str, arguments: list[str], user: bool) -> str:
    """The text of the unit."""
    command = [sys.executable, "-m", "posthouse", COMMANDS[kind], *arguments]
    name, settings = NAMES[kind], "%E/posthouse" if user else "/etc/posthouse"
    lines = [
        MARK,
        "[Unit]\n",
        f"Description=Posthouse {kind}\n",
        "Documentation=https://posthouse.github.io/posthouse\n",
    ]
    if not user:
        lines.append("Wants=network-online.target\nAfter=network-online.target postgresql.service\n")
    lines += [
        "StartLimitIntervalSec=0\n\n[Service]\nType=notify\nNotifyAccess=main\n",
        f"ExecStart={' '.join(map(quoted, command))}\n",
        f"WorkingDirectory=-{settings}\nConfigurationDirectory=posthouse\n",
    ]
    if kind == "server":
        data = "%h/.local/share/posthouse" if user else "/var/lib/posthouse"
        lines.append(f"Environment=POSTHOUSE_DATA_DIR={data}\n")
        lines.append("" if user else "StateDirectory=posthouse\nStateDirectoryMode=0700\n")
        lines.append(SERVER)
    lines += [
        f"EnvironmentFile=-{settings}/{kind}.env\n",
        # Another start does not mend a setting that is wrong.
        "Restart=on-failure\nRestartSec=1\nRestartPreventExitStatus=2\n",
        "WatchdogSec=30\nTimeoutStartSec=15min\nTimeoutStopSec=60\nLimitNOFILE=65536\n",
        OWN_WALLS,
    ]
    if not user:
        in_home = Path(sys.executable).absolute().as_posix().startswith(HOMES)
        lines.append(f"User={USER}\n" if kind == "server" else f"DynamicUser=yes\nStateDirectory={name}\n")
        lines.append(f"{WALLS}ProtectHome={'read-only' if in_home else 'yes'}\n")
        lines.append(GPUS if kind == "server" else "MemoryDenyWriteExecute=yes\nPrivateDevices=yes\n")
    lines.append(f"\n[Install]\nWantedBy={'default' if user else 'multi-user'}.target\n")
    return "".join(lines)


def quoted(word: str) -> str:
    """A word of a command line of systemd. Source: systemd.service(5). Raises: BadRequest."""
    if not word.isprintable():
        raise BadRequest("a flag has a character that cannot be printed: a unit cannot have that")
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if not word or any(c in word for c in " '\"\\;") else word


def _path(kind: str, user: bool) -> Path:
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return (config / "systemd/user" if user else SYSTEM_UNITS) / f"{NAMES[kind]}.service"


def _need_root() -> None:
    if os.geteuid():
        raise Refused(
            "a service of the system needs root: use sudo, or --user for one of your own; --print only shows it"
        )


def _check_others_can_read(python: Path) -> None:
    """Raises: Refused if the service's user could not run it."""
    for path in (python.absolute(), *python.resolve().parents, *python.absolute().parents):
        if not path.stat().st_mode & 0o001:
            raise Refused(
                f"this Posthouse is below {path}, which the service's user cannot read: install it where all may read, "
                "such as in a virtual environment in /opt/posthouse"
            )


def _make_user() -> None:
    try:
        pwd.getpwnam(USER)
    except KeyError:
        shell = shutil.which("nologin") or "/usr/sbin/nologin"
        command = ["useradd", "--system", "--user-group", "--home-dir", "/var/lib/posthouse", "--shell", shell, USER]
        _run(command)


def _systemctl(user: bool, *commands: list[str]) -> bool:
    """Has systemd do this, where it runs; whether it does. Raises: Refused with what it says against it."""
    if not Path("/run/systemd/system").is_dir():
        return False
    for command in filter(None, commands):
        _run(["systemctl", *(["--user"] if user else []), *command])
    return True


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no user's words
    except OSError as error:
        raise Refused(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        raise Refused(f"`{' '.join(command)}` failed: {done.stderr.strip() or done.stdout.strip()}")
