"""What is read of the two logs of a process."""

from pathlib import Path

from posthouse.providers.process.files import last_lines


def test_a_long_log_is_read_as_far_as_is_asked_and_takes_what_a_short_one_leaves(tmp_path: Path) -> None:
    lines = [f"INFO line {n} of a log that somebody reads" for n in range(100_000)]
    (tmp_path / "output.log").write_text("\n".join(lines) + "\n")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "model.log").write_text("one\ntwo\n")
    assert last_lines(tmp_path, 100_000).splitlines() == [*lines[2:], "one", "two"]
    assert last_lines(tmp_path, 4).splitlines() == [*lines[-2:], "one", "two"]
    assert last_lines(tmp_path, 1).splitlines() == [lines[-1], "two"]
