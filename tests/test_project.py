"""What the project promises around the code: README, configs, wheel."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from minisora.evaluate import fingerprints, table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONFIGS = sorted((ROOT / "configs").glob("*/*.yaml"))


def test_the_readmes_score_table_is_made_from_the_evaluation() -> None:
    result = json.loads((ROOT / "data" / "weights" / "evaluation.json").read_text())
    assert table(result) in README
    assert result["weights"] == fingerprints()  # of the weights that are here


def anchors(page: Path) -> set[str]:
    """Of its headings, as they are made on the web: lower case, words joined by dashes."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("folder", ["", "configs", "data/weights", "notebooks"])
def test_links_resolve(folder: str) -> None:
    page = ROOT / folder / "README.md"
    links = re.findall(r"\]\(([^)]+)\)", page.read_text())
    links += re.findall(r'src="([^"]+)"', page.read_text())
    broken = []
    for link in (link for link in links if not link.startswith("http")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert links and broken == []


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_parses_and_says_what_to_expect(config: Path) -> None:
    header = "".join(line for line in config.read_text().splitlines(True) if line.startswith("#"))
    path = f"configs/{config.parent.name}/{config.name}"
    command = f"minisora fit {config.stem} --config {path}"
    if config.stem == "recaption":
        command = f"minisora recaption captions.jsonl --config {path}"
    assert command in header and "Hardware" in header and "Time" in header and "Expect" in header
    shown = subprocess.run(
        [sys.executable, "-m", "minisora.cli", *command.split()[1:], "--print_config"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    whole, ours = yaml.safe_load(shown.stdout), yaml.safe_load(config.read_text())
    if "trainer" in ours:
        whole, ours = whole["trainer"], {"max_steps": ours["trainer"]["max_steps"]}
    assert all(whole[key] == value for key, value in ours.items())


def test_wandb_overlay_parses() -> None:
    arguments = [
        "fit",
        "dit",
        "--config",
        "configs/tiny/dit.yaml",
        "--config",
        "configs/wandb.yaml",
        "--print_config",
    ]
    shown = subprocess.run(
        [sys.executable, "-m", "minisora.cli", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "WandbLogger" in shown.stdout and "offline: true" in shown.stdout, shown.stderr


def test_readme_commands_are_understood() -> None:
    from minisora.cli import parser

    commands = re.findall(r"^minisora ((?!fit).+?)(?:\s+#.*)?$", README, flags=re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        import shlex

        parser().parse_args(shlex.split(command))


def test_the_weights_work_from_a_wheel(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import minisora; assert 'site' in minisora.__file__; from minisora import weights; "
        "assert 'site' in str(weights.shipped()); print(minisora.Sora.from_pretrained()('a red star').shape)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "site",
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "(1, 17, 32, 32, 3)"


def test_the_shipped_weights_keep_their_promises() -> None:
    """The figures that were asked of them, as the evaluation measured them."""
    result = json.loads((ROOT / "data" / "weights" / "evaluation.json").read_text())
    splits, pca = result["splits"], result["pca"]
    assert result["clips"] >= 500
    assert splits["seen"]["psnr"] >= 31 and splits["seen"]["psnr"] > pca["psnr"] + 3
    for entry in splits.values():
        assert entry["ceiling"]["all"]["right"] >= 0.98
    assert splits["held-out pairs"]["scores"]["all"]["right"] >= 0.6
    for name in ("background", "color", "size"):
        assert splits["held-out pairs"]["scores"][name]["right"] >= 0.95
    for entry in result["pairs"].values():
        assert entry["scores"]["relation"]["right"] >= 0.95
        assert entry["scores"]["all"]["right"] >= 0.5
        assert entry["ceiling"]["all"]["right"] >= 0.98
    assert result["short"]["upsampled"]["low"] > result["short"]["typed"]["high"] + 0.1
    parts = (ROOT / "data" / "weights").glob("*.safetensors")
    assert max(path.stat().st_size for path in parts) < 10_000_000


def test_no_file_is_large_but_the_weights() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert [
        f.name
        for f in files
        if f.exists() and f.stat().st_size > 1_000_000 and f.suffix != ".safetensors"
    ] == []
