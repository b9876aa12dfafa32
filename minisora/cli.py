"""The command line: `minisora sample | caption | recaption | fit | evaluate | reproduce |
doctor`. What is slow to import is imported where it is used."""

import argparse
import json
import math
import sys
import warnings
from collections.abc import Sequence

import minisora
from minisora.errors import InputError
from minisora.files import check_writable, write_whole
from minisora.world import pairs


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: say("warning", message)
            if arguments[:1] == ["fit"]:  # LightningCLI reads its own arguments
                fit(arguments[1:])
            elif arguments[:1] == ["recaption"]:  # every argument of the function is a flag
                recaption(arguments[1:])
            else:
                options = parser().parse_args(arguments)
                options.run(options)
    except InputError as error:
        say("error", error)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def say(kind: str, message: object) -> None:
    print(f"minisora: {kind}: {message}", file=sys.stderr)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        "minisora", description="Text to video on a laptop: sample, train, evaluate."
    )
    top.add_argument("--version", action="version", version=f"minisora {minisora.__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser("sample", help="make a clip from a prompt")
    one.add_argument("prompt", help='e.g. "a small red circle moving left on a black background"')
    one.add_argument(
        "--out",
        default="clip.mp4",
        help="mp4, gif, png (film strip) or webp, by suffix (default: clip.mp4)",
    )
    one.add_argument(
        "--num-frames",
        type=int,
        help="frames, 8 a second; 1 is an image (default: the weights' own)",
    )
    one.add_argument("--height", type=int, help="pixels (default: the weights' own)")
    one.add_argument("--width", type=int, help="pixels (default: the weights' own)")
    one.add_argument(
        "--seed", type=seed, default=0, help="another seed makes another clip (default: 0)"
    )
    one.add_argument("--steps", type=positive, help="sampling steps (default: the weights' own)")
    one.add_argument(
        "--guidance-scale", type=float, help="1 is no guidance (default: the weights' own)"
    )
    one.add_argument("--negative-prompt", default="", help="what to steer away from")
    one.add_argument(
        "--upsample",
        action="store_true",
        help="let a small language model say what the prompt leaves open",
    )
    one.add_argument(
        "--scale", type=positive, default=8, help="write each pixel as SCALE x SCALE (default: 8)"
    )
    weights_option(one)
    one.set_defaults(run=sample)

    # stands here for the help; `main` hands its arguments to LightningCLI
    commands.add_parser(
        "fit",
        help="train: fit vae|dit|captioner|upsampler --config configs/SCALE/STAGE.yaml [--KEY VALUE ...]",
    )

    say_what = commands.add_parser("caption", help="say what clips show")
    say_what.add_argument("clips", nargs="+", metavar="CLIP", help="video files or images")
    say_what.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        help="0 says what is likeliest, 1 draws (default: 0)",
    )
    say_what.add_argument("--seed", type=seed, default=0, help="of the draws (default: 0)")
    weights_option(say_what)
    say_what.set_defaults(run=caption)

    commands.add_parser(
        "recaption",
        help="give clips the captions that a captioner writes: recaption OUT --mix 0.95",
    )

    score = commands.add_parser(
        "evaluate", help="sample prompts of every split and let the oracle score them"
    )
    score.add_argument(
        "--clips", type=positive, default=500, help="prompts for each split (default: 500)"
    )
    score.add_argument(
        "--seed", type=seed, default=0, help="draws other prompts and noise (default: 0)"
    )
    score.add_argument(
        "--out", default="evaluation.json", help="where the numbers go (default: evaluation.json)"
    )
    weights_option(score)
    score.set_defaults(run=evaluate)

    again = commands.add_parser(
        "reproduce", help="run an experiment again, or go on with it, and print its table"
    )
    again.add_argument(
        "experiment",
        choices=["recipe", "recaption", "paraphrases", "binding"],
        help="recipe: what the training rests on; recaption: do synthetic captions help? "
        "paraphrases: does a text encoder trained on more text help? binding: which color is whose?",
    )
    again.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="RUN",
        help="of recipe and binding; what differs in sampling alone belongs to the run 'none'",
    )
    again.add_argument(
        "--seeds", nargs="+", type=seed, default=[0, 1, 2], help="a run for each (default: 0 1 2)"
    )
    again.add_argument(
        "--steps",
        type=positive,
        default=2100,
        help="of a run; in recipe, runs whose steps take longer make fewer, in the same time "
        "(default: 2100, of the toy size 6 to 12 minutes of one core)",
    )
    again.add_argument(
        "--prompts",
        type=positive,
        default=400,
        help="to score (default: 400; paraphrases has its own)",
    )
    again.set_defaults(run=reproduce)

    check = commands.add_parser("doctor", help="say what this machine has, and make a test clip")
    weights_option(check)
    check.set_defaults(run=doctor)
    return top


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text}")
    return int(text)


def seed(text: str) -> int:
    if not text.isdigit() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2^63 - 1, got {text}")
    return int(text)


def weights_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--weights",
        metavar="FOLDER",
        help="as `minisora fit` writes them (default: the shipped ones)",
    )


def sample(options: argparse.Namespace) -> None:
    out = minisora.video.check_output(options.out)
    import torch

    from minisora.upsampler import keeps
    from minisora.weights import read_config

    prompt, draws = options.prompt, torch.Generator().manual_seed(options.seed)
    if options.upsample:
        folder = options.weights  # of a transformer alone: then the shipped upsampler serves
        has = folder and "upsampler" in read_config(folder)
        prompt = minisora.Upsampler.from_pretrained(folder if has else None)([prompt], draws)[0]
        print(f"prompt: {prompt}", flush=True)
    sora = minisora.Sora.from_pretrained(options.weights)
    clip = sora(
        prompt,
        options.num_frames,
        options.height,
        options.width,
        options.steps,
        options.guidance_scale,
        options.negative_prompt,
        torch.Generator().manual_seed(options.seed),
    )[0]
    minisora.video.write(out, clip, fps=8, scale=options.scale)
    frames, height, width = clip.shape[:3]
    print(
        f"{out}: {frames} frames of {width * options.scale} x {height * options.scale}, seed {options.seed}"
    )
    if pairs.parse(prompt):
        read, unclean = pairs.describe(clip), ", but not two clean objects"
        says = pairs.caption(read)
    else:
        read, unclean = minisora.world.describe(clip), ", but not one clean object"
        says = minisora.world.caption(read)
    print(f"the oracle sees {says}{'' if read['clean'] else unclean}")
    if frames > 1 and not read["clean"] and not keeps(prompt, prompt):
        print("the prompt is no full caption as in training: --upsample makes it one")


def fit(arguments: list[str]) -> None:
    stages = ("vae", "dit", "captioner", "upsampler")
    if not arguments or arguments[0] not in stages:
        if arguments[:1] not in (["-h"], ["--help"]):
            raise InputError(
                f"say what to train: minisora fit {'|'.join(stages)} --config configs/toy/STAGE.yaml"
            )
        print(
            "usage: minisora fit vae|dit|captioner|upsampler --config FILE [--config OVERLAY] [--KEY VALUE ...]\n"
            "       [--ckpt_path FILE] resumes\n"
            "       minisora fit STAGE --help lists every key; --print_config prints the whole config"
        )
        return
    from minisora import fit

    fit.fit(arguments[0], arguments[1:])


def caption(options: argparse.Namespace) -> None:
    if not 0 <= options.temperature < math.inf:
        raise InputError(f"--temperature must be 0 or more, got {options.temperature}")
    import torch

    captioner = minisora.Captioner.from_pretrained(options.weights)
    draws = torch.Generator().manual_seed(options.seed)
    for path in options.clips:
        clip = minisora.video.read(path)
        print(f"{path}: {captioner(clip[None], options.temperature, draws)[0]}")


def recaption(arguments: list[str]) -> None:
    import jsonargparse

    from minisora.recaption import recaption

    jsonargparse.auto_cli(recaption, args=arguments, prog="minisora recaption")


def evaluate(options: argparse.Namespace) -> None:
    out = check_writable(options.out)
    from minisora import evaluate

    sora = minisora.Sora.from_pretrained(options.weights)
    captioner = minisora.Captioner.from_pretrained()  # always the shipped one: a judge of its own
    upsampler = minisora.Upsampler.from_pretrained()
    result = evaluate.evaluate(sora, options.clips, options.seed, captioner, upsampler)
    result["weights"] = evaluate.fingerprints(options.weights)
    write_whole(out, json.dumps(result, indent=1) + "\n")
    print(f"{evaluate.table(result)}\n\n{out}: {result['minutes']} minutes, seed {options.seed}")


def reproduce(options: argparse.Namespace) -> None:
    from minisora.experiments import binding, paraphrases, recaption, recipe

    if not (recipe.ROOT / "configs").is_dir():
        raise InputError(
            "the experiments need a checkout of the repository, with its configs/ and data/"
        )
    rows = {"binding": list(binding.WAYS), "recipe": list(recipe.CHANGES)}.get(
        options.experiment, []
    )
    if unknown := set(options.only) - set(rows):
        said, known = (", ".join(f'"{name}"' for name in names) for names in (unknown, rows))
        raise InputError(f"no run {said}: choose from {known or 'all of it, without --only'}")
    settings = options.seeds, options.steps, options.prompts
    if options.experiment == "recaption":
        print(recaption.run(*settings))
    elif options.experiment == "paraphrases":
        print(paraphrases.run(options.seeds, options.steps))
    elif options.experiment == "binding":
        print(binding.run(*settings, options.only))
    else:
        print(recipe.run(*settings, options.only))


def doctor(options: argparse.Namespace) -> None:
    from minisora import doctor

    doctor.report(options.weights)


if __name__ == "__main__":
    main()
