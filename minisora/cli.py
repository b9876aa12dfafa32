"""The command line: `minisora sample | caption | recaption | fit | evaluate | reproduce |
doctor`. What is slow to import is imported where it is used."""

import argparse
import json
import math
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import minisora
from minisora.arguments import folder, number, positive, seed, shorten, sides, weights_option
from minisora.errors import InputError, Interrupted
from minisora.files import check_writable, write_text
from minisora.making import MODE_COMMANDS, mode_options, sample_options

EXPERIMENTS = {  # `reproduce NAME`: a module of minisora.experiments, and its question
    "recipe": "what does the training recipe rest on?",
    "recaption": "do synthetic captions help?",
    "paraphrases": "does a text encoder that has read far more text help?",
    "binding": "with two objects, whose color is it?",
    "words": "does the upsampler understand other people's words?",
    "going_on": "how to go on from known frames, and what helps in long clips?",
}


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: say("warning", message)
            if arguments[:1] == ["fit"]:  # LightningCLI reads its own arguments
                fit_command(arguments[1:])
            elif arguments[:1] == ["recaption"]:  # every argument of the function is a flag
                recaption_command(arguments[1:])
            else:
                options = parse(arguments)
                with interruptible():  # `fit` has its own way to end
                    options.run(options)
            sys.stdout.flush()  # a closed pipe shows here
    except InputError as error:
        say("error", error)
        sys.exit(2)
    except Interrupted as error:
        say("error", error)
        sys.exit(error.code)
    except BrokenPipeError:  # `| head -1` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:  # a name of 300 letters, a full disk
        say("error", f"{error.strerror or error}: {shorten(str(error.filename or ''))}")
        sys.exit(2)
    except KeyboardInterrupt:
        say("error", "interrupted")
        sys.exit(130)


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM ends the command in the block as an exception, so that no half-written file is left."""

    def terminated(number: int, frame: Any) -> None:
        raise Interrupted("terminated", 128 + number)

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def say(kind: str, message: object) -> None:
    text = f"minisora: {kind}: {message}"
    print(text.encode(errors="replace").decode(), file=sys.stderr)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options, and `run`, the function of the command. Raises InputError for arguments that are
    not text and for those that argparse stumbles over."""
    for argument in arguments:
        if not argument.isascii() and argument.encode(errors="replace").decode() != argument:
            raise InputError(f"{argument!r} is not text in UTF-8")
        if argument.endswith("=--"):  # argparse would drop the value
            raise InputError(f"{argument} has no value")
    try:
        return parser().parse_args(arguments)
    except (TypeError, IndexError, ValueError) as error:  # such as --seed=--
        raise InputError(f"the arguments cannot be read: {error}") from None


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        "minisora", description="Text to video on a laptop: sample, train, evaluate."
    )
    top.add_argument("--version", action="version", version=f"minisora {minisora.__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text)

    sample_options(add("sample", "make a clip from a prompt"))
    for name, (text, *_) in MODE_COMMANDS.items():
        mode_options(add(name, text), name)
    # `fit` and `recaption` stand here for the help; `main` hands their arguments over
    add("fit", "train: fit vae|dit|captioner|upsampler --config configs/SCALE/STAGE.yaml")
    caption_options(add("caption", "describe clips in words"))
    add("recaption", "write captions for a set of clips: recaption OUT --mix 0.95")
    ingest_options(add("ingest", "cut a folder of videos into clips to train on"))
    encode_options(add("encode", "compress a folder of clips to latents, once, to train on them"))
    plan_options(
        add("plan", "say what a training or a clip will cost: plan configs/node/dit.yaml")
    )
    evaluate_options(
        add("evaluate", "sample prompts of every split, and let the oracle score them")
    )
    reproduce_options(add("reproduce", "run an experiment, or go on with it, and print its table"))
    doctor = add("doctor", "show what this machine has, and make a test clip")
    weights_option(doctor)
    doctor.set_defaults(run=doctor_command)
    return top


# fit


def fit_command(arguments: list[str]) -> None:
    stages = ("vae", "dit", "captioner", "upsampler")
    if not arguments or arguments[0] not in stages:
        if arguments[:1] not in (["-h"], ["--help"]):
            raise InputError(
                f"name what to train: minisora fit {'|'.join(stages)} --config configs/toy/STAGE.yaml"
            )
        print(
            "usage: minisora fit vae|dit|captioner|upsampler --config FILE [--config OVERLAY] [--KEY VALUE ...]\n"
            "       [--ckpt_path last, or FILE] resumes; [--data.folder FOLDER] trains on your own clips\n"
            "       minisora fit STAGE --help lists every key; --print_config prints the whole config"
        )
        return
    from minisora import fit

    fit.train(arguments[0], arguments[1:])


# caption and recaption


def caption_options(command: argparse.ArgumentParser) -> None:
    add, help_text = (
        command.add_argument,
        "0 writes the likeliest words, 1 draws them (default: 0)",
    )
    add("clips", nargs="+", metavar="CLIP", help="video files or images")
    add("--temperature", type=float, default=0.0, help=help_text)
    add("--seed", type=seed, default=0, help="of the draws (default: 0)")
    weights_option(command)
    command.set_defaults(run=caption_command)


def caption_command(options: argparse.Namespace) -> None:
    if not 0 <= options.temperature < math.inf:
        raise InputError(f"--temperature must be 0 or more, got {options.temperature}")
    import torch

    from minisora import media

    captioner = minisora.Captioner.from_pretrained(options.weights)
    generator, failed = torch.Generator().manual_seed(options.seed), 0
    for path in options.clips:
        try:
            clip = minisora.video.sample(path, captioner.frames, captioner.size)
            (text,) = captioner(clip[None], options.temperature, generator, sampled=True)
            print(f"{path}: {text}")
            if made := media.summary(minisora.video.about(path)):
                print(f"{' ' * len(path)}  {made}")
        except InputError as error:
            say("error", error)
            failed += 1
    if failed:
        count = len(options.clips)
        raise InputError(
            f"{failed} of {count} clips could not be read" if count > 1 else "no caption"
        )


def recaption_command(arguments: list[str]) -> None:
    import jsonargparse

    from minisora.recaption import recaption_clips

    jsonargparse.auto_cli(recaption_clips, args=arguments, prog="minisora recaption")


# ingest


def ingest_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    text = "any videos and images; captions in captions.jsonl, or in a .txt beside each"
    add("folder", type=folder, metavar="FOLDER", help=text)
    add("--out", type=folder, required=True, metavar="CLIPS", help="the folder to write")
    add("--pixels", type=positive, default=16384, help="of a frame, at most (default: 16384)")
    add("--seconds", type=float, default=20.0, help="of a clip, at most (default: 20)")
    add("--workers", type=positive, metavar="N", help="processes (default: one for each core)")
    text = "seconds after which a decoder that shows no progress is given up (default: 120)"
    add("--patience", type=float, default=120.0, help=text)
    command.set_defaults(run=ingest_command)


def ingest_command(options: argparse.Namespace) -> None:
    from minisora import ingest

    what = {key: getattr(options, key) for key in ("pixels", "seconds", "workers", "patience")}
    rows = ingest.ingest(options.folder, options.out, **what)
    print(ingest.table(rows))
    print(f"\n{options.out}/{ingest.INDEX} says of every file what was kept, dropped and why")


# encode


def encode_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("clips", type=folder, metavar="CLIPS", help="a folder that `minisora ingest` wrote")
    add("--out", type=folder, required=True, metavar="LATENTS", help="the folder to write")
    add("--vae", type=folder, required=True, metavar="WEIGHTS", help="the folder of the VAE")
    text = "which of the processes that share the work this is, from 0 (default: torchrun's RANK)"
    add("--rank", type=rank, metavar="R", help=text)
    text = "how many processes share the work (default: torchrun's WORLD_SIZE, else 1)"
    add("--ranks", type=positive, metavar="N", help=text)
    command.set_defaults(run=encode_command)


def rank(text: str) -> int:
    return number(text, 0, 10**6, "a million")


def encode_command(options: argparse.Namespace) -> None:
    from minisora import latents

    ranks = latents.given_ranks(options.rank, options.ranks)
    missing = latents.encode_footage(options.clips, options.out, options.vae, ranks)
    if missing:
        print(f"rank {ranks.rank} is done, the others have {len(missing)} shards left to write")
    else:
        store = latents.LatentStore(options.out)
        print(f"{options.out} is complete: latents of {len(store)} clips, VAE {store.head['vae']}")


# plan


def plan_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("config", metavar="CONFIG", help="of a transformer or a VAE")
    add(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="model.dit.size=XL data.batch_size=8",
    )
    add("--gpu", default="H100", help="RTX4090, A100, H100, H200 or B200 (default: H100)")
    add("--devices", type=positive, metavar="N", help="in all (default: the config's)")
    text = "the share of the GPU's peak that is reached, recomputation counted (default: 0.4)"
    add("--mfu", type=float, default=0.4, help=text)
    text = "sizes of clips that are not there yet, such as 256x256 256x448"
    add("--sizes", nargs="+", type=sides(2), default=[], metavar="HxW", help=text)
    text = "plan the making of one clip, such as 1441x1080x1920, a minute at 24 frames a second"
    add("--clip", metavar="TxHxW", type=sides(3), help=text)
    command.set_defaults(run=plan_command)


def plan_command(options: argparse.Namespace) -> None:
    from minisora import fit, plan

    keys, sizes = [f"--{pair}" for pair in options.set], dict.fromkeys(options.sizes, 1.0)
    made = plan.read(options.config, keys, fit.parse, options.devices, sizes)
    print(plan.report(made, options.gpu, options.mfu))
    if options.clip:
        frames, height, width = options.clip
        clip = plan.Clip(frames, height, width, made.clips[0][0].cut)
        print("\n" + plan.report_clip(made, clip, options.gpu, options.mfu))


# evaluate


def evaluate_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--clips", type=positive, default=500, help="prompts for each split (default: 500)")
    add("--seed", type=seed, default=0, help="draws other prompts and noise (default: 0)")
    add("--out", default="evaluation.json", help="file for the rows (default: evaluation.json)")
    what = command.add_mutually_exclusive_group().add_argument
    what("--breadth", action="store_true", help="score sizes, lengths and modes instead of splits")
    what("--media", action="store_true", help="score prompts with images and videos instead")
    weights_option(command)
    command.set_defaults(run=evaluate_command)


def evaluate_command(options: argparse.Namespace) -> None:
    out = check_writable(options.out)
    from minisora import breadth, evaluate, prompting, report

    sora = minisora.Sora.from_pretrained(options.weights)
    if options.breadth:
        result = breadth.score_breadth(sora, options.clips, options.seed)
        tables = report.breadth_tables(result)
    elif options.media:
        result = prompting.score_prompting(sora, options.clips, options.seed)
        tables = report.prompting_tables(result)
    else:
        captioner = (
            minisora.Captioner.from_pretrained()
        )  # always the shipped one: an outside judge
        upsampler = minisora.Upsampler.from_pretrained()
        result = evaluate.score_model(sora, options.clips, options.seed, captioner, upsampler)
        tables = report.all_tables(result)
    result["weights"] = evaluate.fingerprints(options.weights)
    print(tables, flush=True)  # before writing, which may fail
    head = {key: value for key, value in result.items() if key != "rows"}
    rows = ",\n ".join(json.dumps(row, allow_nan=False) for row in result["rows"])  # a line each
    write_text(out, json.dumps(head, indent=1)[:-2] + f',\n "rows": [\n {rows}\n]}}\n')
    print(f"\n{out}: {result['minutes']} minutes, seed {options.seed}")


# reproduce


def reproduce_options(command: argparse.ArgumentParser) -> None:
    questions = "; ".join(f"{name}: {question}" for name, question in EXPERIMENTS.items())
    add, each, time = command.add_argument, "a training for each", "6 to 12 minutes of one core"
    add("experiment", choices=list(EXPERIMENTS), help=questions)
    add("--only", nargs="+", default=[], metavar="RUN", help="the runs to make (default: all)")
    add("--seeds", nargs="+", type=seed, default=[0, 1, 2], help=f"{each} (default: 0 1 2)")
    add("--steps", type=positive, default=2100, help=f"of a training (default: 2100, {time})")
    add("--prompts", type=positive, default=400, help="to score (default: 400)")
    command.set_defaults(run=reproduce_command)


def reproduce_command(options: argparse.Namespace) -> None:
    import importlib

    from minisora.experiments.runs import ROOT

    if not (ROOT / "configs").is_dir():
        raise InputError(
            "the experiments need a checkout of the repository, with its configs/ and data/"
        )
    experiment = importlib.import_module(f"minisora.experiments.{options.experiment}")
    known = [run.slug for run in experiment.RUNS]
    if unknown := ", ".join(sorted(set(options.only) - set(known))):
        raise InputError(f"no run {unknown}: choose from {', '.join(known)}")
    print(experiment.run(options.seeds, options.steps, options.prompts, options.only))


def doctor_command(options: argparse.Namespace) -> None:
    from minisora import doctor

    doctor.report(options.weights)


if __name__ == "__main__":
    main()
