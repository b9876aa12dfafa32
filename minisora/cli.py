"""The command line: `minisora sample | caption | recaption | fit | evaluate | reproduce |
doctor`. What is slow to import is imported where it is used."""

import argparse
import itertools
import json
import math
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import minisora
from minisora.errors import InputError, Interrupted
from minisora.files import check_writable, write_text
from minisora.world import language, world_of_prompt

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
                signal.signal(signal.SIGTERM, terminated)  # `fit` has its own way to end
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


def terminated(number: int, frame: Any) -> None:
    """Ends a command so that no half-written file is left."""
    raise Interrupted("terminated", 128 + number)


def say(kind: str, message: object) -> None:
    text = f"minisora: {kind}: {message}"
    print(text.encode(errors="replace").decode(), file=sys.stderr)


def shorten(text: str) -> str:
    return text if len(text) < 100 else f"{text[:60]}...{text[-20:]}"


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
    evaluate_options(
        add("evaluate", "sample prompts of every split, and let the oracle score them")
    )
    reproduce_options(add("reproduce", "run an experiment, or go on with it, and print its table"))
    doctor = add("doctor", "show what this machine has, and make a test clip")
    weights_option(doctor)
    doctor.set_defaults(run=doctor_command)
    return top


def number(text: str, least: int, most: int, name: str) -> int:
    """A whole number in its bounds. `name` names the upper one."""
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        bounds = f"a whole number from {least} to {name}"
        raise argparse.ArgumentTypeError(f"must be {bounds}, got {shorten(text)}")
    return int(text)


def positive(text: str) -> int:
    return number(text, 1, 10**6, "a million")


def seconds(text: str) -> int:
    return number(text, 1, 3600, "3600, an hour")


def seed(text: str) -> int:
    return number(text, 0, 2**63 - 1, "2^63 - 1")


def folder(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("is empty: name a folder, or leave it out")
    return text


def weights_option(command: argparse.ArgumentParser) -> None:
    text = "as `minisora fit` writes them (default: the shipped ones)"
    command.add_argument("--weights", type=folder, metavar="FOLDER", help=text)


# sample, and the modes that start from images and videos


def sampling_options(command: argparse.ArgumentParser) -> None:
    """What every command that makes a clip has."""
    add, own = command.add_argument, "(default: the weights' own)"
    add("--out", default="clip.mp4", help="mp4, gif, png (film strip) or webp (default: clip.mp4)")
    add("--height", type=int, help=f"pixels {own}")
    add("--width", type=int, help=f"pixels {own}")
    add("--seed", type=seed, default=0, help="another seed makes another clip (default: 0)")
    add("--steps", type=positive, help=f"sampling steps {own}")
    add("--guidance-scale", type=float, help=f"1 is no guidance {own}")
    add("--negative-prompt", default="", help="what to steer away from")
    add("--as-typed", action="store_true", help="do not complete a short prompt first")
    add("--scale", type=positive, default=8, help="write each pixel as SCALE x SCALE (default: 8)")
    weights_option(command)


def sample_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("prompt", help='e.g. "red circle" or "a red circle moving up above a blue star on navy"')
    length = command.add_mutually_exclusive_group().add_argument
    length("--num-frames", type=int, help="8 a second; 1 is an image (default: the weights' own)")
    length("--seconds", type=seconds, help="instead of frames: 60 are 481")
    add("--from", dest="image", metavar="CLIP", help="begin with the last frame of this clip")
    sampling_options(command)
    command.set_defaults(run=sample_command, mode="animate")


def sample_command(options: argparse.Namespace) -> None:
    frames = 8 * options.seconds + 1 if options.seconds else options.num_frames
    if options.image:
        options.num_frames = frames
        return mode_command(options)
    out = minisora.video.check_output(options.out)
    sora = minisora.Sora.from_pretrained(options.weights)
    longest = max(sora.trained_on["durations"])
    goes_on = "extend" in sora.trained_on["modes"]
    is_long = goes_on and frames is not None and frames > longest
    # of a long clip all that is sampled at once has a length that was trained on
    sizes = (longest if is_long else frames, options.height, options.width)
    shown, height, width = sora.resolve([options.prompt], *sizes)
    prompt = options.prompt
    if not options.as_typed:
        prompt = completed(sora, prompt, options.seed, image=shown == 1)
    minisora.video.check_room(out, frames or shown, height, width, options.scale)
    world, known = world_of_prompt(prompt), sora.trained_on["worlds"]
    if world.name not in known:
        message = f"trained on {', '.join(known)}, the prompt is about {world.name}"
        warnings.warn(f"these weights were {message}", stacklevel=1)
    settings = settings_of(options)
    if frames is not None and is_long:
        parts = sora.stream(prompt, frames, height, width, **settings)
        write_clip(sora, "sample", prompt, out, options, with_progress(parts, frames))
    else:
        clip = sora(prompt, shown, height, width, **settings)[0]
        write_clip(sora, "sample", prompt, out, options, clip)
    if options.as_typed and not language.is_complete(prompt, image=shown == 1):
        print("the prompt is no full caption as in training; without --as-typed it becomes one")


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    return {
        "num_inference_steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "negative_prompt": options.negative_prompt,
        "generator": torch.Generator().manual_seed(options.seed),
    }


def with_progress(parts: Iterator[np.ndarray], frames: int) -> Iterator[np.ndarray]:
    """The first clip (n, H, W, 3) of each part (B, n, H, W, 3), with a bar of frames."""
    from tqdm import tqdm

    with tqdm(total=frames, desc="sampling", unit="frame") as bar:
        for part in parts:
            yield part[0]
            bar.update(part.shape[1])


def write_clip(
    sora: "minisora.Sora",
    mode: str,
    prompt: str,
    out: Path,
    options: argparse.Namespace,
    clip: np.ndarray | Iterator[np.ndarray],
    **more: Any,
) -> None:
    """Writes a clip (T, H, W, 3), or its parts as they come, with how it was made; prints what the
    oracle sees in it."""
    from minisora import media

    world, scale, shown = world_of_prompt(prompt), options.scale, []

    def seen() -> Iterator[np.ndarray]:
        for part in [clip] if isinstance(clip, np.ndarray) else clip:
            shown.append(part)
            yield part

    parts = seen()
    first = next(parts)  # (n, H, W, 3)
    height, width = first.shape[1:3]
    given = {"steps": options.steps, "guidance_scale": options.guidance_scale}
    given |= {"negative_prompt": options.negative_prompt or None, "height": height, "width": width}
    about = media.provenance(sora, mode, prompt, options.seed, **given, **more)
    minisora.video.write(out, itertools.chain([first], parts), 8, scale, about)
    frames = np.concatenate(shown)  # (T, H, W, 3)
    size = f"{width * scale} x {height * scale}"
    print(f"{out}: {len(frames)} frames of {size}, seed {options.seed}")
    read = world.describe(frames)
    flaw = "" if read["clean"] else ", but the clip is not clean"
    print(f"the oracle sees {world.caption(read)}{flaw}")


# a command's help, its files, whether a prompt may be left out, and its own options
MODE_COMMANDS: dict[str, tuple[str, tuple[str, ...], bool, tuple[str, ...]]] = {
    "animate": ("make a clip that begins with an image", ("image",), True, ("num_frames",)),
    "extend": ("make a clip longer, at its end or its beginning", ("clip",), True, ("num_frames", "direction")),
    "loop": ("make a clip that can be repeated without a seam", ("clip",), True, ("num_frames",)),
    "connect": ("join two clips by new frames", ("first", "second"), True, ("num_frames",)),
    "edit": ("change a clip as a prompt says", ("clip",), False, ("strength", "method")),
    "inpaint": ("make a region of a clip anew", ("clip",), True, ("mask",)),
}  # fmt: skip


def mode_options(command: argparse.ArgumentParser, mode: str) -> None:
    add, (_, files, optional, own) = command.add_argument, MODE_COMMANDS[mode]
    for name in files:
        last = ", of which the last frame is taken" if name == "image" else ""
        add(name, help=f"a video or an image{last}")
    left_out = "; without, the captioner says what is there" if optional else ""
    example = '"make it blue"' if mode == "edit" else '"moving left"'
    what = f"a caption, or what changes: {example}{left_out}"
    add("prompt", help=what, nargs="?" if optional else None)
    if "num_frames" in own:
        add("--num-frames", type=int, help="of the whole clip (default: 8 more than given, "
            "to animate the weights' own, for a loop as many as its motion needs)")  # fmt: skip
    if "direction" in own:
        ways = ("forward", "backward")
        add("--direction", choices=ways, default="forward", help="where frames are added")
    if "strength" in own:
        help_text = "0 changes nothing, 1 the most (default: 0.7, for larger changes 0.9)"
        add("--strength", type=float, help=help_text)
        ways = ("flow", "noise")
        add("--method", choices=ways, default="flow", help="FlowEdit or SDEdit (default: flow)")
    if "mask" in own:
        add("--mask", required=True, help="an image or a clip, white where pixels are made anew")
    sampling_options(command)
    command.set_defaults(run=mode_command, mode=mode)


def mode_command(options: argparse.Namespace) -> None:
    out = minisora.video.check_output(options.out)
    from minisora import media
    from minisora.pipeline import Settings

    sora, mode = minisora.Sora.from_pretrained(options.weights), options.mode
    _, names, _, own = MODE_COMMANDS[mode]
    paths = [getattr(options, name) for name in names]
    size = media.canvas_size(sora, paths[0], options.height, options.width)
    minisora.video.check_room(out, options_frames(options), *size, options.scale)
    settings = settings_of(options)
    Settings(**settings)  # raises InputError before anything is read
    clips = [media.read_clip(path, size) for path in paths]
    if mode == "animate":
        clips = [clips[0][-1:]]
    given = [clips[0][0]] if mode == "animate" else clips
    if mode == "inpaint":
        given = [*given, media.read_mask(options.mask, paths[0], size)]
        paths += [options.mask]
    more = {name: getattr(options, name) for name in own if name != "mask"}
    more = {name: value for name, value in more.items() if value is not None}
    words = settings_of(options)["generator"]
    if mode == "edit":
        prompt, more = edit_prompt(sora, clips[0], options, words, more)
    else:
        moves = not (mode == "inpaint" and len(clips[0]) == 1)
        (prompt,) = sora.fill_in(options.prompt, clips, not options.as_typed, words, moves)
    if prompt != options.prompt:
        print(f"completed prompt: {prompt}", flush=True)
    clip = getattr(sora, mode)(*given, prompt, **more, **settings)[0]
    more.pop("upsample", None)
    files = media.given_files(paths)
    write_clip(sora, mode, prompt, out, options, clip, given=files, **more)


def options_frames(options: argparse.Namespace) -> int:
    """The frames that are asked for, as far as that is said."""
    return getattr(options, "num_frames", None) or 1


def edit_prompt(
    sora: "minisora.Sora", clip: np.ndarray, options: argparse.Namespace, words: Any, more: dict
) -> tuple[str, dict[str, Any]]:
    """What an edit is to show, and its other arguments: what the clip shows now, and how strong the
    edit is. Raises InputError if nothing would change."""
    from minisora.sora import default_strength

    source = sora.describe([clip], words, moves=len(clip) > 1)
    prompt = options.prompt if options.as_typed else sora.changed(source, [options.prompt])[0]
    if prompt == source:
        raise InputError(f"{options.prompt!r} changes nothing: the clip shows {source!r} already")
    strength = default_strength(source, prompt)
    return prompt, {"strength": strength, "source_prompt": source, "upsample": False} | more


def completed(sora: "minisora.Sora", prompt: str, seed: int, image: bool) -> str:
    """The prompt as a full caption, printed if that changes it. What no caption can say is sampled
    as typed, with a warning."""
    import torch

    if world_of_prompt(prompt).name not in language.WORLDS:  # the upsampler knows no others
        return prompt
    generator = torch.Generator().manual_seed(seed)
    try:
        (full,) = sora.upsampler.complete([prompt], generator, image)
    except InputError as error:
        warnings.warn(f"{error} (sampled as typed)", stacklevel=1)
        return prompt
    if full != prompt:
        print(f"completed prompt: {full}", flush=True)
    return full


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
            "       [--ckpt_path FILE] resumes\n"
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
