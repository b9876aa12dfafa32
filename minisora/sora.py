"""Sora: one method for each way to prompt it, with words, images and videos.

Each builds a plan (see canvas.py) and hands it to the pipeline. Where a prompt is left out, the
captioner says what is given.
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minisora.canvas import (
    Plan,
    animate,
    connect,
    extend,
    extend_backward,
    from_text,
    length_of,
    loop,
    whole,
)
from minisora.device import autocast
from minisora.errors import InputError, check_counts, check_frames, check_numbers
from minisora.pipeline import Pipeline, Settings, put_together
from minisora.sampling import edited
from minisora.vae import GROUP, to_frames
from minisora.world.language import altered, asked, is_complete, is_small_change, joined
from minisora.world.loops import closing

Prompt = str | list[str] | None
WINDOW, CONTEXT = 5, 3  # latents sampled at once in a long clip, and those of them that are known
# the noise level at which an edit starts, if one attribute changes, and if a motion or several do
STRENGTH, LARGE_STRENGTH = 0.65, 0.9
LONGEST = 28_801  # frames of a clip: an hour
LAST_GAP = 12  # frames of a loop that are made with both ends in sight


class Sora(Pipeline):
    """A model that makes clips from words, images and videos.

    Images are uint8 (H, W, 3), videos (T, H, W, 3), with sides that are multiples of 8. Every method
    returns uint8 (B, T, H, W, 3), a clip for each prompt; given frames come back as they are.
    A prompt that is left out is written by the captioner. With `upsample`, one that is no full
    caption ("moving left", "make it blue") changes what the captioner says. The other `settings`
    are those of a call: `num_inference_steps`, `guidance_scale`, `negative_prompt`, `generator`.
    All raise InputError for an empty prompt and for impossible sizes and lengths, and warn of words
    that the model does not know and of sizes and lengths that it was not trained on.
    """

    def __call__(
        self,
        prompt: str | list[str],
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str = "",
        generator: torch.Generator | None = None,
        upsample: bool = False,
    ) -> np.ndarray:
        """Samples a clip for each prompt: uint8 (B, num_frames, height, width, 3).

        What is not given is the first size and the usual length that the weights were trained on:
        17 frames of 32 x 32 for the shipped ones. With `upsample`, short prompts are completed
        first.
        """
        prompts = listed(prompt)
        num_frames, height, width = self.resolve(prompts, num_frames, height, width)
        if upsample:
            prompts = self.upsampler.complete(prompts, generator, image=num_frames == 1)
        settings = Settings(num_inference_steps, guidance_scale, negative_prompt, generator)
        plan, size = from_text(num_frames), (height, width)
        self.warn(plan, prompts, size, settings)
        return self.sample(plan, prompts, [], size, settings)

    def animate(
        self,
        image: np.ndarray,
        prompt: Prompt = None,
        num_frames: int | None = None,
        upsample: bool = False,
        **settings: Any,
    ) -> np.ndarray:
        """Clips of `num_frames` that begin with an image. Longer ones than those trained on are made
        window by window, see `stream`."""
        image = np.asarray(image)
        check_frames(image, "(H, W, 3)")
        frames = self.default_shape[0] if num_frames is None else num_frames
        return self.go_on(animate(frames), prompt, [image[None]], upsample, Settings(**settings))

    def extend(
        self,
        video: np.ndarray,
        prompt: Prompt = None,
        num_frames: int | None = None,
        direction: Literal["forward", "backward"] = "forward",
        upsample: bool = False,
        **settings: Any,
    ) -> np.ndarray:
        """Extends a clip to `num_frames`, by default by 8. The given frames are its beginning, or
        its end if the direction is "backward". Many new frames at its end are made window by window,
        see `stream`."""
        (video,) = clips_of(video)
        if direction not in ("forward", "backward"):
            raise InputError(f'a clip is extended "forward" or "backward", not {direction!r}')
        frames = len(video) + 2 * GROUP if num_frames is None else num_frames
        plan = (extend if direction == "forward" else extend_backward)(len(video), frames)
        return self.go_on(plan, prompt, [video], upsample, Settings(**settings))

    def loop(
        self,
        video: np.ndarray,
        prompt: Prompt = None,
        num_frames: int | None = None,
        upsample: bool = False,
        **settings: Any,
    ) -> np.ndarray:
        """A clip that begins with the given one and can be repeated without a seam. `num_frames` is
        a multiple of 4 more than are given. By default it is so many that the object's own motion
        leads back to its beginning, and up to three of the last given frames may give way for that:
        see `world.loops.closing`. A clip that is a loop already comes back as it is."""
        (video,) = clips_of(video)
        if num_frames is None:
            kept, num_frames = closing(video) or (len(video), len(video) + 2 * GROUP)
            video = video[:kept]
        made = Settings(**settings)
        if num_frames == len(video):
            return np.repeat(video[None], 1 if prompt is None else len(listed(prompt)), axis=0)
        loop(len(video), num_frames)  # raises InputError for impossible lengths
        prompts = self.fill_in(prompt, [video], upsample, branch(made.generator))
        plan = loop(max(len(video), num_frames - LAST_GAP), num_frames)
        given, size = self.check_given(plan, prompts, [video])
        self.warn(plan, prompts, size, made)
        return self.loop_clips(given[0], num_frames, prompts, made)

    def loop_clips(
        self, given: np.ndarray, num_frames: int, prompts: list[str], made: Settings
    ) -> np.ndarray:
        """Loops of clips (B, T, H, W, 3). Where many frames are missing the clips go on first, window
        by window, and only the last frames are made with both ends in sight."""
        missing = num_frames - given.shape[1]
        if missing > LAST_GAP:
            given = self.go_far(given, num_frames - LAST_GAP, prompts, made)
        if not missing:
            return given
        # the second copy on the canvas is of the given beginning
        plan = loop(given.shape[1], num_frames)
        return self.sample(plan, prompts, [given], given.shape[2:4], made)

    def connect(
        self,
        first: np.ndarray,
        second: np.ndarray,
        prompt: Prompt = None,
        num_frames: int | None = None,
        upsample: bool = False,
        **settings: Any,
    ) -> np.ndarray:
        """Joins two clips of one size by new frames, a multiple of 4 and by default 8, to
        `num_frames` in all."""
        clips = clips_of(first, second)
        if clips[0].shape[1:] != clips[1].shape[1:]:
            (_, h, w, _), (_, high, wide, _) = clips[0].shape, clips[1].shape
            raise InputError(
                f"clips to be joined need one size, got {h} x {w} and {high} x {wide}"
            )
        lengths = len(first), len(second)
        plan = connect(*lengths, sum(lengths) + 2 * GROUP if num_frames is None else num_frames)
        return self.go_on(plan, prompt, clips, upsample, Settings(**settings))

    def edit(
        self,
        video: np.ndarray,
        prompt: str | list[str],
        strength: float | None = None,
        source_prompt: str | None = None,
        method: Literal["flow", "noise"] = "flow",
        upsample: bool = True,
        **settings: Any,
    ) -> np.ndarray:
        """Changes a clip as the prompt says: a caption, or what is new ("make it blue"). A larger
        `strength`, up to 1, changes more and keeps less: by default 0.65, and 0.9 if a motion or
        more than one attribute is to change.

        With the method "flow" it follows the difference of what the prompt and `source_prompt`
        (default: what the captioner says of the clip) ask for (FlowEdit). With "noise" the clip
        gets noise of level `strength`, which is then removed. Source: Meng et al., "SDEdit: Guided
        Image Synthesis and Editing with Stochastic Differential Equations" (2021).
        """
        (video,) = clips_of(video)
        if strength is not None:
            check_numbers(0, 1, strength=strength)
        if method not in ("flow", "noise"):
            raise InputError(f'a clip is edited by the method "flow" or "noise", not {method!r}')
        made, plan = Settings(**settings), whole(len(video))
        source = source_prompt or self.describe(
            [video], branch(made.generator), moves=len(video) > 1
        )
        prompts = self.changed(source, listed(prompt)) if upsample else listed(prompt)
        for request, text in zip(listed(prompt), prompts, strict=True):
            if request != text:  # no full caption
                check_changes(request, text, source)
        given, size = self.check_given(plan, prompts, [video])
        self.warn(plan, prompts, size, made)
        strengths = [
            default_strength(source, text) if strength is None else strength for text in prompts
        ]
        clips = [
            self.edit_clips(given[0][:1], [text], [source], level, method, made)
            for text, level in zip(prompts, strengths, strict=True)
        ]
        return np.concatenate(clips)

    def edit_clips(
        self,
        given: np.ndarray,
        prompts: list[str],
        sources: list[str],
        strength: float,
        method: str,
        made: Settings,
    ) -> np.ndarray:
        """Edits clips (B, T, H, W, 3), each of which is now as in `sources`: (B, T, H, W, 3)."""
        plan = whole(given.shape[1])
        with torch.inference_mode(), autocast(self.device):
            canvas = self.prepare(plan, [given], len(given), given.shape[2:4])
            x_0 = canvas.tokens  # (B, N, P)
            canvas = canvas.without(canvas.known[0])
            if method == "noise":
                canvas = self.solve(canvas, prompts, made, strength)
            else:
                difference = edited(
                    self.velocity(canvas, prompts, made),
                    self.velocity(canvas, sources, made),
                    x_0,
                    lambda: self.noise(x_0, made.generator),
                )
                levels = self.levels(canvas, made, strength)
                canvas = canvas.solved(self.follow(difference, x_0, levels))
            frames = to_frames(self.decode(canvas))  # (B, T, H, W, 3)
        return put_together(plan, frames, [given])

    def inpaint(
        self,
        video: np.ndarray,
        mask: np.ndarray,
        prompt: Prompt = None,
        upsample: bool = False,
        **settings: Any,
    ) -> np.ndarray:
        """Makes the region `mask` of a clip anew: (H, W) or (T, H, W), true where frames change. All
        other pixels come back as they are. Raises InputError if the mask has another size, or
        leaves nothing or everything as it is."""
        (video,) = clips_of(video)
        made, plan = Settings(**settings), whole(len(video))
        mask = check_mask(mask, video.shape[:3])  # (T, H, W)
        moves = len(video) > 1
        prompts = self.fill_in(prompt, [video], upsample, branch(made.generator), moves)
        given, size = self.check_given(plan, prompts, [video])
        self.warn(plan, prompts, size, made)
        masks = np.repeat(mask[None], len(prompts), axis=0)
        return self.inpaint_clips(given[0], masks, prompts, made)

    def inpaint_clips(
        self, given: np.ndarray, masks: np.ndarray, prompts: list[str], made: Settings
    ) -> np.ndarray:
        """Makes the regions `masks` (B, T, H, W) of clips (B, T, H, W, 3) anew."""
        plan = whole(given.shape[1])
        filled = np.stack([fill_hole(*pair) for pair in zip(given, masks, strict=True)])
        with torch.inference_mode(), autocast(self.device):
            canvas = self.prepare(plan, [filled], len(given), given.shape[2:4])
            canvas = canvas.without(torch.stack([self.tokens_of(mask) for mask in masks]))
            frames = to_frames(self.decode(self.solve(canvas, prompts, made)))  # (B, T, H, W, 3)
        return np.where(masks[..., None], put_together(plan, frames, [given]), given)

    def stream(
        self,
        prompt: Prompt,
        num_frames: int,
        height: int | None = None,
        width: int | None = None,
        window: int = WINDOW,
        context: int = CONTEXT,
        given: np.ndarray | None = None,
        **settings: Any,
    ) -> Iterator[np.ndarray]:
        """Makes a clip of any length, and yields its frames as they are made: uint8 (B, n, H, W, 3).
        With `given`, a clip (T, H, W, 3), it goes on from there.

        It samples a `window` of latents at once, the first `context` of which it has made before.
        Latents are carried on, never encoded again, and memory does not grow with the length.
        """
        check_counts(1, num_frames=num_frames)
        check_counts(1, window - 1, context=context)
        made, clips = Settings(**settings), [] if given is None else clips_of(given)
        if clips:
            extend(len(clips[0]), num_frames)  # raises InputError for impossible lengths
            height, width = clips[0].shape[1:3]
            prompt = self.fill_in(prompt, clips, generator=branch(made.generator))
        plan = from_text(length_of(window))  # all of it is sampled, whatever is asked for
        prompts = listed(prompt or "")
        _, height, width = self.resolve(prompts, plan.length, height, width)
        self.warn(plan, prompts, (height, width), made)
        repeated = np.repeat(clips[0][None], len(prompts), axis=0) if clips else None
        size = height, width
        return self.stream_frames(prompts, num_frames, size, window, context, made, repeated)

    def stream_frames(
        self,
        prompts: list[str],
        num_frames: int,
        size: tuple[int, int],
        window: int,
        context: int,
        made: Settings,
        given: np.ndarray | None = None,
    ) -> Iterator[np.ndarray]:
        """The parts (B, n, H, W, 3) of long clips; the first is `given` (B, T, H, W, 3) as it is."""
        start, left, seen = None, num_frames, 0
        if given is not None:
            # as many of its last frames are known as of what is made later, if it has so many
            groups = min(1 + (given.shape[1] - 1) // GROUP, context)
            seen = length_of(groups)
            plan, part = extend(seen, seen + 1), given[:, -seen:]
            with torch.inference_mode(), autocast(self.device):
                latents = self.latents_of(self.prepare(plan, [part], len(prompts), size))
                start = latents[:, :, :groups]  # (B, C, known, h, w)
            left -= given.shape[1]
            yield given
        parts = self.vae.decode_stream(
            self.stream_latents(prompts, size, window, context, made, start)
        )
        while left:
            # entered anew for each part, for between two the caller's own code runs
            with torch.inference_mode(), autocast(self.device):
                frames = to_frames(next(parts))  # (B, 1 or 4, H, W, 3)
            old = min(seen, frames.shape[1])  # of the given clip
            seen, frames = seen - old, frames[:, old : old + left]
            left -= frames.shape[1]
            if frames.shape[1]:
                yield frames

    def stream_latents(
        self,
        prompts: list[str],
        size: tuple[int, int],
        window: int,
        context: int,
        made: Settings,
        start: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """One latent (B, C, 1, h, w) after another, without end; the first are those of `start`
        (B, C, known, h, w)."""
        latents = self.empty_latents(len(prompts), window, size)  # (B, C, window, h, w)
        given = 0 if start is None else start.shape[2]
        if start is not None:
            latents[:, :, :given] = start
        known = torch.arange(window) < given
        first, number = 0, 0  # the first latent that is new, and the first group's number
        while True:
            canvas = self.canvas_of(latents, known, number)
            latents = self.latents_of(self.solve(canvas, prompts, made))
            yield from latents[:, :, first:].split(1, dim=2)
            # the window moves on: its last latents are the next one's first
            new = self.empty_latents(len(prompts), window - context, size)
            latents = torch.cat([latents[:, :, -context:], new.to(latents)], dim=2)
            known, first, number = torch.arange(window) < context, context, 1

    # What the methods share

    def go_on(
        self, plan: Plan, prompt: Prompt, clips: list[np.ndarray], upsample: bool, made: Settings
    ) -> np.ndarray:
        """Samples what a plan leaves open of given clips (T, H, W, 3), once for each prompt: at once,
        or window by window if that is longer than the clips trained on."""
        prompts = self.fill_in(prompt, clips, upsample, branch(made.generator))
        frames, most = sum(map(len, plan.result)), max(self.trained_on["durations"])
        goes_forward = plan.given[0][0] == 0 and len(plan.given) == 1
        check_counts(1, LONGEST, num_frames=frames)
        if goes_forward and plan.length > max(most, length_of(WINDOW)):
            short = from_text(length_of(WINDOW))
            given, size = self.check_given(short, prompts, clips)
            self.warn(short, prompts, size, made)
            return self.go_far(given[0], frames, prompts, made)
        given, size = self.check_given(plan, prompts, clips)
        self.warn(plan, prompts, size, made)
        return self.sample(plan, prompts, given, size, made)

    def go_far(
        self, given: np.ndarray, num_frames: int, prompts: list[str], made: Settings
    ) -> np.ndarray:
        """Extends clips (B, T, H, W, 3) window by window to `num_frames`."""
        size = given.shape[2], given.shape[3]
        parts = self.stream_frames(prompts, num_frames, size, WINDOW, CONTEXT, made, given)
        return np.concatenate([*parts], axis=1)

    def fill_in(
        self,
        prompt: Prompt,
        clips: list[np.ndarray],
        upsample: bool = False,
        generator: torch.Generator | None = None,
        moves: bool = True,
    ) -> list[str]:
        """The prompts; without one, what the captioner says of the clips. With `upsample`, prompts
        that are no full caption are changes to that. What stays an image is one that does not
        move: `moves` is false."""
        if prompt is None:
            return [self.describe(clips, generator, moves)]
        prompts = listed(prompt)
        if upsample and not self.of_footage:
            full = all(is_complete(text, image=not moves) for text in prompts)
            seen = "" if full else self.describe(clips, generator, moves)
            prompts = self.changed(seen, prompts)
        return prompts

    def changed(self, caption: str, requests: list[str]) -> list[str]:
        """The caption of a clip after each request, which may be in other people's words. An empty
        one stays empty, and is refused later."""
        return [
            altered(caption, text if is_complete(text) else self.upsampler.meaning(asked(text)))
            if self.text.has_words(text)
            else text
            for text in requests
        ]

    def describe(
        self,
        clips: list[np.ndarray],
        generator: torch.Generator | None = None,
        moves: bool = True,
    ) -> str:
        """The captioner's caption of a clip (T, H, W, 3), of two clips that are to be joined, or of
        an image. Where an image is to move, the upsampler adds a motion. Raises InputError if the
        captioner has no caption for what it sees."""
        if self.of_footage:
            raise InputError(
                "the captioner knows toy clips alone: write a prompt, and for an edit source_prompt"
            )
        captions = [self.captioner(clip[None])[0] for clip in clips]
        caption = captions[0] if len(captions) == 1 else joined(captions[0], captions[1])
        try:
            return self.upsampler.complete([caption], generator, image=not moves)[0]
        except InputError:
            raise InputError(
                f"the captioner can make nothing of what is given ({caption!r}): write a prompt"
            ) from None

    def check_given(
        self, plan: Plan, prompts: list[str], clips: list[np.ndarray]
    ) -> tuple[list[np.ndarray], tuple[int, int]]:
        """Clips (T, H, W, 3) once for each prompt, (B, T, H, W, 3), and their height and width."""
        _, height, width = self.resolve(prompts, plan.length, *clips[0].shape[1:3])
        return [np.repeat(clip[None], len(prompts), axis=0) for clip in clips], (height, width)

    def tokens_of(self, mask: np.ndarray) -> Tensor:
        """The tokens that a mask (T, H, W) touches: (N,) bool."""
        rest = -(len(mask) - 1) % GROUP
        frames = np.concatenate([mask, *[mask[-1:]] * rest])  # (1 + 4k, H, W)
        later = frames[1:].reshape(-1, GROUP, *mask.shape[1:]).any(1)  # (k, H, W)
        groups = np.concatenate([frames[:1], later])  # (t, H, W)
        touched = torch.from_numpy(groups).float()[:, None]  # (t, 1, H, W)
        sides = [self.vae.space * side for side in self.dit.patch[1:]]
        touched = F.max_pool2d(touched, sides)  # (t, 1, H / 8, W / 8)
        return touched.flatten().bool().to(self.device)


def listed(prompt: str | list[str]) -> list[str]:
    return [prompt] if isinstance(prompt, str) else list(prompt)


def check_changes(request: str, prompt: str, source: str) -> None:
    """Raises InputError if a clip that is as in `source` is to become just that."""
    if prompt == source:
        raise InputError(f"{request!r} changes nothing: the clip shows {source!r} already")


def default_strength(source: str, prompt: str) -> float:
    """The strength of an edit from one caption to another, if none is asked for."""
    return STRENGTH if is_small_change(source, prompt) else LARGE_STRENGTH


def branch(generator: torch.Generator | None) -> torch.Generator | None:
    """A generator for words, so that the noise of a clip does not depend on who wrote its prompt."""
    if generator is None:
        return None
    return torch.Generator().manual_seed(generator.initial_seed())


def clips_of(*videos: np.ndarray) -> list[np.ndarray]:
    """Videos as arrays. Raises InputError unless they are uint8 (T, H, W, 3)."""
    clips = [np.asarray(video) for video in videos]
    for clip in clips:
        check_frames(clip, "(T, H, W, 3)")
    return clips


def check_mask(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask (H, W) or (T, H, W) as bool (T, H, W). Raises InputError for another shape, and if it
    is the same everywhere."""
    mask = np.asarray(mask)
    if mask.shape not in (shape, shape[1:]):
        raise InputError(
            f"the mask must be {shape[1:]} or {shape}, as the frames, got {mask.shape}"
        )
    mask = np.broadcast_to(mask.astype(bool), shape)
    if mask.all():
        raise InputError("the mask covers the whole clip: make a clip from the prompt instead")
    if not mask.any():
        raise InputError("the mask is empty: it must be true where the clip is to change")
    return mask


def fill_hole(video: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fills the region `mask` (T, H, W) of a video from its border inwards, so that nothing of what
    was there is encoded. A frame that is masked as a whole gets the mean of the others."""
    filled = np.where(mask[..., None], 0.0, video)  # (T, H, W, 3)
    known = (~mask).astype(float)[..., None]  # (T, H, W, 1)
    mean = filled.sum((0, 1, 2)) / known.sum()  # (3,)
    filled[mask.all((1, 2))], known[mask.all((1, 2))] = mean, 1
    while not known.all():
        weight, total = around(known), around(filled * known)  # of the pixels at each side
        edge = (known == 0) & (weight > 0)
        filled = np.where(edge, total / np.maximum(weight, 1), filled)
        known = np.where(edge, 1.0, known)
    return np.round(filled).astype(np.uint8)


def around(pixels: np.ndarray) -> np.ndarray:
    """The sum of each pixel's four neighbors: (T, H, W, C) -> (T, H, W, C)."""
    padded = np.pad(pixels, [(0, 0), (1, 1), (1, 1), (0, 0)])
    rows, columns = padded[:, :, 1:-1], padded[:, 1:-1]
    return rows[:, :-2] + rows[:, 2:] + columns[:, :, :-2] + columns[:, :, 2:]
