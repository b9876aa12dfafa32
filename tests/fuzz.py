"""A seeded fuzz of everything minisora reads: clips, weights, captions, configs, checkpoints and
command lines.

    python tests/fuzz.py [--seed 0] [--files 3000] [--commands 500] [--only KIND:NUMBER]

Every case starts from a good file or command and damages it. A case fails if it raises anything but
InputError, takes more than 10 s of a core, or needs more than 1 GiB; a command line also if its exit code
is unusual or its output has a traceback. A case is a function of (seed, kind, number) and runs in
a forked process, so a crash is one failure too. Linux only.
"""

import argparse
import contextlib
import copy
import io
import json
import math
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import yaml
from conftest import CONFIGS, fit, untrained_sora
from PIL import Image

from minisora import InputError, Sora, cli, ingest, latents, video, weights, world
from minisora.captioner import Captioner
from minisora.checkpoints import check_checkpoint
from minisora.fit import STAGES, parse
from minisora.footage import CAPTIONS, INDEX, Footage
from minisora.latents import LatentStore
from minisora.recaption import OwnClips, recaption_clips
from minisora.upsampler import Upsampler
from minisora.views import read_captions

SECONDS = 10  # of a case, of one core
GROWTH = 2**20  # KiB of memory
FORK = multiprocessing.get_context("fork")
CLIPS = ("mp4", "gif", "webp", "png", "jpg", "mkv")
PARTS = {"vae": torch.nn.Module, "captioner": Captioner, "upsampler": Upsampler}
EXIT_CODES = (0, 2, 130, 141)
PROMPT = "a small red circle on a black background"

ODD_NUMBERS = [
    *(-1, 0, 1, 2, 3, 7, 64, 1000, 16384, 65536, 10**6, 2**31, 2**63, 10**30),
    *(0.5, -0.5, 1e308, float("nan"), float("inf")),
]
ODD_VALUES: list[Any] = [
    *(None, True, [], {}, [[]], "", "x", "x" * 300, "\0", "\ud800", "..", "nan", "os.system"),
    *("minisora.vae.VAE", "minisora.dit.DiT", "minisora.nothing", "torch.nn.Linear"),
    *ODD_NUMBERS,
]
ODD_WORDS = [
    *("", " ", "-", "--", "=", "0", "-1", "1.5", "nan", "-inf", "1e999", "9" * 30, "1000000"),
    *("\x1b[31m", "\r\x07", "\udcff", "\u540d\u524d", "\u0663", "x" * 300, "null", "[]", "{}"),
    *("missing.mp4", "missing/clip.mp4", "folder", "damaged.mp4", "clip.xyz", "/dev/null", "true"),
]
OPTIONS = {
    "sample": [
        *("out", "num-frames", "height", "width", "seed", "steps", "guidance-scale"),
        *("negative-prompt", "as-typed", "scale", "weights", "help"),
    ],
    "caption": ["temperature", "seed", "weights"],
    "recaption": ["clips", "seed", "worlds", "wrong", "typos", "mix", "weights", "config"],
    "fit": [
        *("data.seed", "data.clips", "data.worlds", "data.view", "data.batch_size", "config"),
        *("data.sizes", "data.num_frames", "data.view.lengths", "data.view.known"),
        *("model", "model.lr", "model.dit", "model.dit.size", "model.vae.width", "model.text"),
        *("trainer.devices", "trainer.callbacks", "trainer.logger", "ckpt_path", "print_config"),
    ],
    "evaluate": ["clips", "seed", "out", "weights"],
    "reproduce": ["only", "seeds", "steps", "prompts"],
    "doctor": ["weights", "help"],
    "--version": ["help"],
}
LAST = {  # a bad option at the end of commands that could train, or take long
    "recaption": ["--batch=0"],
    "fit": ["--trainer.max_steps=none"],
    "evaluate": ["--clips=0"],
    "reproduce": ["--only", "nothing"],
    "doctor": ["--weights=missing"],
}
# Fields after these names hold sizes, counts and durations.
FIELDS = (
    *(b"mvhd", b"tkhd", b"mdhd", b"stts", b"stsz", b"stsc", b"stco", b"elst", b"avc1"),  # mp4
    *(b"VP8X", b"VP8L", b"ANIM", b"ANMF", b"RIFF"),  # webp
    *(b"IHDR", b"IDAT", b"tEXt"),  # png
    *(b"GIF89a", b"!\xf9\x04", b"NETSCAPE2.0"),  # gif
    *(b"\xff\xc0", b"Exif"),  # jpg
    *(b"\x2a\xd7\xb1", b"\x44\x89", b"\xe0", b"\xa3"),  # mkv
)


# Damage


def damage(data: bytes, rng: random.Random) -> bytes:
    """The bytes after one to three kinds of damage."""
    kinds = (cut, flip, overwrite, repeat, inflate, inflate)
    for _ in range(rng.randint(1, 3)):
        data = rng.choice(kinds)(data, rng) or data
    return data


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 3, 30])):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwrite(data: bytes, rng: random.Random) -> bytes:
    start, length = rng.randrange(len(data)), rng.choice([1, 16, 256])
    block = rng.choice([bytes(length), b"\xff" * length, rng.randbytes(length)])
    return data[:start] + block + data[start + length :]


def repeat(data: bytes, rng: random.Random) -> bytes:
    start, length = rng.randrange(len(data)), rng.choice([1, 16, 256, 4096])
    return data[: start + length] + data[start:]


def inflate(data: bytes, rng: random.Random) -> bytes:
    """Writes a large or small number near the name of a field, or anywhere."""
    found = [data.find(name) + len(name) for name in FIELDS if name in data]
    start = rng.choice(found) + rng.randrange(28) if found else rng.randrange(len(data))
    length = rng.choice([1, 2, 3, 4, 8])
    number = rng.choice([0, 1, 8000, 2**15, 2**16 - 1, 2**24 - 1, 2**31 - 1, 2**32 - 1, 2**63])
    order = rng.choice(["big", "little"])
    block = (number % 256**length).to_bytes(length, order)
    return data[:start] + block + data[start + length :]


def mend_png(data: bytes) -> bytes:
    """The file with right checksums, so that damage gets past them."""
    fixed, at = bytearray(data), 8
    while at + 12 <= len(fixed):
        end = at + 8 + int.from_bytes(fixed[at : at + 4])
        fixed[end : end + 4] = zlib.crc32(fixed[at + 4 : end]).to_bytes(4)
        at = end + 4
    return bytes(fixed)


def change(value: Any, rng: random.Random) -> Any:
    """A copy of nested lists and dicts, with one to three odd values, or keys that are missing."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        owners = [each for each in nested(value) if each]
        if owners:
            owner = rng.choice(owners)
            key = rng.choice(list(owner) if isinstance(owner, dict) else range(len(owner)))
            if rng.random() < 0.2:
                del owner[key]
            else:
                owner[key] = odd_value(owner[key], rng)
    return value


def odd_value(old: Any, rng: random.Random) -> Any:
    """Any odd value, but for numbers mostly another number: that gets past checks of types."""
    if isinstance(old, int | float) and rng.random() < 0.7:
        return rng.choice(ODD_NUMBERS)
    return copy.deepcopy(rng.choice(ODD_VALUES))


def nested(value: Any) -> list[Any]:
    """All lists and dicts in a value."""
    if not isinstance(value, list | dict):
        return []
    parts = value.values() if isinstance(value, dict) else value
    return [value, *(owner for part in parts for owner in nested(part))]


def change_text(text: str, rng: random.Random) -> bytes:
    """A text with damaged bytes, or with deep brackets in one position."""
    if rng.random() < 0.8:
        return damage(text.encode(), rng)
    at, depth = rng.randrange(len(text)), rng.choice([10, 2000, 100_000])
    return (text[:at] + rng.choice("[{") * depth + text[at:]).encode()


# Good files


def make_sources(folder: Path) -> None:
    """Writes the good files that cases damage."""
    frames = world.clip(0, 0, 9).frames
    for suffix in ("mp4", "gif", "webp", "png"):
        video.write(folder / f"clip.{suffix}", frames)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    Image.fromarray(frames[0]).save(folder / "clip.jpg", exif=exif)
    with av.open(str(folder / "clip.mkv"), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=8)
        stream.height, stream.width = frames.shape[1:3]
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    make_bundle(folder / "bundle")
    make_captions(folder)
    fit("vae", folder / "runs", "--data.clips=8", "--trainer.max_steps=2")
    make_footage(folder)


def make_bundle(folder: Path) -> None:
    """Writes a tiny untrained video model with its own captioner and upsampler."""
    words, sora = sorted(world.WORDS), untrained_sora()
    sora.defaults = sora.defaults | {"base_tokens": 80, "num_frames": 9, "guidance_until": 0.1}
    sora.save(folder)
    captioner = Captioner(words, width=32, depth=1, frames=5)
    weights.save(folder, {}, captioner=captioner, upsampler=Upsampler(words, width=32, depth=1))


def make_captions(folder: Path) -> None:
    """Writes a folder of own clips, and what `minisora recaption` writes for toy clips."""
    (folder / "own").mkdir()
    rows = []
    for suffix in ("mp4", "gif", "jpg"):
        shutil.copy(folder / f"clip.{suffix}", folder / "own")
        rows.append(json.dumps({"file": f"clip.{suffix}", "caption": PROMPT}))
    (folder / "own" / "captions.jsonl").write_text("\n".join(rows) + "\n")
    recaption_clips(str(folder / "recaptions.jsonl"), clips=8, weights=str(folder / "bundle"))


def make_footage(folder: Path) -> None:
    """Writes clips of real footage, as `minisora ingest` does, and their latents."""
    (folder / "videos").mkdir()
    shutil.copy(CONFIGS.parent / "data" / "clips" / "bunny.mp4", folder / "videos")
    ingest.ingest(folder / "videos", folder / "clips", pixels=1024, seconds=2.2, workers=1)
    weights_folder = str(folder / "runs" / "vae" / "weights")
    latents.encode_footage(str(folder / "clips"), str(folder / "latents"), weights_folder)


# Cases: each damages a file into its own folder, and reads it


def clip_case(suffix: str, sources: Path, folder: Path, rng: random.Random) -> None:
    data = damage((sources / f"clip.{suffix}").read_bytes(), rng)
    if suffix == "png" and rng.random() < 0.7:
        data = mend_png(data)
    path = folder / f"clip.{suffix}"
    path.write_bytes(data)
    refusals = []
    for read in (video.read, partial(video.sample, count=9)):
        try:
            read(path)
        except InputError as error:  # `sample` has to be tried too
            refusals.append(error)
    if refusals:
        raise refusals[0]


def config_case(sources: Path, folder: Path, rng: random.Random) -> None:
    shutil.copytree(sources / "bundle", folder / "bundle")
    path = folder / "bundle" / "config.json"
    config = json.loads(path.read_text())
    if rng.random() < 0.2:
        config = as_old(config)
    if rng.random() < 0.1:
        config = change(config, rng)
    else:
        part = rng.choice(list(config))
        config[part] = change(config[part], rng)
    text = json.dumps(config)
    path.write_bytes(change_text(text, rng) if rng.random() < 0.2 else text.encode())
    read_bundle(folder / "bundle")


def as_old(config: dict[str, Any]) -> dict[str, Any]:
    """The config as it was before it named classes."""
    old = {name: entry.get("config", entry) for name, entry in config.items()}
    old["makes"] = {"num_frames": 17, "height": 32, "width": 32, "objects": 1}
    del old["trained_on"]
    return old


def tensors_case(sources: Path, folder: Path, rng: random.Random) -> None:
    shutil.copytree(sources / "bundle", folder / "bundle")
    path = rng.choice(sorted((folder / "bundle").glob("*.safetensors")))
    data = path.read_bytes()
    if rng.random() < 0.5:
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.dumps(change(json.loads(data[8:end]), rng)).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])
    else:
        path.write_bytes(damage(data, rng))
    read_bundle(folder / "bundle")


def read_bundle(folder: Path) -> None:
    """Loads every part of a bundle, and samples a small clip and one from an image."""
    for name, kind in PARTS.items():
        weights.load(folder, name, kind)
    sora = Sora.from_pretrained(folder)
    if math.prod(sora.default_shape) < 10**5:  # larger clips are slow, not wrong
        sora(PROMPT, num_inference_steps=1)
        sora.animate(np.zeros((8, 8, 3), np.uint8), PROMPT, 5, num_inference_steps=1)


def own_clips_case(sources: Path, folder: Path, rng: random.Random) -> None:
    shutil.copytree(sources / "own", folder / "own")
    change_lines(folder / "own" / "captions.jsonl", rng)
    clips = OwnClips(folder / "own", frames=5, size=32)
    for number in range(len(clips)):
        clips[number]


def recaptions_case(sources: Path, folder: Path, rng: random.Random) -> None:
    path = folder / "recaptions.jsonl"
    shutil.copy(sources / path.name, path)
    change_lines(path, rng)
    read_captions(str(path), rng.choice(["caption", "human", "synthetic"]))


def change_lines(path: Path, rng: random.Random) -> None:
    """Damages a file of JSON lines, in one line or in any bytes."""
    lines = path.read_text().splitlines()
    number = rng.randrange(len(lines))
    if rng.random() < 0.6:
        lines[number] = json.dumps(change(json.loads(lines[number]), rng))
        path.write_text("\n".join(lines))
    else:
        path.write_bytes(change_text("\n".join(lines), rng))


def fit_config_case(sources: Path, folder: Path, rng: random.Random) -> None:
    stage, path = rng.choice(list(STAGES)), folder / "config.yaml"
    text = (CONFIGS / "tiny" / f"{stage}.yaml").read_text()
    if rng.random() < 0.6:
        path.write_text(yaml.safe_dump(change(yaml.safe_load(text), rng)), errors="replace")
    else:
        path.write_bytes(change_text(text, rng))
    parse(stage, [f"--config={path}"])


def checkpoint_case(sources: Path, folder: Path, rng: random.Random) -> None:
    good = sources / "runs" / "vae" / "checkpoints" / "last.ckpt"
    path = folder / "last.ckpt"
    path.write_bytes(damage(good.read_bytes(), rng))
    check_checkpoint(path)
    assert path.read_bytes() == good.read_bytes(), "a damaged checkpoint was accepted"


def video_case(sources: Path, folder: Path, rng: random.Random) -> None:
    """A file among the videos of `minisora ingest`, which has to go on whatever it is."""
    suffix = rng.choice(CLIPS)
    (folder / "out").mkdir()
    path = folder / f"clip.{suffix}"
    path.write_bytes(damage((sources / path.name).read_bytes(), rng))
    task = (folder, path.name)
    row = ingest.take(task, lambda **_: None, folder / "out", 1024, 17, {})
    if not row["clips"]:
        raise InputError(str(row["dropped"]))


def index_case(sources: Path, folder: Path, rng: random.Random) -> None:
    shutil.copytree(sources / "clips", folder / "clips")
    change_lines(folder / "clips" / rng.choice([INDEX, CAPTIONS]), rng)
    clips = Footage(folder / "clips")
    for number in range(len(clips)):
        clips.read(number)


def latents_case(sources: Path, folder: Path, rng: random.Random) -> None:
    shutil.copytree(sources / "latents", folder / "latents")
    path = rng.choice(sorted((folder / "latents").iterdir()))
    if path.suffix == ".json" and rng.random() < 0.5:
        path.write_text(json.dumps(change(json.loads(path.read_text()), rng)))
    else:
        path.write_bytes(damage(path.read_bytes(), rng))
    store = LatentStore(folder / "latents")
    for number in range(len(store)):
        store.latents(number, 0, 1)


# Command lines


def command_case(sources: Path, folder: Path, rng: random.Random) -> None:
    """Raises AssertionError unless the command ends as commands may. Raises InputError for exit
    code 2, so that it counts as refused."""
    os.chdir(folder)
    Path("folder").mkdir()
    Path("damaged.mp4").write_bytes(damage((sources / "clip.mp4").read_bytes(), rng))
    arguments, code = draw_command(sources, rng), 0
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main(arguments)
    except SystemExit as stop:
        code = stop.code or 0
    assert code in EXIT_CODES, f"{arguments} ended with {code!r}: {err.getvalue()[-300:]}"
    assert "Traceback" not in err.getvalue(), f"{arguments}: {err.getvalue()[-300:]}"
    if code == 2:
        raise InputError(err.getvalue())


def draw_command(sources: Path, rng: random.Random) -> list[str]:
    """Arguments, some of them odd. Commands that could train for long end in one bad option."""
    name = rng.choice([*OPTIONS, rng.choice(ODD_WORDS)])
    start, end = draw_start(name, sources, rng), LAST.get(name, [])
    count = rng.choice([0, 1, 1, 2, 4])
    drawn = [draw_option(rng.choice(OPTIONS.get(name, ["x"])), rng) for _ in range(count)]
    return [name, *start, *(word for option in drawn for word in option), *end]


def draw_start(name: str, sources: Path, rng: random.Random) -> list[str]:
    """The first arguments of a command: positions, and the tiny bundle instead of the shipped."""
    odd, stage = rng.choice(ODD_WORDS), rng.choice(list(STAGES))
    tiny = ["--weights", str(sources / "bundle")]
    clips = [*ODD_WORDS, *(str(sources / f"clip.{suffix}") for suffix in CLIPS * 3)]
    return {
        "sample": [rng.choice([PROMPT, "circle", odd]), *tiny],
        "caption": [*rng.choices(clips, k=rng.randint(1, 3)), *tiny],
        "recaption": [odd, f"--folder={rng.choice([str(sources / 'own'), odd])}"],
        "fit": [rng.choice([stage, stage, odd]), f"--config={CONFIGS}/tiny/{stage}.yaml"],
        "reproduce": [rng.choice([*cli.EXPERIMENTS, odd])],
    }.get(name, [])


def draw_option(name: str, rng: random.Random) -> list[str]:
    """An option with a good or an odd value, or none; the names of some are cut."""
    name = name[: rng.randint(1, len(name))] if rng.random() < 0.1 else name
    value = rng.choice(["1", "2", "clip.gif"] if rng.random() < 0.4 else ODD_WORDS)
    forms = [[f"--{name}={value}"], [f"--{name}", value], [f"--{name}"]]
    return rng.choices(forms, [6, 4, 1])[0]


# Running cases

Case = Callable[[Path, Path, random.Random], None]
FILES: dict[str, Case] = {suffix: partial(clip_case, suffix) for suffix in CLIPS} | {
    "config": config_case,
    "safetensors": tensors_case,
    "own clips": own_clips_case,
    "recaptions": recaptions_case,
    "fit config": fit_config_case,
    "checkpoint": checkpoint_case,
    "ingest": video_case,
    "index": index_case,
    "latents": latents_case,
}
KINDS = FILES | {"command": command_case}


def run(sources: Path, kind: str, number: int, seed: int) -> str:
    """Runs a case in a process of its own: "accepted", "refused", or what failed."""
    receiver, sender = FORK.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        arguments = sender, sources, Path(folder), kind, number, seed
        process = FORK.Process(target=run_here, args=arguments)
        process.start()
        sender.close()
        try:
            waits = receiver.poll(20 * SECONDS)  # the machine may be busy
            outcome = receiver.recv() if waits else "it waits for something"
        except EOFError:
            process.join()
            died = f"the process died, exit code {process.exitcode}"
            outcome = f"more than {SECONDS} s" if process.exitcode == -signal.SIGXCPU else died
        process.kill()
        process.join()
    return outcome


def run_here(sender: Any, sources: Path, folder: Path, kind: str, number: int, seed: int) -> None:
    """Runs a case, and sends how it ended."""
    prepare_process()
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, -1))
    memory = peak()
    try:
        KINDS[kind](sources, folder, random.Random(f"{seed} {kind} {number}"))
        outcome = "accepted"
    except InputError:
        outcome = "refused"
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-3:]
        where = " < ".join(f"{Path(at.filename).name}:{at.lineno}" for at in reversed(last))
        outcome = f"{type(error).__name__}: {str(error)[:400]} ({where})"
    grown = peak() - memory
    sender.send(outcome if grown < GROWTH else f"{grown / 2**20:.1f} GiB more memory; {outcome}")


def prepare_process() -> None:
    """Silences the process, and limits its memory, so that no case harms the machine."""
    warnings.simplefilter("ignore")
    warnings.showwarning = lambda *_, **__: None
    torch.set_num_threads(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 6 * 2**30, -1))


def peak() -> int:
    """KiB of memory at the process's peak so far. A fork begins anew."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_fork(function: Callable, *arguments: Any) -> None:
    """Runs a function in a process of its own, since threads do not survive a fork."""
    process = FORK.Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit("the good files could not be written")


def run_kind(sources: Path, kind: str, count: int, seed: int) -> list[str]:
    """Runs cases of one kind, prints their row, and returns a line for each failure."""
    started, counts, failures = time.perf_counter(), Counter(), []
    for number in range(count):
        outcome = run(sources, kind, number, seed)
        counts[outcome] += 1
        if outcome not in ("accepted", "refused"):
            repeat = f'python tests/fuzz.py --only "{kind}:{number}" --seed {seed}'
            failures.append(f"{repeat}\n    {outcome}")
    row = count, counts["refused"], counts["accepted"], len(failures)
    seconds = time.perf_counter() - started
    print(f"{kind:12}" + "".join(f"{cell:10}" for cell in row) + f"{seconds:9.0f} s", flush=True)
    return failures


def run_files(sources: Path, count: int, seed: int) -> list[str]:
    """Runs `count` or a few more cases of damaged files, as many of each kind, and prints a table.
    Returns a line for each failure."""
    print(f"{'kind':12}{'tried':>10}{'refused':>10}{'accepted':>10}{'failures':>10}{'time':>11}")
    each = -(-count // len(FILES))
    return [line for kind in FILES for line in run_kind(sources, kind, each, seed)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzzes everything that minisora reads.")
    for name, default in (("seed", 0), ("files", 3000), ("commands", 500)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", metavar="KIND:NUMBER", help="repeat one case")
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder)
        in_fork(make_sources_silently, sources)
        if options.only:
            kind, number = options.only.split(":")
            outcome = run(sources, kind, int(number), options.seed)
            print(outcome)
            sys.exit(outcome not in ("accepted", "refused"))
        failures = run_files(sources, options.files, options.seed)
        failures += run_kind(sources, "command", options.commands, options.seed)
    print("\n".join(failures))
    sys.exit(bool(failures))


def make_sources_silently(folder: Path) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
        make_sources(folder)


if __name__ == "__main__":
    main()
