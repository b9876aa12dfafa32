"""The prompt upsampler: a small language model that turns what a user types into the kind of caption
the transformer was trained on. It keeps what was said and draws the rest.

The report does this with GPT ("Language understanding", after Betker et al., "Improving Image
Generation with Better Captions", 2023). Ours is an encoder and a decoder of words.
"""

import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minisora import weights, world
from minisora.attention import Block
from minisora.errors import InputError
from minisora.text import END, START, TextEncoder, next_word_loss, warn_of_unknown
from minisora.world import pairs, shapes

TRIES = 50
KINDS = [motion.split()[0] for motion in shapes.MOTIONS]  # of motions: "moving", "standing", ...
NAMES = {*shapes.COLORS, *shapes.SHAPES, *shapes.BACKGROUNDS, *KINDS}


def shorten(rich: str, rng: np.random.Generator) -> str:
    """Drops some of what a rich caption says, and sometimes changes the order of the rest: what a
    user might have typed."""
    if said := pairs.parse(rich):
        first, second = (shorten(pairs.phrase(one), rng) for one in said["objects"])
        ground = f"on {said['background']}" if rng.random() < 0.3 else ""
        relation = said["relation"] if rng.random() < 0.85 else "and"
        return " ".join(filter(None, (first, relation, second, ground)))
    said = shapes.parse(rich)
    kept: dict[str, str] = {
        name: word for name, word in said.items() if word and rng.random() < 0.6
    }
    kept["shape"] = str(said["shape"])
    ground = kept.pop("background", "")
    names = [name for name in ("size", "color", "shape", "motion") if name in kept]
    if rng.random() < 0.3:
        names = [names[i] for i in rng.permutation(len(names))]
    article = "a" if rng.random() < 0.4 else ""
    forms = ("on {}", "on a {} background", "{} background")
    end = forms[rng.integers(len(forms))].format(ground) if ground else ""
    return " ".join(filter(None, (article, *(kept[name] for name in names), end)))


def keeps(short: str, rich: str) -> bool:
    """Whether `rich` is a whole caption that says all that `short` names, as often as it does. No
    size is asked of captions that have none: of two objects, and of growing and shrinking ones."""
    wanted, got = pairs.parse(short), pairs.parse(rich)
    typed, written = (re.findall("[a-z]+", text.lower()) for text in (short, rich))
    plain = " ".join(written)
    names = (*NAMES, *shapes.SIZES) if any(size in written for size in shapes.SIZES) else NAMES
    if any(typed.count(word) > written.count(word) for word in names):
        return False
    if (wanted is None) != (got is None):
        return False
    if wanted is None or got is None:
        asked, said = shapes.parse(short), shapes.parse(rich)
        missing = [name for name, word in said.items() if not word]
        if said["motion"] in ("growing", "shrinking"):  # such a clip has no size
            missing, asked["size"] = [name for name in missing if name != "size"], None
            said["size"] = None
        return (
            not missing
            and shapes.caption(said) == plain
            and all(said[name] == word for name, word in asked.items() if word)
        )
    wholes = all(all(one.values()) for one in got["objects"])
    named = [(wanted["relation"], got["relation"]), (wanted["background"], got["background"])]
    for one, other in zip(wanted["objects"], got["objects"], strict=True):
        named += [(one[name], other[name]) for name in pairs.ATTRIBUTES]
    return wholes and pairs.caption(got) == plain and all(a == b for a, b in named if a)


class Upsampler(nn.Module):
    """Reads a prompt with an encoder, writes a caption word by word."""

    def __init__(
        self, words: list[str], width: int = 64, depth: int = 2, heads: int = 2, length: int = 16
    ) -> None:
        super().__init__()
        self.config = {
            "words": list(words),
            "width": width,
            "depth": depth,
            "heads": heads,
            "length": length,
        }
        self.length = length
        self.encoder = TextEncoder(words, width, depth, heads, length)
        self.embedding = nn.Embedding(len(words) + 2, width)
        self.place = nn.Parameter(0.5 * torch.randn(length + 1, width))
        self.decoder = nn.ModuleList(Block(width, heads, width) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(words) + 2)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path | None = None, device: str | torch.device | None = None
    ) -> "Upsampler":
        """Loads the shipped upsampler, or the one in `folder`, to the CPU if not told otherwise: a
        word at a time is no work for a GPU. Raises InputError if it is missing or damaged."""
        upsampler = weights.load(folder or weights.shipped(), "upsampler", cls)
        return upsampler.to(torch.device(device or "cpu"))

    @property
    def blocks(self) -> list[nn.Module]:
        """Those whose matrices Muon steps."""
        return [*self.encoder.blocks, *self.decoder]

    def say(self, ids: Tensor, prompts: Tensor) -> Tensor:
        """The next word of each: captions (B, L) so far, prompts (B, M, width) -> logits (B, L,
        words)."""
        x = self.embedding(ids) + self.place[: ids.shape[1]]
        for block in self.decoder:
            x = block(x, prompts, causal=True)
        return self.head(self.norm(x))

    def loss(self, short: list[str], rich: list[str]) -> Tensor:
        ids = self.encoder.tokenize(rich)  # (B, length), filled up with END
        ids = F.pad(F.pad(ids, (1, 0), value=START), (0, 1), value=END)
        return next_word_loss(self.say(ids[:, :-1], self.encoder(short)), ids)

    @torch.inference_mode()
    def draw(self, prompts: list[str], generator: torch.Generator | None = None) -> list[str]:
        """A caption for each prompt, word by word."""
        read = self.encoder(prompts)
        ids = torch.full((len(prompts), 1), START, device=read.device)
        where = generator.device if generator else "cpu"
        while ids.shape[1] <= self.length and not (ids[:, -1] == END).all():
            chances = self.say(ids, read)[:, -1].float().softmax(-1).to(where)
            word = torch.multinomial(chances, 1, generator=generator).to(ids.device)
            ids = torch.cat([ids, word.masked_fill(ids[:, -1:] == END, END)], dim=1)
        decode = self.encoder.tokenizer.decode
        return [decode([i for i in row if i > START]) for row in ids.tolist()]

    def forward(
        self, prompts: str | list[str], generator: torch.Generator | None = None
    ) -> list[str]:
        """A rich caption for each prompt. Draws again where a caption is not whole or does not keep
        what the prompt names; after `TRIES` draws raises InputError. Same seed, same captions. Words
        it has never seen are named in a warning."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        warn_of_unknown(self.encoder, prompts, stacklevel=5)
        captions, left = prompts.copy(), list(range(len(prompts)))
        left = [i for i in left if not keeps(prompts[i], prompts[i])]  # already rich
        for _ in range(TRIES):
            if not left:
                break
            drawn = self.draw([prompts[i] for i in left], generator)
            for i, caption in zip(left, drawn, strict=True):
                captions[i] = caption
            left = [i for i in left if not keeps(prompts[i], captions[i])]
        if left:
            raise InputError(
                f"no caption of this world says all of {prompts[left[0]]!r}: name one thing of "
                "each kind, or two objects with above, below, left of, right of or and between them"
            )
        return captions


def drawn_prompt(seed: int, index: int, two: float) -> tuple[str, str]:
    """What a user might type, and the rich caption it came from, of the training split."""
    rng = np.random.default_rng((seed, index, 4))
    if rng.random() < two:
        rich = pairs.clip(seed, index, 2, 8, 8).caption
    else:
        rich = world.caption(shapes.shown(shapes.draw_attributes(rng), 17))
    return shorten(rich, rng), rich
