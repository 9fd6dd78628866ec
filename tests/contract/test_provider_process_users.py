"""Workers of the process provider as users of their own, where the server is root."""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Observation
from posthouse.errors import Refused
from posthouse.providers.plugin import Context
from posthouse.providers.process import ProcessProvider, provider, users
from posthouse.providers.process.procfs import census
from tests.kit.provider_contract import eventually, printed, rent, seen_as, spec

IDS = users.UNUSED


def runs(python: str) -> bool:
    """Whether others than root may run it: Pythons of root's home they may not."""
    with tempfile.TemporaryFile() as nowhere:
        try:
            done = subprocess.run([python, "-c", ""], user=IDS[0], cwd="/", stderr=nowhere, check=False)
        except OSError:
            return False
        return done.returncode == 0


@pytest.fixture
def data_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data directory that others could reach, were it open; what runs Python is open to them."""
    if os.geteuid() != 0:
        pytest.skip("only root may choose users")
    python = next(filter(runs, (sys.executable, "/usr/bin/python3")), None)
    if python is None:
        pytest.skip("no Python here that others than root may run")
    monkeypatch.setattr(sys, "executable", python)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o711)
        data_dir = Path(folder).resolve() / "data"
        data_dir.mkdir(mode=0o700)
        (data_dir / "admin-key").write_text("phs_secret")
        (data_dir / "admin-key").chmod(0o600)
        yield data_dir


async def opened(data_dir: Path, **settings: object) -> ProcessProvider:
    asked = ProcessProvider.Settings(type="process", slots=4, grace_s=0.5, **settings)
    return await ProcessProvider.open(asked, Context("process", "test", data_dir))


async def ended(local: ProcessProvider) -> None:
    for instance in await local.instances():
        await local.destroy(instance.id)
    await local.close()


async def test_without_landlock_a_worker_of_root_is_somebody_who_reads_nothing(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "landlock_abi", lambda: 0)
    local = await opened(data_dir)
    assert local.troubles() == []
    other = await rent(local, spec(2, "echo phs_other >kept; exec sleep 600"))
    tries = f"""
        cat {data_dir}/admin-key ../instance.json ../output.log {data_dir}/workers/{other.id}/home/kept
        ls {data_dir} .. {data_dir}/workers/{other.id}/home; cat /proc/{os.getpid()}/environ /proc/$PPID/environ
        echo x >{data_dir}/admin-key; echo x >../exit_code; kill -9 $PPID; kill -9 {os.getpid()}
        touch a && mkdir tmp/b && cd "$HOME" && cat a onstart.sh >/dev/null && echo x >>model.log && echo free at home
        id -u; grep NoNewPrivs /proc/self/status; echo done; exec sleep 600
    """
    made = await rent(local, spec(1, tries))
    text = await printed(local, made.id, "done")
    assert "free at home" in text
    assert "phs_" not in text
    assert text.count("enied") + text.count("not permitted") >= 12
    assert "NoNewPrivs:\t1" in text
    homes = [data_dir / "workers" / one.id / "home" for one in (made, other)]
    uids = [home.stat().st_uid for home in homes]
    assert len({*uids} & {*IDS}) == 2
    assert f"\n{uids[0]}\n" in text
    assert {path.lstat().st_uid for path in homes[0].rglob("*")} == {uids[0]}
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o710
    await local.stop(made.id)
    await local.start(made.id)
    assert (await seen_as(local, made.id, Observation.RUNNING)).message == ""
    await ended(local)
    assert not census(f"{data_dir}/")


async def test_a_range_gives_each_worker_a_user_whatever_the_wall(data_dir: Path) -> None:
    local = await opened(data_dir, users=f"{IDS[0]}-{IDS[1]}")
    made: list[Instance] = [await rent(local, spec(1, "id -u; cat /etc/passwd >x; echo done; exec sleep 600"))]
    text = await printed(local, made[0].id, "done")
    assert text.startswith(f"{IDS[1]}\n")  # the first one's group passes through the data directory
    assert "enied" not in text
    with pytest.raises(Refused, match="users: 60706-60707 are all taken"):
        await rent(local, spec(2))
    await local.close()
    local = await opened(data_dir, users="server")  # whoever was made keeps its user
    await local.stop(made[0].id)
    await local.start(made[0].id)

    async def again() -> bool:
        return (await local.logs(made[0].id, 100)).count(f"{IDS[1]}\n") == 2

    await eventually(again)
    await ended(local)


async def test_where_users_cannot_work_it_is_refused_or_said(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir.parent.chmod(0o700)
    with pytest.raises(Refused, match=r"users: 60706-60707 cannot be used here: user 60706: .*Permission denied"):
        await opened(data_dir, users=f"{IDS[0]}-{IDS[1]}")
    for wrong in ("5-4", "0-9", "1-4294967295"):
        with pytest.raises(Refused, match=f"users: {wrong} must be two user ids"):
            await opened(data_dir, users=wrong)
    monkeypatch.setattr(provider, "landlock_abi", lambda: 0)
    local = await opened(data_dir)
    assert "can read this server's keys" in local.troubles()[0]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Refused, match="needs a server that runs as root"):
        await opened(data_dir, users="60706-60707")


async def test_as_root_behind_the_wall_workers_stay_root_unless_it_is_asked(data_dir: Path) -> None:
    ids, why = users.chosen("auto", True, data_dir / "workers")
    assert (len(ids), why) == (0, "")
    ids, why = users.chosen("server", False, data_dir / "workers")
    assert (len(ids), why) == (0, "")
