"""Two minutes of the soak that `python tests/soak/soak.py` runs whole: kills at random moments, and
damaged files. tests/soak/README.md has the figures of the whole."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="the soak forks and reads /proc")
def test_what_is_killed_ends_as_if_it_had_not_been() -> None:
    script = Path(__file__).parent / "soak" / "soak.py"
    command = [sys.executable, str(script), "--kills", "14", "--inputs", "150"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
