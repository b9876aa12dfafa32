"""Makes a student's own copies of the notebooks in course/: `python notebooks/student.py`.

In a copy the bodies between BEGIN SOLUTION and END SOLUTION are blank and there are no outputs. A
copy that was edited is never touched; `python notebooks/student.py --reset 05` replaces it, after
asking. The markers are those of nbgrader, so a teacher can use the notebooks with it as they are.
"""

import hashlib
import re
import sys
from pathlib import Path

import nbformat

HERE = Path(__file__).parent
COURSE = HERE.parent / "course"
BODY = re.compile(r"### BEGIN SOLUTION\n.*?### END SOLUTION", re.S)
SOLVED = r"Here they are solved; `make course` makes your own copy, `[^`]*`, in which their bodies are blank\."
MARK = "minisora"  # the key in a copy's metadata of what it was like when it was made


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--reset"]:
        reset(arguments[1:])
    elif arguments:
        sys.exit("usage: python notebooks/student.py [--reset 05 ...]")
    else:
        make()


def sources() -> list[Path]:
    return sorted(HERE.glob("[0-9][0-9]_*.ipynb"))


def make(folder: Path = COURSE) -> list[Path]:
    """Writes the copies that are not there yet, and renews those that nobody has edited. Returns
    the ones that were left alone."""
    folder.mkdir(exist_ok=True)
    kept = []
    for path in sources():
        copy = folder / path.name
        if copy.exists() and is_edited(copy):
            kept.append(copy)
        else:
            write(path, copy)
    print(f"{folder.name}/ holds your own copies of {len(sources())} notebooks")
    if kept:
        print(f"left as they are, since you edited them: {', '.join(path.name for path in kept)}")
    return kept


def reset(numbers: list[str], folder: Path = COURSE) -> None:
    """Replaces the copies of notebooks by fresh ones, after asking."""
    known = {path.name[:2]: path for path in sources()}
    if not numbers or not set(numbers) <= known.keys():
        sys.exit(f"name notebooks by their numbers, {', '.join(known)}: make course-reset NN=05")
    for number in numbers:
        copy = folder / known[number].name
        if (
            copy.exists()
            and input(f"Replace {folder.name}/{copy.name}, with all that you wrote? [y/N] ") != "y"
        ):
            print("kept")
            continue
        folder.mkdir(exist_ok=True)
        write(known[number], copy)
        print(f"{folder.name}/{copy.name} is fresh")


def write(path: Path, copy: Path) -> None:
    notebook = blank(nbformat.read(path, as_version=4))
    notebook.metadata[MARK] = digest(notebook)
    nbformat.write(notebook, copy)


def is_edited(copy: Path) -> bool:
    """Whether a cell differs from when the copy was made. What cannot be read counts as edited."""
    try:
        notebook = nbformat.read(copy, as_version=4)
    except Exception:
        return True
    return notebook.metadata.get(MARK) != digest(notebook)


def digest(notebook: nbformat.NotebookNode) -> str:
    return hashlib.sha256("\0".join(cell.source for cell in notebook.cells).encode()).hexdigest()


def blank(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without solutions and outputs, with links that hold in the folder course/."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source, cell.outputs, cell.execution_count = unsolved(cell.source), [], None
        else:
            links = r"\]\((figures/|solutions/|[\w-]+\.md)"
            cell.source = re.sub(links, r"](../notebooks/\1", cell.source)
            cell.source = re.sub(SOLVED, "Their bodies are blank: fill them in.", cell.source)
    return notebook


def unsolved(source: str) -> str:
    """The source with the body of each solution replaced by an error that names its function."""

    def error(match: re.Match[str]) -> str:
        *_, name = re.findall(r"^ *def (\w+)", source[: match.start()], re.M)
        return f'raise NotImplementedError("write this: {name}")'

    return BODY.sub(error, source)


if __name__ == "__main__":
    main(sys.argv[1:])
