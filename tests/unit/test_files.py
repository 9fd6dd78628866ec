import os
import stat
from pathlib import Path

import pytest

from posthouse.files import write_new, write_over


def test_the_first_writer_of_a_new_file_wins_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_new(path, b"one")
    write_new(path, b"two")
    assert path.read_bytes() == b"one"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["secret"]


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "server.pem"
    path.write_bytes(b"old")
    write_over(path, b"new", at=1000.0)
    assert (path.read_bytes(), path.stat().st_mtime) == (b"new", 1000.0)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_over(path, b"newer")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["server.pem"]
