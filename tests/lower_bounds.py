"""Runs the tests with the oldest versions that pyproject.toml allows: `python tests/lower_bounds.py [FOLDER]`.

Makes a virtual environment in FOLDER (default: .venv-oldest), installs minisora, and then every
dependency at its lower bound, but for PyTorch, which stays at the version of constraints.txt.
"""

import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
KEPT = ("torch",)  # its old builds are several gigabytes


def lower_bounds() -> list[str]:
    """ "av>=18" -> "av==18"."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    every = project["dependencies"] + project["optional-dependencies"]["minilm"]
    bounds = (re.fullmatch(r"([\w-]+)(\[\w+\])?>=([\d.]+)", text) for text in every)
    return [f"{b[1]}=={b[3]}" for b in bounds if b and b[1] not in KEPT]


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / ".venv-oldest")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet"]
    constraints = ["-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, *constraints, "-e", f"{ROOT}[dev]"], check=True)
    subprocess.run([*pip, *lower_bounds()], check=True)
    subprocess.run([python, "-m", "pytest", "tests"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
