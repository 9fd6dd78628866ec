"""A server that is killed at any step of a command leaves nothing on its own machine, and starts nothing twice."""

import subprocess
import sys

import pytest

from tests.kit.marks import long


@pytest.mark.parametrize("stride", [29, long(1)])
def test_a_crash_at_any_step_of_a_command_is_mended_by_the_next_server(stride: int) -> None:
    # By itself: it forks, and a process under test has threads.
    command = [sys.executable, "-m", "tests.campaign.machine", str(stride)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.splitlines()[-1].split()[0]) > 100 / stride
