"""A part of the soak, which `python tests/soak/soak.py` runs whole: trainings and `recaption` are killed
at random moments, and damaged files are read. tests/soak/README.md has the figures of the whole."""

import subprocess
import sys
from pathlib import Path

import pytest

JOBS = ["fit-vae", "fit-dit", "fit-captioner", "fit-upsampler", "recaption"]


@pytest.mark.skipif(sys.platform != "linux", reason="the soak forks and reads /proc")
def test_what_is_killed_ends_as_if_it_had_not_been() -> None:
    script = Path(__file__).parent / "soak" / "soak.py"
    command = [sys.executable, str(script), "--kills", "10", "--inputs", "75", "--only", *JOBS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
