"""Text: prompts become token states that the transformer attends to.

An encoder is a module with `forward(prompts) -> (B, L, width)`, `width`, `unknown(prompt)`, the
words it cannot read, and `has_words(prompt)`.
"""

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn

from minisora.attention import Block
from minisora.errors import InputError

PAD, UNKNOWN = "[PAD]", "[UNK]"


def word_tokenizer(words: list[str]) -> Tokenizer:
    """A tokenizer of whole words, blind to case and punctuation. Padding is token 0, an unknown word
    token 1."""
    tokenizer = Tokenizer(
        models.WordLevel(
            {word: i for i, word in enumerate([PAD, UNKNOWN, *words])}, unk_token=UNKNOWN
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation(behavior="removed")]
    )
    return tokenizer


class TextEncoder(nn.Module):
    """A small word-level encoder, trained with the transformer. The empty prompt, all padding,
    stands for no text."""

    def __init__(
        self, words: list[str], width: int = 128, depth: int = 2, heads: int = 4, length: int = 16
    ) -> None:
        super().__init__()
        self.config = {
            "words": list(words),
            "width": width,
            "depth": depth,
            "heads": heads,
            "length": length,
        }
        self.width, self.length = width, length
        self.tokenizer = word_tokenizer(words)
        self.tokenizer.enable_padding(length=length, pad_token=PAD)
        self.embedding = nn.Embedding(len(words) + 2, width)
        self.place = nn.Parameter(0.5 * torch.randn(length, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def unknown(self, prompt: str) -> list[str]:
        """The words of the prompt that were never seen in training, in order."""
        encoding = self.tokenizer.encode(prompt)
        return [
            prompt[a:b]
            for token, (a, b) in zip(encoding.tokens, encoding.offsets, strict=True)
            if token == UNKNOWN
        ]

    def tokenize(self, prompts: list[str]) -> Tensor:
        """Prompts -> token numbers (B, L). Unknown words become padding, which training has seen.
        Raises InputError if a prompt is longer than L words."""
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(prompts)]
        longest = max(map(len, ids))
        if longest > self.length:
            raise InputError(
                f"a prompt has {longest} words, the model reads at most {self.length}: shorten it"
            )
        tokens = torch.tensor(ids, device=self.place.device)
        return tokens.masked_fill(tokens.eq(1), 0)  # [UNK] -> [PAD]

    def has_words(self, prompt: str) -> bool:
        """Whether anything but punctuation is there, known or unknown."""
        return any(token != PAD for token in self.tokenizer.encode(prompt).tokens)

    def forward(self, prompts: list[str]) -> Tensor:
        x = self.embedding(self.tokenize(prompts)) + self.place  # (B, L, width)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
