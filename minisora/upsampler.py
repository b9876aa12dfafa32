"""The prompt upsampler: a small language model that completes what a user types to a rich caption.

The DiT was trained on rich captions. The upsampler keeps what the prompt names and draws the rest.
It reads the lexicon's words and writes captions' words only: "a crimson ball drifting leftwards"
becomes "a small red circle moving left on a navy background".

What is learned: the wordings that are trained on, and new combinations of their words; the first
draw reads them as typed. What is looked up: everything, once that draw fails. A caption is returned
if it keeps what the lexicon says the prompt means, and later draws read the prompt in captions'
words. So wordings that were held out of training, whose words may never have been seen, are right
too. Words that the lexicon lacks are skipped with a warning.
Source: the Sora report does this with GPT ("Language understanding", after Betker et al.,
"Improving Image Generation with Better Captions", 2023).
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minisora import weights
from minisora.attention import Block
from minisora.errors import InputError
from minisora.text import (
    END_ID,
    PAD,
    START_ID,
    UNKNOWN_ID,
    TextEncoder,
    decode_words,
    next_word_loss,
    warn_of_unknown,
    word_tokenizer,
    write_words,
)
from minisora.world import lexicon
from minisora.world.language import image_caption, is_complete, keeps

TRIES = 50  # draws per prompt; a trained upsampler mostly needs one


class Upsampler(nn.Module):
    """Reads a prompt with an encoder and writes a caption of `words`, word by word.

    `prompt_words` are the words that it reads, those of captions among them; without them it reads
    captions' words alone and does not use the lexicon. A caption has up to `length` words, a prompt
    up to `prompt_length`.
    """

    def __init__(
        self,
        words: list[str],
        width: int = 64,
        depth: int = 2,
        heads: int = 2,
        length: int = 16,
        prompt_words: list[str] | None = None,
        prompt_length: int | None = None,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = dict(
            words=list(words), width=width, depth=depth, heads=heads, length=length
        )
        if prompt_words:
            # no training prompt is longer, even in the lexicon's longest wordings
            prompt_length = prompt_length or 2 * length
            self.config |= dict(prompt_words=list(prompt_words), prompt_length=prompt_length)
        self.length, self.uses_lexicon = length, bool(prompt_words)
        self.encoder = TextEncoder(
            prompt_words or words, width, depth, heads, prompt_length or length
        )
        self.vocabulary = self.encoder.vocabulary
        self.tokenizer = word_tokenizer(words)  # of captions
        self.tokenizer.enable_padding(length=length, pad_token=PAD)
        self.embedding = nn.Embedding(len(words) + 2, width)
        # one more than a caption's words, for the start
        self.position_embed = nn.Parameter(0.5 * torch.randn(length + 1, width))
        self.decoder = nn.ModuleList(Block(width, heads, width) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(words) + 2)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path | None = None, device: str | torch.device | None = None
    ) -> "Upsampler":
        """Loads the shipped one or that in `folder`. Raises InputError if missing or damaged."""
        upsampler = weights.load(folder or weights.shipped(), "upsampler", cls)
        # one word at a time is too little work for a GPU
        return upsampler.to(torch.device(device or "cpu"))

    @property
    def blocks(self) -> list[nn.Module]:
        """The modules whose matrices Muon updates."""
        return [*self.encoder.blocks, *self.decoder]

    def unknown(self, prompt: str) -> list[str]:
        """The words of the prompt that mean nothing to it, as typed and in order."""
        return lexicon.unread(prompt) if self.uses_lexicon else self.encoder.unknown(prompt)

    def meaning(self, prompt: str) -> str:
        """The prompt in captions' words, as the lexicon looks it up."""
        return lexicon.in_our_words(prompt) if self.uses_lexicon else prompt

    def tokenize(self, captions: list[str]) -> Tensor:
        """Captions -> word ids (B, length), padded with END_ID. Raises InputError if one has more
        than `length` words."""
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(captions)]
        if (longest := max(map(len, ids))) > self.length:
            raise InputError(
                f"a caption has {longest} words, the upsampler writes at most {self.length}: "
                "set model.upsampler.length"
            )
        tokens = torch.tensor(ids, device=self.position_embed.device)  # (B, length)
        return tokens.masked_fill(tokens == UNKNOWN_ID, END_ID)

    def next_word_logits(self, ids: Tensor, prompts: Tensor) -> Tensor:
        """Predicts the word after each word of ids (B, L): (B, L, vocabulary).

        prompts: states (B, M, width).
        """
        x = self.embedding(ids) + self.position_embed[: ids.shape[1]]  # (B, L, width)
        for block in self.decoder:
            x = block(x, prompts, causal=True)  # (B, L, width)
        return self.head(self.norm(x))  # (B, L, vocabulary)

    def loss(self, short: list[str], rich: list[str]) -> Tensor:
        """Mean cross-entropy of the words of rich captions, given short prompts: a scalar."""
        ids = self.tokenize(rich)  # (B, length), padded with END_ID
        ids = F.pad(ids, (1, 0), value=START_ID)  # (B, 1 + length)
        ids = F.pad(ids, (0, 1), value=END_ID)  # (B, 1 + length + 1), so that all have an end
        prompts = self.encoder(short)  # (B, M, width)
        logits = self.next_word_logits(ids[:, :-1], prompts)  # (B, 1 + length, vocabulary)
        return next_word_loss(logits, ids)

    @torch.inference_mode()
    def draw(self, prompts: list[str], generator: torch.Generator | None = None) -> list[str]:
        """Draws a caption for each prompt. It may not keep what the prompt names."""
        states = self.encoder(prompts)  # (B, M, width)

        def next_logits(ids: Tensor) -> Tensor:
            return self.next_word_logits(ids, states)[:, -1]  # (B, vocabulary)

        ids = write_words(
            next_logits, len(prompts), self.length, generator=generator, device=states.device
        )  # (B, L)
        return decode_words(self.tokenizer, ids)

    def forward(
        self, prompts: str | list[str], generator: torch.Generator | None = None
    ) -> list[str]:
        """Completes each prompt to a rich caption that keeps what the prompt means.

        Rich prompts stay as they are. Warns of unknown words. Raises InputError if no caption is
        found for a prompt.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        warn_of_unknown(self, prompts)
        captions = self.search(prompts, generator)
        for prompt, caption in zip(prompts, captions, strict=True):
            if caption is None:
                raise InputError(
                    f"no caption of this world says all of {prompt!r}: name one object with "
                    "one color, one motion and so on, or two objects with above, below, left of, "
                    "right of or and between them"
                )
        return [caption for caption in captions if caption is not None]

    def search(
        self, prompts: list[str], generator: torch.Generator | None = None
    ) -> list[str | None]:
        """Draws captions until they keep what the prompts mean: None for a prompt that has none
        after `TRIES` draws. The first draw is for the prompt as typed, later ones for its meaning
        in captions' words."""
        meant, asked = [self.meaning(prompt) for prompt in prompts], prompts
        captions = [prompt if keeps(prompt, prompt) else None for prompt in prompts]
        for _ in range(TRIES):
            # only those prompts again that are not kept yet
            left = [i for i, caption in enumerate(captions) if caption is None]
            drawn = self.draw([asked[i] for i in left], generator) if left else []
            for i, caption in zip(left, drawn, strict=True):
                captions[i] = caption if keeps(meant[i], caption) else None
            asked = meant
        return captions

    def complete(
        self, prompts: list[str], generator: torch.Generator | None = None, image: bool = False
    ) -> list[str]:
        """Completes prompts for clips, or images (no motion), unless they are full captions."""
        short = [prompt for prompt in prompts if not is_complete(prompt, image)]
        rich = self(short, generator) if short else []
        completed = dict(zip(short, map(image_caption, rich) if image else rich, strict=True))
        return [completed.get(prompt, prompt) for prompt in prompts]
