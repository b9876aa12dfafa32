"""The commands that make a clip: `minisora sample | animate | extend | loop | connect | edit |
inpaint`. What is slow to import is imported where it is used."""

import argparse
import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import minisora
from minisora.arguments import positive, seconds, seed, weights_option
from minisora.errors import InputError, check_counts
from minisora.world import language, world_of_prompt

# a command's help, its files, whether a prompt may be left out, and its own options
MODE_COMMANDS: dict[str, tuple[str, tuple[str, ...], bool, tuple[str, ...]]] = {
    "animate": ("make a clip that begins with an image", ("image",), True, ("num_frames",)),
    "extend": ("make a clip longer, at its end or its beginning", ("clip",), True, ("num_frames", "direction")),
    "loop": ("make a clip that can be repeated without a seam", ("clip",), True, ("num_frames",)),
    "connect": ("join two clips by new frames", ("first", "second"), True, ("num_frames",)),
    "edit": ("change a clip as a prompt says", ("clip",), False, ("strength", "method")),
    "inpaint": ("make a region of a clip anew", ("clip",), True, ("mask",)),
}  # fmt: skip


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
    from minisora.sora import LONGEST

    check_counts(1, LONGEST, num_frames=1 if frames is None else frames)
    sora = minisora.Sora.from_pretrained(options.weights)
    longest = max(sora.trained_on["durations"])
    goes_on = "extend" in sora.trained_on["modes"]
    is_long = goes_on and frames is not None and frames > longest
    # of a long clip all that is sampled at once has a length that was trained on
    sizes = (longest if is_long else frames, options.height, options.width)
    shown, height, width = sora.resolve([options.prompt], *sizes)
    prompt, as_typed = options.prompt, options.as_typed or sora.of_footage
    if not as_typed:
        prompt = completed(sora, prompt, options.seed, image=shown == 1)
    minisora.video.check_room(out, frames or shown, height, width, options.scale)
    world, known = world_of_prompt(prompt), sora.trained_on["worlds"]
    if world.name not in known and not sora.of_footage:
        message = f"trained on {', '.join(known)}, the prompt is about {world.name}"
        warnings.warn(f"these weights were {message}", stacklevel=1)
    settings = settings_of(options)
    if frames is not None and is_long:
        parts = sora.stream(prompt, frames, height, width, **settings)
        write_clip(sora, "sample", prompt, out, options, with_progress(parts, frames))
    else:
        clip = sora(prompt, shown, height, width, **settings)[0]
        write_clip(sora, "sample", prompt, out, options, clip)
    if (
        options.as_typed
        and not sora.of_footage
        and not language.is_complete(prompt, image=shown == 1)
    ):
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
    if sora.of_footage:  # the oracle knows toy worlds alone
        return
    read = world.describe(frames)
    flaw = "" if read["clean"] else ", but the clip is not clean"
    print(f"the oracle sees {world.caption(read)}{flaw}")


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
        help_text = "0 changes nothing, 1 the most (default: 0.65, for larger changes 0.9)"
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
    least = getattr(options, "num_frames", None) or 1  # frames, as far as that is known now
    minisora.video.check_room(out, least, *size, options.scale)
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


def edit_prompt(
    sora: "minisora.Sora", clip: np.ndarray, options: argparse.Namespace, words: Any, more: dict
) -> tuple[str, dict[str, Any]]:
    """What an edit is to show, and its other arguments: what the clip shows now, and how strong the
    edit is. Raises InputError if nothing would change."""
    from minisora.sora import check_changes, default_strength

    source = sora.describe([clip], words, moves=len(clip) > 1)
    prompt = options.prompt if options.as_typed else sora.changed(source, [options.prompt])[0]
    check_changes(options.prompt, prompt, source)
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
