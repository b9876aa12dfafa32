"""The captioner: clips in, rich captions out. It makes the captions that the transformer is trained
on.

Source: Yu et al., "CoCa: Contrastive Captioners are Image-Text Foundation Models" (2022), carried
to video as in Yan et al., "VideoCoCa" (2022): an image encoder reads every frame by itself, two
poolers read the tokens of all frames at once, one for the caption and one for the comparison of
clips with texts. Poolers are blind to order, so each frame is told its number among those chosen.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minisora import weights
from minisora.attention import Block
from minisora.device import best_device
from minisora.errors import InputError, check_counts, check_frames
from minisora.text import (
    END,
    START,
    next_word_loss,
    unknown_words,
    warn_of_unknown,
    word_tokenizer,
)
from minisora.world import shapes


class Pooler(nn.Module):
    """`count` learned queries look at all tokens: (B, N, width) -> (B, count, width)."""

    def __init__(self, count: int, width: int, heads: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(count, width))
        self.block = Block(width, heads, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.block(self.queries.expand(len(tokens), -1, -1), tokens)


class Captioner(nn.Module):
    """CoCa for clips. Captions are made of `words`, at most `length` - 1 of them, and an END.

    Clips are read as up to `frames` frames of `size` x `size` pixels, cut into patches of `patch`.
    """

    def __init__(
        self,
        words: list[str],
        width: int = 128,
        depth: int = 3,
        heads: int = 4,
        frames: int = 9,
        size: int = 32,
        patch: int = 8,
        queries: int = 16,
        length: int = 18,
        timed: bool = True,
    ) -> None:
        super().__init__()
        check_counts(1, frames=frames, patch=patch)
        if size % patch:
            raise InputError(f"frames of {size} x {size} are not cut evenly by patches of {patch}")
        self.config = {
            "words": list(words),
            "width": width,
            "depth": depth,
            "heads": heads,
            "frames": frames,
            "size": size,
            "patch": patch,
            "queries": queries,
            "length": length,
            "timed": timed,
        }
        self.frames, self.size, self.patch, self.length = frames, size, patch, length
        self.tokenizer = word_tokenizer(words)
        # of frames
        self.embed = nn.Linear(3 * patch**2, width)
        self.place = nn.Parameter(0.5 * torch.randn((size // patch) ** 2, width))
        self.encoder = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.encoder_norm = nn.LayerNorm(width)
        self.time = nn.Parameter(torch.randn(frames, width), requires_grad=timed)
        if not timed:
            nn.init.zeros_(self.time)
        self.caption_pooler = Pooler(queries, width, heads)
        self.contrast_pooler = Pooler(1, width, heads)
        # of words
        self.embedding = nn.Embedding(len(words) + 2, width)
        self.word_place = nn.Parameter(0.5 * torch.randn(length + 1, width))
        self.unimodal = nn.ModuleList(Block(width, heads) for _ in range(2))
        self.multimodal = nn.ModuleList(Block(width, heads, width) for _ in range(2))
        self.text_norm, self.head_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.head = nn.Linear(width, len(words) + 2)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())  # of similarities

    @classmethod
    def from_pretrained(
        cls, folder: str | Path | None = None, device: str | torch.device | None = None
    ) -> "Captioner":
        """Loads the shipped captioner, or the one in `folder`. Raises InputError if it is missing
        or damaged."""
        captioner = weights.load(folder or weights.shipped(), "captioner", cls)
        return captioner.to(torch.device(device) if device else best_device())

    @property
    def blocks(self) -> list[nn.Module]:
        """Those whose matrices Muon steps."""
        poolers = [self.caption_pooler.block, self.contrast_pooler.block]
        return [*self.encoder, *poolers, *self.unimodal, *self.multimodal]

    def sample_frames(self, clips: np.ndarray | Tensor) -> Tensor:
        """uint8 clips (B, T, H, W, 3) -> pixels (B, K, 3, size, size) in [-1, 1] of K <= `frames`
        frames, spread over the clip."""
        clips = torch.as_tensor(
            np.ascontiguousarray(clips) if isinstance(clips, np.ndarray) else clips
        )
        check_frames(clips, "(B, T, H, W, 3)")
        count = min(self.frames, (clips.shape[1] + 1) // 2)
        chosen = torch.linspace(0, clips.shape[1] - 1, count).round().long()
        pixels = clips[:, chosen].movedim(-1, 2).float() / 127.5 - 1
        if pixels.shape[-2:] != (self.size, self.size):  # on the CPU, since MPS takes few ratios
            flat = F.interpolate(pixels.flatten(0, 1).cpu(), (self.size, self.size), mode="area")
            pixels = flat.unflatten(0, pixels.shape[:2])
        return pixels.to(self.time.device)

    def see(self, pixels: Tensor) -> Tensor:
        """Every frame by itself, then told its number: (B, K, 3, size, size) -> tokens (B, K * h * w,
        width)."""
        patches = rearrange(
            pixels, "b k c (h p) (w q) -> (b k) (h w) (c p q)", p=self.patch, q=self.patch
        )
        x = self.embed(patches) + self.place  # (B K, h w, width)
        for block in self.encoder:
            x = block(x)
        x = rearrange(self.encoder_norm(x), "(b k) n d -> b k n d", b=len(pixels))
        return (x + self.time[: x.shape[1], None]).flatten(1, 2)

    def read(self, ids: Tensor) -> Tensor:
        """What the words say, each knowing those before it: (B, L) -> (B, L, width)."""
        x = self.embedding(ids) + self.word_place[: ids.shape[1]]
        for block in self.unimodal:
            x = block(x, causal=True)
        return x

    def say(self, words: Tensor, seen: Tensor) -> Tensor:
        """The next word of each: words (B, L, width) and pooled tokens (B, Q, width) -> logits (B,
        L, words)."""
        for block in self.multimodal:
            words = block(words, seen, causal=True)
        return self.head(self.head_norm(words))

    def unknown(self, text: str) -> list[str]:
        """The words of the text that were never seen in training, in order."""
        return unknown_words(self.tokenizer, text)

    def tokenize(self, captions: list[str]) -> Tensor:
        """START, the words it knows, END and more of it: (B, length + 1). Raises InputError if a
        caption is too long."""
        encoded = [
            [i for i in encoding.ids if i > START]
            for encoding in self.tokenizer.encode_batch(captions)
        ]
        longest = max(map(len, encoded), default=0)
        if longest >= self.length:
            raise InputError(
                f"a caption has {longest} words, the captioner reads at most {self.length - 1}: shorten it"
            )
        rows = [[START, *ids] + [END] * (self.length - len(ids)) for ids in encoded]
        return torch.tensor(rows, device=self.time.device)

    def embed_clips(self, tokens: Tensor) -> Tensor:
        """Unit vectors (B, width) to compare with those of texts; tokens as `see` returns them."""
        return F.normalize(self.contrast_pooler(tokens)[:, 0], dim=-1)

    def embed_texts(self, words: Tensor, ids: Tensor) -> Tensor:
        """Unit vectors (B, width): the state of the first END, which has read the whole text."""
        end = (ids[:, 1:] == END).int().argmax(1) + 1
        return F.normalize(self.text_norm(words[torch.arange(len(ids)), end]), dim=-1)

    def strangers(self, captions: list[str]) -> Tensor:
        """Which shapes never follow which color in `captions`: (words, words), true at (color,
        shape)."""
        names = (shapes.COLORS, shapes.SHAPES)
        colors, kinds = ([self.tokenizer.token_to_id(word) for word in group] for group in names)
        apart = torch.zeros(2 * [self.head.out_features], dtype=torch.bool)
        apart[torch.tensor(colors)[:, None], torch.tensor(kinds)] = True
        ids = self.tokenize(captions).cpu()
        apart[ids[:, :-1], ids[:, 1:]] = False
        return apart.to(self.time.device)

    def color_words(self) -> Tensor:
        """Which words name the color of an object or of the background: (words,)."""
        named = torch.zeros(self.head.out_features, dtype=torch.bool)
        for word in (*shapes.COLORS, *shapes.BACKGROUNDS):
            named[self.tokenizer.token_to_id(word)] = True
        return named.to(self.time.device)

    def losses(
        self,
        pixels: Tensor,
        captions: list[str],
        strangers: Tensor | None = None,
        silent: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Captioning and contrastive loss of clips, pixels (B, K, 3, size, size), and their
        captions (CoCa, equations 1 to 3). Clips of the same caption are no negatives. On several
        devices each compares the clips of its own batch, and averages over its own words.

        With `strangers`, as the method of that name finds them, the chance of a shape is taken among
        those that came in its color. Else "green is never a star" is learned long before stars are,
        and a green star can never be captioned. `silent` words (words,) are given but not asked for.
        """
        tokens, ids = self.see(pixels), self.tokenize(captions)
        words = self.read(ids)
        logits = self.say(words[:, :-1], self.caption_pooler(tokens))
        if strangers is not None:
            logits = logits.masked_fill(strangers[ids[:, :-1]], -1e4)
        similarity = self.embed_clips(tokens) @ self.embed_texts(words, ids).mT
        similarity = similarity * self.log_scale.exp().clamp(max=100)
        twins = (ids[:, None] == ids).all(-1)
        similarity = similarity.masked_fill(
            twins & ~torch.eye(len(ids), dtype=torch.bool, device=ids.device), -1e4
        )
        pairs = torch.arange(len(ids), device=ids.device)
        contrast = (F.cross_entropy(similarity, pairs) + F.cross_entropy(similarity.mT, pairs)) / 2
        return next_word_loss(logits, ids, silent), contrast

    @torch.inference_mode()
    def forward(
        self,
        clips: np.ndarray | Tensor,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> list[str]:
        """A caption for each of the clips, uint8 (B, T, H, W, 3): the likeliest next word again and
        again, or, with a `temperature`, drawn."""
        seen = self.caption_pooler(self.see(self.sample_frames(clips)))
        ids = torch.full((len(seen), 1), START, device=seen.device)
        where = generator.device if generator else "cpu"
        for _ in range(self.length):
            logits = self.say(self.read(ids), seen)[:, -1].float()
            if temperature > 0:  # drawn where the generator is
                chances = (logits / temperature).softmax(-1).to(where)
                word = torch.multinomial(chances, 1, generator=generator).to(ids.device)
            else:
                word = logits.argmax(-1, keepdim=True)
            ids = torch.cat([ids, word.masked_fill(ids[:, -1:] == END, END)], dim=1)
            if (ids[:, -1] == END).all():
                break
        return [self.tokenizer.decode([i for i in row if i > START]) for row in ids.tolist()]

    @torch.inference_mode()
    def similarity(self, clips: np.ndarray | Tensor, texts: list[str]) -> Tensor:
        """Cosines of clips with texts, (clips, texts): a CLIP-like score."""
        return self.features(clips) @ self.text_features(texts).mT

    @torch.inference_mode()
    def features(self, clips: np.ndarray | Tensor) -> Tensor:
        """A unit vector for each clip, (B, width)."""
        return self.embed_clips(self.see(self.sample_frames(clips)))

    @torch.inference_mode()
    def text_features(self, texts: list[str]) -> Tensor:
        """A unit vector for each text, (B, width). Words it has never seen are left out, and named
        in a warning."""
        warn_of_unknown(self, texts, stacklevel=4)
        ids = self.tokenize(texts)
        return self.embed_texts(self.read(ids), ids)
