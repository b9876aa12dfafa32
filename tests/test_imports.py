"""Which module may import which: the table "The rooms" in CONTRIBUTING.md against the imports."""

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "minisora"
COMMON = {"errors", "device", "draws", "files"}  # may be imported by all
NETWORKS = {"attention", "vae", "dit", "text", "captioner", "upsampler"}


def module_name(path: Path) -> str:
    """minisora/world/shapes.py -> "world.shapes"; a package is called by its folder, the top one
    "minisora"."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "minisora"


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
EVERY_MODULE = pytest.mark.parametrize("module", FILES)


def imported_paths(path: Path) -> Iterator[str]:
    """Every dotted path that a file imports, also inside functions: "torch", "minisora.vae.VAE"."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports by a relative path"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(path: str) -> str | None:
    """The module of ours that an imported path belongs to: "minisora.vae.VAE" -> "vae"."""
    first, *rest = path.split(".")
    if first != "minisora":
        return None
    while rest and ".".join(rest) not in FILES:
        rest.pop()
    return ".".join(rest) or "minisora"


def ours(module: str) -> set[str]:
    """The modules of minisora that a module imports."""
    found = {module_of(path) for path in imported_paths(FILES[module])}
    return {name for name in found if name} - {module}


def others(module: str) -> set[str]:
    """The packages of others that a module imports, such as "torch"."""
    paths = set(imported_paths(FILES[module]))
    return {path.split(".")[0] for path in paths} - {"minisora"}


IMPORTS = {module: ours(module) for module in FILES}


def needed_by(module: str) -> set[str]:
    """The modules that importing a module imports, directly or through others."""
    found, waiting = set(), [module]
    while waiting:
        new = IMPORTS[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def rooms() -> dict[str, set[str]]:
    """The table of CONTRIBUTING.md: a pattern for modules -> patterns for what they may import."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    table = page.partition("## The rooms")[2].partition("\n## ")[0]
    found = {}
    for names, allowed in re.findall(r"^\| (`.*?) \| ?(.*?) ?\|$", table, re.MULTILINE):
        for name in re.findall(r"`(.+?)`", names):
            found[name] = set(re.findall(r"[\w.*]+", allowed))
    return found


ROOMS = rooms()


def allowed(module: str) -> set[str]:
    """What the module's own row says, else the row whose pattern fits it."""
    fitting = [module] if module in ROOMS else [name for name in ROOMS if fnmatch(module, name)]
    assert len(fitting) == 1, f"CONTRIBUTING.md has {len(fitting)} rows for {module}"
    return ROOMS[fitting[0]]


# The table


@EVERY_MODULE
def test_a_module_imports_only_what_its_row_allows(module: str) -> None:
    patterns = allowed(module) | COMMON
    extra = {name for name in IMPORTS[module] if not any(fnmatch(name, p) for p in patterns)}
    assert extra == set()


@pytest.mark.parametrize("row", ROOMS)
def test_a_row_names_modules_that_exist(row: str) -> None:
    for pattern in {row, *ROOMS[row]}:
        assert any(fnmatch(module, pattern) for module in FILES), pattern


def test_there_are_no_circles() -> None:
    assert len(list(TopologicalSorter(IMPORTS).static_order())) == len(FILES)


# The floors


@EVERY_MODULE
def test_only_the_command_line_imports_experiments(module: str) -> None:
    found = {name for name in IMPORTS[module] if name.startswith("experiments")}
    assert not found or module == "cli" or module.startswith("experiments.")


@EVERY_MODULE
def test_no_experiment_imports_another(module: str) -> None:
    found = {name for name in IMPORTS[module] if name.startswith("experiments.")}
    assert module == "cli" or found <= {"experiments.runs"}


@EVERY_MODULE
def test_nothing_imports_a_variant(module: str) -> None:
    assert not [name for name in IMPORTS[module] if name.startswith("variants")]


@pytest.mark.parametrize("module", sorted(NETWORKS | {"pipeline"}))
def test_models_import_no_world(module: str) -> None:
    """But the upsampler, which has to know what a prompt says."""
    worlds = {name for name in IMPORTS[module] if name.split(".")[0] == "world"}
    reading = {"world.language", "world.lexicon"}
    assert worlds == (reading if module == "upsampler" else set())


@pytest.mark.parametrize("module", sorted(NETWORKS | {"pipeline", "sampling", "minisora"}))
def test_models_do_not_know_lightning(module: str) -> None:
    """Nor does anything that they import."""
    knowing = {name for name in {module, *needed_by(module)} if "lightning" in others(name)}
    assert knowing == set()


def test_training_does_not_know_the_command_line() -> None:
    assert not needed_by("training") & {"fit", "cli"}
