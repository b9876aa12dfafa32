"""Runs the notebooks and updates their outputs: `python notebooks/run.py [03 05 ...]`.

Each notebook runs in place, on one core. Its computing time goes into its own box and into the course
map, its hero picture into figures/NN-hero.png. The roadmaps of all notebooks are drawn as well.
"""

import base64
import io
import os
import re
import resource
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image
from tqdm import tqdm

HERE = Path(__file__).parent
STATIONS = [  # labels of the roadmap, one per notebook
    "quickstart", "world", "VAE", "patches", "flow", "DiT", "training", "sampling", "what it learned",
    "any size", "media", "re-captioning", "prompts", "real video", "cluster",
]  # fmt: skip


STYLE = """
  text { fill: #333; font: 11px sans-serif; text-anchor: middle }
  line, circle { stroke: #888; stroke-width: 2 }
  circle { fill: #fff } .done { fill: #888 } .here { fill: #d9480f; stroke: #d9480f }
  @media (prefers-color-scheme: dark) { text { fill: #ddd } circle { fill: #222 } .done { fill: #888 } }
"""


def main(chosen: list[str]) -> None:
    """Runs the notebooks of the given numbers, or all of them."""
    for number in range(len(STATIONS)):
        (HERE / "figures" / f"roadmap-{number:02d}.svg").write_text(roadmap(number))
    os.environ["OMP_NUM_THREADS"] = "1"  # so that seconds of a core are seconds
    paths = sorted(HERE.glob("[0-9][0-9]_*.ipynb"))
    selected = [path for path in paths if not chosen or path.name[:2] in chosen]
    for path in tqdm(selected, "running", unit="notebook"):
        run(path)


def run(path: Path) -> None:
    """Executes a notebook in place and updates its hero picture and its running times."""
    notebook = nbformat.read(path, as_version=4)
    started = computing_time()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": HERE}}).execute()
    seconds = round(computing_time() - started)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # time stamps of each cell would differ in every run
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                output.data["image/png"] = slim(png)
        if "hero" in cell.metadata.get("tags", []):
            pictures = (output.get("data", {}).get("image/png") for output in cell.outputs)
            png = base64.b64decode(next(filter(None, pictures)))
            (HERE / "figures" / f"{path.name[:2]}-hero.png").write_bytes(png)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    box = notebook.cells[1]
    box.source = with_seconds(box.source, seconds)
    nbformat.write(notebook, path)
    course_map = HERE / "README.md"
    lines = course_map.read_text().splitlines()
    lines = [with_seconds(line, seconds) if f"({path.name})" in line else line for line in lines]
    course_map.write_text("\n".join(lines) + "\n")


def computing_time() -> float:
    """Seconds of a core that the kernels, once ended, have used. Other work does not change it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def slim(png: str) -> str:
    """A picture in base64 with 256 colors, a third of its size; animations have them already."""
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        if getattr(image, "n_frames", 1) > 1 or image.mode == "P":
            return png
        file = io.BytesIO()
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
            file, "PNG", optimize=True
        )
    small = base64.b64encode(file.getvalue()).decode()
    return min(png, small, key=len)


def with_seconds(text: str, seconds: int) -> str:
    """The text with its marked running time replaced."""
    return re.sub(r"<!--seconds-->\d+", f"<!--seconds-->{seconds}", text)


def roadmap(here: int) -> str:
    """An SVG of the course as a line of stations, with the current notebook marked. It suits light
    and dark pages."""
    step = 84  # between stations
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {step * len(STATIONS)} 76">',
        f"<style>{STYLE}</style>",
        f'<line x1="{step / 2}" y1="30" x2="{step * (len(STATIONS) - 0.5)}" y2="30"/>',
    ]
    for number, name in enumerate(STATIONS):
        x = step * (number + 0.5)
        kind = "here" if number == here else "done" if number < here else "ahead"
        parts += [
            f'<circle class="{kind}" cx="{x}" cy="30" r="{8 if kind == "here" else 6}"/>',
            f'<text x="{x}" y="54">{number:02d}</text><text x="{x}" y="68">{name}</text>',
        ]
        if kind == "here":
            parts.append(f'<text x="{x}" y="14">you are here</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
