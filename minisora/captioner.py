"""The captioner: clips in, rich captions out. It writes the captions that the DiT is trained on.

An image encoder reads each frame separately. Two poolers read the tokens of all frames: one for
captioning, one to compare clips with texts. Pooling ignores order, so each frame gets an embedding
of its number. Source: Yu et al., "CoCa: Contrastive Captioners are Image-Text Foundation Models"
(2022), extended to video as in Yan et al., "VideoCoCa" (2022).
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minisora import weights
from minisora.attention import Block
from minisora.device import best_device
from minisora.errors import InputError, check_frames, check_sizes
from minisora.text import (
    END_ID,
    START_ID,
    decode_words,
    next_word_loss,
    unknown_words,
    warn_of_unknown,
    word_tokenizer,
    write_words,
)

Clips = np.ndarray | Tensor  # uint8 (B, T, H, W, 3)
MASKED = -1e4  # logit of what cannot be chosen; a target masked by mistake keeps the loss finite


class Pooler(nn.Module):
    """`count` learned queries attend to all tokens: (B, N, width) -> (B, count, width)."""

    def __init__(self, count: int, width: int, heads: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(count, width))
        self.block = Block(width, heads, width)

    def forward(self, tokens: Tensor) -> Tensor:
        queries = self.queries.expand(len(tokens), -1, -1)  # (B, count, width)
        return self.block(queries, tokens)  # (B, count, width)


class Captioner(nn.Module):
    """CoCa for clips: it sees up to `frames` frames of `size` x `size` pixels, cut into patches.

    Captions have at most `length` - 1 of the `words`. Unless `timed`, it ignores frame order.
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
        check_sizes(width=width, depth=depth, heads=heads, queries=queries, length=length)
        check_sizes(frames=frames, size=size, patch=patch)
        if size % patch:
            raise InputError(f"frames of {size} x {size} are not cut evenly by patches of {patch}")
        self.config = {
            "words": list(words), "width": width, "depth": depth, "heads": heads, "frames": frames,
            "size": size, "patch": patch, "queries": queries, "length": length, "timed": timed,
        }  # fmt: skip
        self.frames, self.size, self.patch, self.length = frames, size, patch, length
        self.vocabulary = list(words)
        self.tokenizer = word_tokenizer(words)
        # the frames' side
        self.embed = nn.Linear(3 * patch**2, width)
        self.position_embed = nn.Parameter(0.5 * torch.randn((size // patch) ** 2, width))
        self.encoder = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.encoder_norm = nn.LayerNorm(width)
        self.time = nn.Parameter(torch.randn(frames, width), requires_grad=timed)
        if not timed:
            nn.init.zeros_(self.time)
        self.caption_pooler = Pooler(queries, width, heads)
        self.contrast_pooler = Pooler(1, width, heads)
        # the words' side
        self.embedding = nn.Embedding(len(words) + 2, width)
        self.word_position_embed = nn.Parameter(0.5 * torch.randn(length + 1, width))
        self.unimodal = nn.ModuleList(Block(width, heads) for _ in range(2))
        self.multimodal = nn.ModuleList(Block(width, heads, width) for _ in range(2))
        self.text_norm, self.head_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.head = nn.Linear(width, len(words) + 2)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())  # of similarities

    @classmethod
    def from_pretrained(
        cls, folder: str | Path | None = None, device: str | torch.device | None = None
    ) -> "Captioner":
        """Loads the shipped one or that in `folder`. Raises InputError if missing or damaged."""
        captioner = weights.load(folder or weights.shipped(), "captioner", cls)
        return captioner.to(torch.device(device) if device else best_device())

    @property
    def blocks(self) -> list[nn.Module]:
        """The modules whose matrices Muon updates."""
        poolers = [self.caption_pooler.block, self.contrast_pooler.block]
        return [*self.encoder, *poolers, *self.unimodal, *self.multimodal]

    def sample_frames(self, clips: Clips, sampled: bool = False) -> Tensor:
        """K evenly spread frames as pixels in [-1, 1]: (B, K, 3, size, size); all frames if the
        clips are `sampled` already, as `video.sample` does."""
        # PyTorch takes no arrays with negative strides, such as reversed clips
        clips = np.ascontiguousarray(clips) if isinstance(clips, np.ndarray) else clips
        clips = torch.as_tensor(clips)  # (B, T, H, W, 3)
        check_frames(clips, "(B, T, H, W, 3)")
        length = clips.shape[1]
        # K: at most half of T, rounded up
        count = length if sampled else min(self.frames, (length + 1) // 2)
        chosen = torch.linspace(0, length - 1, count).round().long()  # (K,)
        pixels = clips[:, chosen].movedim(-1, 2).float() / 127.5 - 1  # (B, K, 3, H, W)
        if pixels.shape[-2:] != (self.size, self.size):
            # on the CPU, since MPS resizes by few ratios only
            flat = F.interpolate(pixels.flatten(0, 1).cpu(), (self.size, self.size), mode="area")
            pixels = flat.unflatten(0, pixels.shape[:2])  # (B, K, 3, size, size)
        return pixels.to(self.time.device)

    def encode_frames(self, pixels: Tensor) -> Tensor:
        """Tokens of all frames: (B, K, 3, size, size) -> (B, K * h * w, width)."""
        p = self.patch
        patches = rearrange(pixels, "b k c (h p) (w q) -> (b k) (h w) (c p q)", p=p, q=p)
        x = self.embed(patches) + self.position_embed  # (B K, h w, width)
        for block in self.encoder:
            x = block(x)  # (B K, h w, width)
        x = rearrange(self.encoder_norm(x), "(b k) n d -> b k n d", b=len(pixels))
        # the embedding of each frame's number
        return (x + self.time[: x.shape[1], None]).flatten(1, 2)  # (B, K h w, width)

    def encode_words(self, ids: Tensor) -> Tensor:
        """States of words, each with the words before it as context: (B, L) -> (B, L, width)."""
        x = self.embedding(ids) + self.word_position_embed[: ids.shape[1]]  # (B, L, width)
        for block in self.unimodal:
            x = block(x, causal=True)  # (B, L, width)
        return x  # (B, L, width)

    def next_word_logits(self, words: Tensor, visual: Tensor) -> Tensor:
        """Predicts the word after each word: (B, L, vocabulary).

        words: states (B, L, width); visual: pooled tokens of frames (B, Q, width).
        """
        for block in self.multimodal:
            words = block(words, visual, causal=True)  # (B, L, width)
        return self.head(self.head_norm(words))  # (B, L, vocabulary)

    def unknown(self, text: str) -> list[str]:
        """The words of the text that are not in the vocabulary, as typed and in order."""
        return unknown_words(self.tokenizer, text)

    def tokenize(self, captions: list[str]) -> Tensor:
        """Captions -> ids (B, length + 1): `START_ID`, the known words, `END_ID` to the end.

        Unknown words are left out. Raises InputError if a caption has `length` words or more.
        """
        encodings = self.tokenizer.encode_batch(captions)
        encoded = [[i for i in encoding.ids if i > START_ID] for encoding in encodings]
        longest = max(map(len, encoded), default=0)
        if longest >= self.length:
            raise InputError(
                f"a caption has {longest} words, the captioner reads at most {self.length - 1}: shorten it"
            )
        rows = [[START_ID, *ids] + [END_ID] * (self.length - len(ids)) for ids in encoded]
        return torch.tensor(rows, device=self.time.device)  # (B, length + 1)

    def embed_clips(self, tokens: Tensor) -> Tensor:
        """Unit vectors of clips (B, width), from the tokens of `encode_frames`."""
        return F.normalize(self.contrast_pooler(tokens)[:, 0], dim=-1)

    def embed_texts(self, words: Tensor, ids: Tensor) -> Tensor:
        """Unit vectors of texts (B, width), from the states (B, L, width) and ids (B, L)."""
        # the first end is the first token that has the whole text as context
        end = (ids[:, 1:] == END_ID).int().argmax(1) + 1  # (B,)
        states = words[torch.arange(len(ids)), end]  # (B, width)
        return F.normalize(self.text_norm(states), dim=-1)

    def word_mask(self, words: Iterable[str]) -> Tensor:
        """True at the ids of these words: (vocabulary,). Unknown words are ignored."""
        mask = torch.zeros(self.head.out_features, dtype=torch.bool)
        mask[self._ids(words)] = True
        return mask.to(self.time.device)

    def unseen_pairs(
        self, captions: list[str], first_words: Iterable[str], second_words: Iterable[str]
    ) -> Tensor:
        """True at [first, second] if no caption has these words in a row: (vocabulary,) * 2."""
        unseen = torch.zeros(2 * [self.head.out_features], dtype=torch.bool)
        unseen[self._ids(first_words)[:, None], self._ids(second_words)] = True
        ids = self.tokenize(captions).cpu()  # (captions, length + 1)
        unseen[ids[:, :-1], ids[:, 1:]] = False
        return unseen.to(self.time.device)

    def _ids(self, words: Iterable[str]) -> Tensor:
        found = (self.tokenizer.token_to_id(word) for word in words)
        return torch.tensor([i for i in found if i is not None], dtype=torch.long)

    def losses(
        self,
        pixels: Tensor,
        captions: list[str],
        unseen_pairs: Tensor | None = None,
        unscored: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The captioning and the contrastive loss of pixels (B, K, 3, size, size), two scalars.

        Where `unseen_pairs` is true, the second word is no candidate after the first. Otherwise
        "green is never followed by star" is learned long before stars are. Words that are true in
        `unscored` (vocabulary,) are inputs, not targets. Source: CoCa, equations 1 to 3.
        """
        tokens, ids = self.encode_frames(pixels), self.tokenize(captions)  # (B, N, D), (B, L + 1)
        words = self.encode_words(ids)  # (B, L + 1, D)
        logits = self.next_word_logits(words[:, :-1], self.caption_pooler(tokens))  # (B, L, V)
        if unseen_pairs is not None:
            logits = logits.masked_fill(unseen_pairs[ids[:, :-1]], MASKED)  # (B, L, V)
        similarity = self.embed_clips(tokens) @ self.embed_texts(words, ids).mT  # (B, B)
        contrast = contrastive_loss(similarity * self.log_scale.exp().clamp(max=100), ids)
        return next_word_loss(logits, ids, unscored), contrast

    @torch.inference_mode()
    def forward(
        self,
        clips: Clips,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
        sampled: bool = False,
    ) -> list[str]:
        """Captions of clips. A `temperature` of 0 takes the likeliest words. `sampled` clips hold
        just the frames to look at."""
        pixels = self.sample_frames(clips, sampled)  # (B, K, 3, size, size)
        visual = self.caption_pooler(self.encode_frames(pixels))  # (B, Q, D)

        def next_logits(ids: Tensor) -> Tensor:
            return self.next_word_logits(self.encode_words(ids), visual)[:, -1]  # (B, V)

        ids = write_words(
            next_logits, len(visual), self.length, temperature, generator, visual.device
        )  # (B, L)
        return decode_words(self.tokenizer, ids)

    @torch.inference_mode()
    def similarity(self, clips: Clips, texts: list[str]) -> Tensor:
        """Cosine similarities of clips and texts, (clips, texts): a score like CLIP's."""
        return self.features(clips) @ self.text_features(texts).mT  # (clips, texts)

    @torch.inference_mode()
    def features(self, clips: Clips) -> Tensor:
        """Unit vectors of clips, (B, width)."""
        return self.embed_clips(self.encode_frames(self.sample_frames(clips)))

    @torch.inference_mode()
    def text_features(self, texts: list[str]) -> Tensor:
        """Unit vectors of texts, (B, width). Warns of unknown words and leaves them out."""
        warn_of_unknown(self, texts)
        ids = self.tokenize(texts)  # (B, L + 1)
        return self.embed_texts(self.encode_words(ids), ids)


def contrastive_loss(similarity: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy of finding each clip's text and each text's clip in the batch, a scalar.

    similarity: scaled, (B clips, B texts); ids: of the texts, (B, L).
    """
    own = torch.arange(len(ids), device=ids.device)  # (B,), clip i belongs to text i
    equal = (ids[:, None] == ids).all(-1)  # (B, B)
    others = own[:, None] != own  # (B, B), off the diagonal
    # clips with equal texts are no negatives for each other
    similarity = similarity.masked_fill(equal & others, MASKED)  # (B, B)
    return (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.mT, own)) / 2
