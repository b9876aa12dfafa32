"""The notebooks as files and their exercises; that they run is checked by nbval, on their cells."""

import ast
import json
import re
import statistics
import sys
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest

from minisora import weights

FOLDER = Path(__file__).parent.parent / "notebooks"
sys.path.insert(0, str(FOLDER))
import student  # noqa: E402

NOTEBOOKS = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
SECTIONS = [  # with ideas of its own between them
    "Setup", "A first attempt", "See it", "Experiment", "Exercises", "Recap",
    "References and what comes next",
]  # fmt: skip

GLOSSARY = (FOLDER / "glossary.md").read_text()
DISCUSSION = (FOLDER / "discussion.md").read_text()
TERMS = [
    "ablation", "adaLN-Zero", "attention", "classifier-free guidance", "conditional velocity",
    "conditioning", "cross-attention", "latent", "marginal velocity", "ODE", "positional embedding",
    "rotary positions", "self-attention", "timestep",
]  # fmt: skip

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str | None = None) -> list[dict]:
    found = json.loads(path.read_text())["cells"]
    for cell in found:
        cell["source"] = "".join(cell["source"])
        cell["tags"] = cell["metadata"].get("tags", [])
    return [cell for cell in found if kind in (None, cell["cell_type"])]


def markdown(path: Path) -> str:
    return "\n\n".join(cell["source"] for cell in cells(path, "markdown"))


def test_the_course_is_complete_and_in_order() -> None:
    assert [int(path.name[:2]) for path in NOTEBOOKS] == list(range(len(NOTEBOOKS)))
    assert len(NOTEBOOKS) >= 9
    course_map = (FOLDER / "README.md").read_text()
    assert all(f"({path.name})" in course_map for path in NOTEBOOKS)


@each
def test_every_section_is_there(path: Path) -> None:
    first, box = cells(path)[:2]
    number = path.name[:2]
    assert first["source"].startswith(f"# {number} · ")
    assert f"(figures/{number}-hero.png)" in first["source"]
    assert f"(figures/roadmap-{number}.svg)" in first["source"]
    for line in ("**You will**", "**You need**", "**Runs in**", "**Rebuilds**", "(glossary.md)"):
        assert line in box["source"]
    heads = [head.split(":")[0] for head in re.findall(r"^## (.*)$", markdown(path), re.M)]
    assert [head for head in heads if head in SECTIONS] == SECTIONS


@pytest.mark.parametrize(("before", "path"), list(pairwise(NOTEBOOKS)), ids=lambda path: path.stem)
def test_a_notebook_opens_with_what_the_last_one_left_open(before: Path, path: Path) -> None:
    assert f"]({before.name})" in cells(path)[0]["source"]
    assert f"]({path.name})" in cells(before)[-1]["source"]


def test_the_glossary_links_each_term_to_a_notebook_that_uses_it() -> None:
    rows = re.findall(r"^\| (.+?) \| .+ \| \[\d\d\]\((.+)\) \|$", GLOSSARY, re.M)
    assert len(rows) == GLOSSARY.count("\n| ") - 1  # all but the head of the table
    for terms, name in rows:
        text = markdown(FOLDER / name).lower()
        assert any(term.lower() in text for term in terms.split(", ")), terms


def test_the_glossary_has_the_terms_of_the_field() -> None:
    for term in TERMS:
        assert re.search(rf"^\| (.*, )?{term}(,.*| t)? \|", GLOSSARY, re.M), term


@each
def test_stored_counts_are_of_the_shipped_weights(path: Path) -> None:
    for cell in cells(path, "code"):
        for fingerprint in re.findall(r"with transformer (\w+)", cell["source"]):
            assert fingerprint == weights.fingerprint(weights.shipped(), "dit")


@each
def test_outputs_are_those_of_one_run_from_top_to_bottom(path: Path) -> None:
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        for output in cell["outputs"]:
            assert output["output_type"] != "error", cell["source"]
            assert output.get("name") != "stderr", output["text"]
        if {"nbval-check-output", "hero", "exercise"} & set(cell["tags"]):
            assert cell["outputs"], f"no output is stored: {cell['source']}"


@each
def test_what_is_built_is_compared_with_the_package(path: Path) -> None:
    compared = [cell for cell in cells(path, "code") if "nbval-check-output" in cell["tags"]]
    assert any("same(" in cell["source"] for cell in compared)
    assert all(
        "✓" in json.dumps(c["outputs"], ensure_ascii=False)
        for c in compared
        if "same(" in c["source"]
    )


@each
def test_files_are_small_and_name_no_machine(path: Path) -> None:
    text = path.read_text()
    assert len(text) < 700_000
    for machine in ("/home/", "/root/", "/tmp/", "/work/", "/Users/", "site-packages"):
        assert machine not in text, machine
    assert max(len(cell["source"].splitlines()) for cell in cells(path, "code")) <= 30


@each
def test_texts_are_short_and_pictures_many(path: Path) -> None:
    words = [len(cell["source"].split()) for cell in cells(path, "markdown")]
    assert max(words) <= 200
    assert statistics.median(words) <= 70
    diagrams = [cell for cell in cells(path, "code") if "diagram" in cell["tags"]]
    assert len(diagrams) >= 4
    assert all("image/png" in json.dumps(cell["outputs"]) for cell in diagrams)
    assert "### Open problem" in markdown(path)


@each
def test_the_student_writes_functions_and_each_is_compared(path: Path) -> None:
    every, written = cells(path), 0
    for before, cell, after in zip(every, every[1:], every[2:], strict=False):
        bodies = student.BODY.findall(cell["source"])
        if cell["cell_type"] != "code" or not bodies:
            continue
        written += len(bodies)
        assert all(len(body.splitlines()) - 2 <= 12 for body in bodies)
        assert "**Your turn.**" in before["source"]
        assert "same(" in after["source"]
        assert "nbval-check-output" in after["tags"]
    assert 3 <= written <= 6


@each
def test_the_students_copy_has_no_solution(path: Path) -> None:
    copy = student.blank(nbformat.read(path, as_version=4))
    sources = [cell.source for cell in copy.cells if cell.cell_type == "code"]
    assert not any("SOLUTION" in source for source in sources)
    assert not any(cell.get("outputs") for cell in copy.cells)
    blank = [source for source in sources if "write this" in source]
    assert len(blank) == len([c for c in cells(path) if "### BEGIN SOLUTION" in c["source"]])
    for source in blank:
        namespace: dict = {}
        exec(definitions(source), namespace)
        for name in re.findall(r'NotImplementedError\("write this: (\w+)"\)', source):
            arguments = namespace[name].__code__.co_argcount - len(
                namespace[name].__defaults__ or ()
            )
            with pytest.raises(NotImplementedError, match=f"write this: {name}"):
                namespace[name](*[None] * arguments)


def test_five_notebooks_have_a_slider() -> None:
    with_slider = [path for path in NOTEBOOKS if "step_through(" in path.read_text()]
    assert len(with_slider) >= 5


@pytest.mark.parametrize("path", [*NOTEBOOKS, *FOLDER.glob("*.md")], ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text() if path.suffix == ".md" else markdown(path)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http", "#")):
            assert (FOLDER / target.split("#")[0]).exists(), target


def test_the_discussion_is_one_page_and_linked_where_part_two_ends() -> None:
    assert len(DISCUSSION.splitlines()) <= 120
    assert "(discussion.md)" in (FOLDER / "README.md").read_text()
    assert "(discussion.md)" in cells(FOLDER / "12_prompts.ipynb")[-1]["source"]


@pytest.mark.parametrize("name", ["evaluation", "breadth", "prompting"])
def test_numbers_of_the_discussion_are_those_of_the_file_beside_them(name: str) -> None:
    rows = json.loads((weights.shipped() / f"{name}.json").read_text())["rows"]
    measured = {f"{100 * row['right']:.1f}%" for row in rows if "right" in row}
    lines = [line for line in DISCUSSION.splitlines() if f"/{name}.json)" in line]
    quoted = re.findall(r"\d+\.\d%", " ".join(lines))
    assert len(quoted) >= 3
    assert set(quoted) <= measured


def definitions(source: str) -> str:
    """The imports, functions and classes of a cell, without what it computes."""
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    return "\n".join(
        ast.unparse(node) for node in ast.parse(source).body if isinstance(node, kinds)
    )


def answered(exercise: str, solution: str) -> str:
    """The exercise with every stub replaced by what the solution defines under its name; lines that
    only the solution has come first."""
    names: dict[str, ast.stmt] = {}
    for node in ast.parse(solution).body:
        for name in defined(node):
            names[name] = node
    body, used = [], set()
    for node in ast.parse(exercise).body:
        replaced = [name for name in defined(node) if name in names]
        body.append(names[replaced[0]] if replaced else node)
        used |= set(map(id, body))
    extra = [node for node in ast.parse(solution).body if id(node) not in used]
    return ast.unparse(ast.Module(extra + body, []))


def defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []


def verdict(source: str, namespace: dict) -> bool:
    """Runs a cell and returns the value of its last line, the checker."""
    *body, last = ast.parse(source).body
    assert isinstance(last, ast.Expr)
    exec(compile(ast.Module(body, []), "exercise", "exec"), namespace)
    return eval(compile(ast.Expression(last.value), "exercise", "eval"), namespace)


@each
def test_solutions_pass_their_checkers_and_stubs_do_not(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(FOLDER)
    every = cells(path)
    namespace: dict = {}
    solved = 0
    for cell, after in zip(every, [*every[1:], None], strict=True):
        if cell["cell_type"] != "code":
            continue
        if "exercise" not in cell["tags"]:
            whole = "setup" in cell["tags"]
            exec(cell["source"] if whole else definitions(cell["source"]), namespace)
            continue
        assert after is not None
        assert "<summary>Hint</summary>" in after["source"]
        assert "<summary>Solution</summary>" not in after["source"]
        solution = (FOLDER / "solutions" / f"{path.name[:2]}.py").read_text()
        assert verdict(cell["source"], dict(namespace)) is False, "the untouched stub passes"
        right = verdict(answered(cell["source"], solution), dict(namespace))
        assert right is True, f"{solution}\n{capsys.readouterr().out}"
        solved += 1
    assert 2 <= solved <= 4
