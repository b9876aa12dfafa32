"""The student's copies of the notebooks: blank where the student writes, and never lost."""

import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "notebooks"))
import student  # noqa: E402

NAME = "03_patches.ipynb"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder course/ with all copies, beside the files of the project."""
    root = tmp_path_factory.mktemp("project")
    for each in ROOT.iterdir():
        if each.name not in ("course", ".git"):
            (root / each.name).symlink_to(each)
    student.make(root / "course")
    return root / "course"


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A course of one notebook."""
    monkeypatch.setattr(student, "sources", lambda: [ROOT / "notebooks" / NAME])
    student.make(tmp_path / "course")
    return tmp_path / "course" / NAME


def edit(copy: Path) -> None:
    notebook = nbformat.read(copy, as_version=4)
    notebook.cells[5].source += "\n# mine"
    nbformat.write(notebook, copy)


def test_every_notebook_has_a_copy(made: Path) -> None:
    names = {path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")}
    assert {path.name for path in made.iterdir()} == names


def test_links_of_the_copies_lead_somewhere(made: Path) -> None:
    for copy in made.iterdir():
        for cell in nbformat.read(copy, as_version=4).cells:
            for target in re.findall(r"\]\(([^)\s]+)\)", cell.source):
                if cell.cell_type == "markdown" and not target.startswith(("http", "#")):
                    assert (made / target.split("#")[0]).exists(), (copy.name, target)


def test_an_edited_copy_is_left_alone(one: Path) -> None:
    edit(one)
    before = one.read_bytes()
    assert student.make(one.parent) == [one]
    assert one.read_bytes() == before


def test_a_copy_with_outputs_alone_is_not_edited(one: Path) -> None:
    notebook = nbformat.read(one, as_version=4)
    notebook.cells[3].execution_count = 7
    nbformat.write(notebook, one)
    assert student.make(one.parent) == []


def test_a_damaged_copy_is_left_alone(one: Path) -> None:
    one.write_text("{")
    assert student.make(one.parent) == [one]


@pytest.mark.parametrize(("answer", "replaced"), [("y", True), ("n", False), ("", False)])
def test_a_copy_is_replaced_after_asking_alone(
    one: Path, answer: str, replaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(one)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    student.reset(["03"], one.parent)
    assert ("# mine" not in one.read_text()) == replaced


@pytest.mark.parametrize("numbers", [[], ["99"], ["3"]])
def test_a_reset_needs_the_number_of_a_notebook(one: Path, numbers: list[str]) -> None:
    with pytest.raises(SystemExit, match="name notebooks by their numbers"):
        student.reset(numbers, one.parent)


@pytest.mark.parametrize("name", ["00_quickstart.ipynb", NAME])
def test_a_copy_that_is_filled_in_runs(made: Path, name: str) -> None:
    solved = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    copy = nbformat.read(made / name, as_version=4)
    filled = 0
    for cell, answer in zip(copy.cells, solved.cells, strict=True):
        bodies = student.BODY.findall(answer.source) if cell.cell_type == "code" else []
        for body in bodies:
            lines = [line for line in body.splitlines() if "SOLUTION" not in line]
            written = "\n".join(lines).strip()
            cell.source = re.sub(
                r'raise NotImplementedError\("write this: \w+"\)',
                lambda match, written=written: written,
                cell.source,
                count=1,
            )
            filled += 1
    assert filled >= 3
    NotebookClient(copy, timeout=600, resources={"metadata": {"path": made}}).execute()
