"""Kills what minisora runs at random moments, and starts it again until it ends; then feeds damaged
files to everything that reads one. Linux only.

    python tests/soak/soak.py [--seed 0] [--kills 112] [--inputs 10005] [--only fit-dit recaption]

A job is run once undisturbed. Then it is killed with SIGKILL, one to three times in a row, each at a
moment drawn from the time that the whole job takes, and has to come to the same result, to the bit.
Jobs run in forks of this process, so that a kill falls into the work and not into the imports.
"""

import argparse
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import fuzz

from minisora import cli, latents

CONFIGS = Path(__file__).parents[2] / "configs"
VIDEOS = CONFIGS.parent / "data" / "clips"


@dataclass(frozen=True)
class Job:
    """A command that writes to a folder, what is added to start it again, and what it has to come
    to."""

    arguments: Callable[[Path, Path], list[str]]  # (sources, folder)
    result: Callable[[Path], dict[str, Any]]
    again: list[str] = field(default_factory=list)


def fit_job(stage: str, *options: str) -> Job:
    def arguments(sources: Path, folder: Path) -> list[str]:
        given = [option.format(sources=sources) for option in options]
        config, root = (
            f"--config={CONFIGS}/tiny/{stage}.yaml",
            f"--trainer.default_root_dir={folder}",
        )
        return ["fit", stage, config, root, *SHORT, *given]

    return Job(arguments, run_result, ["--ckpt_path=last"])


def run_result(folder: Path) -> dict[str, Any]:
    """A run's weights, log and curve, without what depends on the clock."""
    with open(folder / "metrics.csv") as file:
        rows = [timeless(row, "speed/") for row in csv.DictReader(file)]
    record = json.loads((folder / "weights" / "provenance.json").read_text())
    curves = [timeless(point, "minutes") for part in record.values() for point in part["curve"]]
    return {"log": rows, "curve": curves, **digests(folder, "weights/*.safetensors")}


def timeless(row: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith(prefix)}


def digests(folder: Path, pattern: str = "**/*") -> dict[str, str]:
    """The digest of each file, by its path. Locks and unfinished files have none."""
    files = [path for path in folder.glob(pattern) if path.is_file() and path.name[0] != "."]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
    }


SAID = Path(tempfile.gettempdir()) / f"soak-{os.getpid()}.txt"  # errors of the command that runs
PIECES = ["--pixels=1024", "--seconds=2.2", "--workers=2"]  # many and small
SHORT = [
    *("--trainer.enable_progress_bar=false", "--trainer.max_steps=12"),
    "--trainer.val_check_interval=4",
]
ON_VAE = "--data.view.vae={sources}/runs/vae/weights"
JOBS = {
    "fit-vae": fit_job("vae", "--data.clips=16"),
    "fit-dit": fit_job("dit", "--data.clips=16", "--trainer.log_every_n_steps=3", ON_VAE),
    "fit-captioner": fit_job("captioner", "--data.clips=16", ON_VAE),
    "fit-upsampler": fit_job("upsampler", "--trainer.accumulate_grad_batches=2"),
    "recaption": Job(
        lambda sources, folder: [
            *("recaption", f"{folder}/captions.jsonl", "--clips=200", "--batch=8"),
            f"--weights={sources}/bundle",
        ],
        digests,
    ),
    "ingest": Job(
        lambda sources, folder: [
            *("ingest", str(VIDEOS), f"--out={folder}"),
            *PIECES,
        ],
        digests,
    ),
    "encode": Job(
        lambda sources, folder: [
            *("encode", f"{sources}/all-clips", f"--out={folder}"),
            f"--vae={sources}/runs/vae/weights",
        ],
        digests,
    ),
}


# Kills


def start(arguments: list[str]) -> int:
    """Runs a command line in a fork, silently. Returns its process."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            fuzz.prepare_process()
            os.dup2(os.open(SAID, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            cli.main(arguments)
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        finally:
            os._exit(code)
    return process


def finish(arguments: list[str]) -> float:
    """Runs a command line to its end. Returns seconds; raises AssertionError if it failed."""
    began = time.perf_counter()
    _, status = os.waitpid(start(arguments), 0)
    code = os.waitstatus_to_exitcode(status)
    said = SAID.read_text(errors="replace").replace("\r", "\n").splitlines()[-1:]
    assert code == 0, f"minisora {' '.join(arguments)} ended with {code}: {said}"
    return time.perf_counter() - began


def interrupt(arguments: list[str], seconds: float) -> float:
    """Runs a command line, and kills it after some time. Returns 0, or the seconds that it took if
    it has ended before."""
    began, process = time.perf_counter(), start(arguments)
    while (passed := time.perf_counter() - began) < seconds:
        if os.waitpid(process, os.WNOHANG)[0]:
            return passed
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return 0.0


def soak(job: Job, sources: Path, folder: Path, kills: int, rng: random.Random) -> dict[str, int]:
    """Kills a job until it was killed `kills` times. Returns how often it was killed, and how many
    runs came to the same result and to another one."""
    whole = folder / "whole"
    whole.mkdir(parents=True)
    seconds = finish(job.arguments(sources, whole))
    expected, counts = job.result(whole), {"kills": 0, "same": 0, "different": 0}
    while counts["kills"] < kills:
        here = folder / "killed"
        here.mkdir()
        arguments = job.arguments(sources, here)
        for attempt in range(rng.randint(1, 3)):
            ended = interrupt(arguments, rng.uniform(0, seconds))
            counts["kills"] += not ended
            if ended and attempt == 0:
                seconds = ended  # the machine is less busy than it was
            arguments = [*job.arguments(sources, here), *job.again]
        counts["same" if same_end(job, arguments, here, expected) else "different"] += 1
        shutil.rmtree(here)
    return counts


def same_end(job: Job, arguments: list[str], here: Path, expected: dict[str, Any]) -> bool:
    """Whether a killed job ends as it should; says what is different."""
    try:
        finish(arguments)
    except AssertionError as error:
        print(f"    {error}", flush=True)
        return False
    result = job.result(here)
    for name in expected.keys() | result.keys():
        if expected.get(name) != result.get(name):
            print(f"    {name} is different", flush=True)
    return result == expected


# All


def kill_all(sources: Path, names: list[str], kills: int, seed: int) -> int:
    """Soaks each job, prints its row, and returns the number of runs that went wrong."""
    print(f"{'job':16}{'kills':>10}{'same':>10}{'different':>10}{'time':>11}", flush=True)
    wrong = 0
    for name in names:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            rng = random.Random(f"{seed} {name}")
            counts = soak(JOBS[name], sources, Path(folder), -(-kills // len(names)), rng)
        row = "".join(f"{count:10}" for count in counts.values())
        print(f"{name:16}{row}{time.perf_counter() - began:9.0f} s", flush=True)
        wrong += counts["different"]
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description="Kills and damages what minisora runs and reads.")
    for name, default in (("seed", 0), ("kills", 112), ("inputs", 10_005)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", nargs="+", choices=JOBS, default=list(JOBS), help="jobs to kill")
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    latents.CLIPS = 8  # in a shard, so that kills fall between shards too
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder)
        fuzz.in_fork(fuzz.make_sources_silently, sources)
        if "encode" in options.only:
            finish(["ingest", str(VIDEOS), f"--out={sources}/all-clips", *PIECES])
        wrong = (
            kill_all(sources, options.only, options.kills, options.seed) if options.kills else 0
        )
        failures = fuzz.run_files(sources, options.inputs, options.seed) if options.inputs else []
    SAID.unlink(missing_ok=True)
    print("\n".join(failures))
    sys.exit(bool(wrong or failures))


if __name__ == "__main__":
    main()
