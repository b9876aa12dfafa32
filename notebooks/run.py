"""Makes the outputs of the notebooks again: `python notebooks/run.py [03 05 ...]`.

Runs each notebook in place, writes its seconds into its own head and into the course map, its last
clip to figures/NN-hero.png, and draws the roadmap of every notebook.
"""

import base64
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from tqdm import tqdm

HERE = Path(__file__).parent
STATIONS = [  # what the roadmap shows, one word or two a notebook
    "quickstart", "world", "VAE", "patches", "flow", "DiT", "training", "sampling", "what it learned",
]  # fmt: skip


def main(chosen: list[str]) -> None:
    for number in range(len(STATIONS)):
        (HERE / "figures" / f"roadmap-{number:02d}.svg").write_text(roadmap(number))
    paths = [path for path in sorted(HERE.glob("[0-9][0-9]_*.ipynb")) if path.name[:2] in chosen or not chosen]
    for path in tqdm(paths, "running", unit="notebook"):
        run(path)


def run(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    started = time.monotonic()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": HERE}}).execute()
    seconds = round(time.monotonic() - started)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when each cell ran, to the microsecond
        if "hero" in cell.metadata.get("tags", []):
            png = next(out.data["image/png"] for out in cell.outputs if "image/png" in out.get("data", {}))
            (HERE / "figures" / f"{path.name[:2]}-hero.png").write_bytes(base64.b64decode(png))
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    head = notebook.cells[1]
    head.source = timed(head.source, seconds)
    nbformat.write(notebook, path)
    course_map = HERE / "README.md"
    lines = course_map.read_text().splitlines()
    lines = [timed(line, seconds) if f"({path.name})" in line else line for line in lines]
    course_map.write_text("\n".join(lines) + "\n")


def timed(text: str, seconds: int) -> str:
    return re.sub(r"<!--seconds-->\d+", f"<!--seconds-->{seconds}", text)


def roadmap(here: int) -> str:
    """The course as a line of stations, the notebook at hand marked: an SVG for light and dark
    pages."""
    step, top = 84, 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {step * len(STATIONS)} 78" '
        'font-family="sans-serif" font-size="11" text-anchor="middle" role="img">',
        "<style>text{fill:#333}.line{stroke:#999}.dot{fill:#fff;stroke:#777}.done{fill:#777}"
        ".here{fill:#d9480f;stroke:#d9480f}.you{fill:#d9480f}@media (prefers-color-scheme:dark)"
        "{text{fill:#ddd}.line{stroke:#777}.dot{fill:#222;stroke:#aaa}.done{fill:#aaa}"
        ".here{fill:#ff922b;stroke:#ff922b}.you{fill:#ff922b}}</style>",
        f'<line class="line" x1="{step / 2}" y1="{top}" x2="{step * (len(STATIONS) - 0.5)}" y2="{top}" stroke-width="2"/>',
    ]
    for number, name in enumerate(STATIONS):
        x = step * (number + 0.5)
        kind = "here" if number == here else "done" if number < here else ""
        parts.append(f'<circle class="dot {kind}" cx="{x}" cy="{top}" r="{8 if number == here else 6}" stroke-width="2"/>')
        parts.append(f'<text x="{x}" y="{top + 24}">{number:02d}</text><text x="{x}" y="{top + 38}">{name}</text>')
        if number == here:
            parts.append(f'<text class="you" x="{x}" y="14" font-weight="bold">you are here</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
