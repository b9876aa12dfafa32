"""Writes a student's copy of a notebook: `python notebooks/student.py 09`.

In the copy, my_NN_name.ipynb, the bodies between BEGIN SOLUTION and END SOLUTION are blank and
there are no outputs. A copy that is there already is never overwritten.
"""

import re
import sys
from pathlib import Path

import nbformat

HERE = Path(__file__).parent
BODY = re.compile(r"### BEGIN SOLUTION\n.*?### END SOLUTION", re.S)


def main(chosen: list[str]) -> None:
    """Writes the copies of the notebooks of the given numbers."""
    for path in sorted(HERE.glob("[0-9][0-9]_*.ipynb")):
        if path.name[:2] in chosen:
            copy = HERE / f"my_{path.name}"
            if copy.exists():
                sys.exit(f"{copy.name} is there already: rename it first")
            nbformat.write(blank(nbformat.read(path, as_version=4)), copy)
            print(f"{copy.name} is yours")


def blank(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without solutions and outputs."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source, cell.outputs, cell.execution_count = unsolved(cell.source), [], None
    return notebook


def unsolved(source: str) -> str:
    """The source with the body of each solution replaced by an error that names its function."""

    def error(match: re.Match[str]) -> str:
        *_, name = re.findall(r"^def (\w+)", source[: match.start()], re.M)
        return f'raise NotImplementedError("write this: {name}")'

    return BODY.sub(error, source)


if __name__ == "__main__":
    main(sys.argv[1:])
