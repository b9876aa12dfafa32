"""What the project promises around the code: pages, configs, shipped weights, the wheel."""

import itertools
import json
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import CONFIGS, stage_of

from minisora import weights
from minisora.cli import main, parser
from minisora.evaluate import fingerprints
from minisora.fit import STAGES, parse
from minisora.report import all_tables, one, seen, select, summary

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MODEL_CARD = (ROOT / "data" / "weights" / "README.md").read_text()
RESULT = json.loads((ROOT / "data" / "weights" / "evaluation.json").read_text())
ROWS = RESULT["rows"]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(CONFIGS.rglob("*.md")),
    ROOT / "data" / "weights" / "README.md",
    ROOT / "notebooks" / "README.md",
]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=name)


# Pages


def test_the_readmes_score_table_is_made_from_the_evaluation() -> None:
    assert summary(RESULT) in README


@pytest.mark.parametrize("number", range(len(all_tables(RESULT).split("\n\n"))))
def test_the_model_card_has_every_table_of_the_evaluation(number: int) -> None:
    assert all_tables(RESULT).split("\n\n")[number] in MODEL_CARD


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def anchors(page: Path) -> set[str]:
    """The page's headings as they are linked on the web: lower case, words joined by dashes."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_broken(link: str, page: Path) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return not target.exists() or bool(anchor and anchor not in anchors(target))


def links_of(page: Path) -> list[str]:
    """The links of a page to files of ours."""
    text = page.read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    return [link for link in links if not link.startswith("http")]


@EVERY_PAGE
def test_links_resolve(page: Path) -> None:
    assert [link for link in links_of(page) if is_broken(link, page)] == []


@pytest.mark.parametrize("folder", ["", "configs", "data/weights", "notebooks"])
def test_the_main_pages_have_links(folder: str) -> None:
    assert links_of(ROOT / folder / "README.md")


# Commands


def commands(text: str) -> list[list[str]]:
    """The commands of minisora in a page or in a config's header, word by word. A backslash at the
    end of a line joins the next."""
    joined = text.replace("\\\n", " ")
    lines = re.findall(r"^(?:#|\$)?[ ]*minisora ([a-z]+ .+)$", joined, re.MULTILINE)
    inline = re.findall(r"`minisora ([a-z]+ [^`]+)`", joined)
    return [shlex.split(line.replace(" \n", " "), comments=True) for line in lines + inline]


def is_whole(command: list[str]) -> bool:
    """Whether a command can be run as it stands: no FILE, no NAME, no ellipsis, and no bare `fit
    dit`, which is a name of the command in a text."""
    named = command[0] == "fit" and "--config" not in command
    return not named and not any(re.search(r"^[A-Z_]+$|…|\.\.\.|\||\[", word) for word in command)


SHOWN = [
    pytest.param(command, id=f"{name(page)}-{number}")
    for page in [*PAGES, *sorted(CONFIGS.rglob("*.yaml"))]
    for number, command in enumerate(filter(is_whole, commands(page.read_text())))
]


@pytest.mark.parametrize("command", SHOWN)
def test_commands_are_understood(
    command: list[str], monkeypatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(ROOT)
    if command[0] == "fit":
        assert parse(command[1], command[2:])["trainer"]["max_steps"] > 0
    elif command[0] == "recaption":
        with pytest.raises(SystemExit) as stop:
            main([*command, "--print_config"])
        assert not stop.value.code
    else:
        parser().parse_args(command)


def test_the_readme_shows_commands() -> None:
    shown = [command[0] for command in commands(README)]
    assert {"sample", "fit", "evaluate", "caption", "reproduce"} <= set(shown)


# Configs

CONFIG_FILES = sorted(CONFIGS.glob("*/*.yaml"))
EVERY_CONFIG = pytest.mark.parametrize("config", CONFIG_FILES, ids=name)


def header(config: Path) -> str:
    lines = config.read_text().splitlines()
    return "\n".join(itertools.takewhile(lambda line: line.startswith("#"), lines))


@EVERY_CONFIG
@pytest.mark.parametrize("part", ["Hardware", "Time", "Expect"])
def test_every_config_says_what_to_expect(config: Path, part: str) -> None:
    assert part in header(config)


@EVERY_CONFIG
def test_every_config_says_its_command(config: Path) -> None:
    command = f"minisora fit {stage_of(config)} --config {name(config)}"
    if config.stem == "recaption":
        command = f"minisora recaption captions.jsonl --config {name(config)}"
    assert command in header(config)


def lacks(whole: dict, part: dict) -> list[str]:
    """The keys of a config whose values are not in the parsed one. Arguments of a network stand
    below its init_args there, and keys that are numbers are texts."""
    missing = []
    for key, value in part.items():
        inside = whole if key in ("class_path", "init_args") else whole.get("init_args", whole)
        parsed = inside.get(str(key))
        if isinstance(value, dict) and isinstance(parsed, dict):
            missing += [f"{key}.{each}" for each in lacks(parsed, value)]
        elif parsed != value:
            missing.append(key)
    return missing


@pytest.mark.parametrize(
    "config", [path for path in CONFIG_FILES if stage_of(path) in STAGES], ids=name
)
def test_every_value_of_a_config_is_used(config: Path) -> None:
    own = yaml.safe_load(config.read_text())
    assert lacks(parse(stage_of(config), ["--config", str(config)]), own) == []


def test_the_config_of_recaptioning_is_used(capsys: pytest.CaptureFixture) -> None:
    config = CONFIGS / "toy" / "recaption.yaml"
    with pytest.raises(SystemExit):
        main(["recaption", "captions.jsonl", "--config", str(config), "--print_config"])
    whole = yaml.safe_load(capsys.readouterr().out)
    assert lacks(whole, yaml.safe_load(config.read_text())) == []


def test_the_overlay_for_wandb_is_used() -> None:
    configs = ["--config", str(CONFIGS / "tiny/dit.yaml"), "--config", str(CONFIGS / "wandb.yaml")]
    logger = parse("dit", configs)["trainer"]["logger"]
    assert logger["class_path"].endswith("WandbLogger")
    assert logger["init_args"]["offline"]


# The shipped weights


def test_the_evaluation_is_of_the_weights_that_are_here() -> None:
    assert RESULT["weights"] == fingerprints()


def test_enough_clips_were_scored() -> None:
    assert RESULT["clips"] >= 500


def test_the_vae_is_far_better_than_the_pca() -> None:
    vae, pca = (
        seen(ROWS, world="shapes", source=source, measure="psnr")["value"]
        for source in ("vae", "pca")
    )
    assert vae >= 31
    assert vae > pca + 3


def test_the_oracle_reads_true_clips_after_the_vae() -> None:
    assert all(row["right"] >= 0.98 for row in select(ROWS, source="vae", measure="all"))


def test_every_split_has_a_ceiling() -> None:
    cases = [(row["world"], row["split"], row["frames"]) for row in ROWS if "right" in row]
    ceilings = select(ROWS, source="vae", measure="all")
    assert {(row["world"], row["split"], row["frames"]) for row in ceilings} == set(cases)


@pytest.mark.parametrize(
    ("measure", "least"), [("all", 0.6), ("background", 0.95), ("color", 0.95), ("size", 0.95)]
)
def test_held_out_pairs_are_followed(measure: str, least: float) -> None:
    row = one(ROWS, world="shapes", split="held_out", source="sampled", measure=measure)
    assert row["right"] >= least


@pytest.mark.parametrize("split", ["train", "held_out", "held_out_motion"])
@pytest.mark.parametrize(("measure", "least"), [("relation", 0.95), ("all", 0.5)])
def test_two_objects_are_followed(split: str, measure: str, least: float) -> None:
    row = one(ROWS, world="pairs", split=split, source="sampled", measure=measure)
    assert row["right"] >= least


def test_completed_prompts_are_followed_far_better_than_short_ones() -> None:
    typed, completed = (
        one(ROWS, source="short prompts", measure=measure) for measure in ("as typed", "completed")
    )
    assert completed["low"] > typed["high"] + 0.1


def test_each_part_is_below_10_mb() -> None:
    parts = list(weights.shipped().glob("*.safetensors"))
    assert len(parts) == 5
    assert max(path.stat().st_size for path in parts) < 10_000_000


# The repository and the wheel


def test_the_weights_work_from_a_wheel(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = (
        "import minisora; from minisora import weights;"
        "assert 'site' in minisora.__file__; assert 'site' in str(weights.shipped());"
        "print(minisora.Sora.from_pretrained()('a red star').shape)"
    )
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=site, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "(1, 17, 32, 32, 3)"


def test_no_file_is_large_but_the_weights() -> None:
    list_files = ["git", "ls-files", "-z"]
    listed = subprocess.run(list_files, cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / path for path in listed.stdout.split("\0") if path]
    large = [path for path in files if path.exists() and path.stat().st_size > 1_000_000]
    assert [path.name for path in large if path.suffix != ".safetensors"] == []
