"""A part of the fuzz: `python tests/fuzz.py` runs all of it."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="the fuzz forks and reads /proc")
def test_damaged_files_and_odd_commands_are_refused_in_one_sentence() -> None:
    script = Path(__file__).parent / "fuzz.py"
    command = [sys.executable, str(script), "--files", "250", "--commands", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
