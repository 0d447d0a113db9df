"""Tokenizer of CLIP: byte-pair encoding of cleaned, lower-case text.

The encoding is that of "Learning Transferable Visual Models From Natural Language Supervision"
(https://arxiv.org/abs/2103.00020v1), with the cleaning of OpenCLIP 3.3.0. Nothing of Keras is imported here.
"""

import functools
import gzip
import heapq
import html
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import ftfy
import numpy as np
import regex

MERGES_FILE = Path(__file__).parent / "data" / "bpe_merges.txt.gz"
BYTE_TOKENS = 512
VOCABULARY_SIZE = 49_408  # 512 for bytes, one for each of the 48,894 merges, start and end
CONTEXT_LENGTH = 77
SOT, EOT = "<start_of_text>", "<end_of_text>"
WORD_END = "</w>"
TRUNCATION_MODES = ("warn", "error", "silent")
MAX_CACHED_WORDS = 100_000

# Special tokens, contractions, letters, one digit, or anything else that is not blank.
TOKEN_PATTERN = regex.compile(
    rf"{SOT}|{EOT}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE
)
# Text that the cleaning leaves as it is, but for blanks and case: printable ASCII without the start of an entity.
ASCII_PATTERN = regex.compile(r"[ -%'-~]*")


@functools.cache
def byte_symbols() -> dict[int, str]:
    """Returns one printable character for each byte, as GPT-2 chose them: itself, or one from U+0100 on, in order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + rank) for rank, byte in enumerate(others)}


def clean(text: str) -> str:
    """Returns a text with repaired Unicode, without HTML entities, with single blanks, in lower case."""
    if not ASCII_PATTERN.fullmatch(text):
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


class Tokenizer:
    """Tokenizer with exactly OpenCLIP's token ids.

    Args:
        vocab_size: 49,408 for all published models. Fewer keep the first merges only, for small models: words
            fall into more pieces, and the start and end tokens are always the last two ids.
        context_length: Number of ids a text has, the start and end tokens among them.

    Example:
        >>> tokenizer = Tokenizer()
        >>> tokenizer("a diagram")[0, :5].tolist()
        [49406, 320, 22697, 49407, 0]
        >>> tokenizer.decode([320, 22697])
        'a diagram'
    """

    def __init__(self, vocab_size: int = VOCABULARY_SIZE, context_length: int = CONTEXT_LENGTH) -> None:
        if not BYTE_TOKENS + 2 <= vocab_size <= VOCABULARY_SIZE:
            raise ValueError(f"vocab_size must be {BYTE_TOKENS + 2} to {VOCABULARY_SIZE}. Received: {vocab_size}")
        self.vocab_size, self.context_length = vocab_size, _validate_context_length(context_length)
        self.start, self.end = vocab_size - 2, vocab_size - 1
        pairs = [tuple(line.split()) for line in gzip.decompress(MERGES_FILE.read_bytes()).decode().splitlines()]
        pairs = pairs[: vocab_size - BYTE_TOKENS - 2]
        symbols = list(byte_symbols().values())
        self.symbols = [*symbols, *(symbol + WORD_END for symbol in symbols), *("".join(pair) for pair in pairs)]
        self.symbols += [SOT, EOT]
        self.ids = {symbol: number for number, symbol in enumerate(self.symbols)}
        self.ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self.encode_word = functools.lru_cache(MAX_CACHED_WORDS)(self._encode_word)

    def __call__(
        self, texts: str | Sequence[str], context_length: int | None = None, truncate: str = "warn"
    ) -> np.ndarray:
        """Ids of texts, ready for a text encoder.

        Args:
            texts: One text or several.
            context_length: Ids of each text; the tokenizer's own if None.
            truncate: What to do with a text of more ids: `"warn"` and cut it, `"error"`, or cut it in silence.

        Returns:
            `(N, context_length)` int32: start, text, end, then zeros. A text that is cut still has its end.

        Raises:
            TypeError: If something is not a string.
            ValueError: If a text is too long and `truncate="error"`, or an argument is not valid.
        """
        if truncate not in TRUNCATION_MODES:
            raise ValueError(f"truncate must be one of {TRUNCATION_MODES}. Received: truncate={truncate!r}")
        length = _validate_context_length(self.context_length if context_length is None else context_length)
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows = np.zeros((len(texts), length), "int32")
        lost: list[tuple[int, int]] = []
        for row, text in zip(rows, texts, strict=True):
            ids = [self.start, *self.encode(text), self.end]
            if len(ids) > length:
                lost.append((len(ids) - length, len(ids)))
                ids = [*ids[: length - 1], self.end]
            row[: len(ids)] = ids
        if lost and truncate != "silent":
            dropped, longest = sum(count for count, _ in lost), max(total for _, total in lost)
            message = (
                f"{len(lost)} of {len(texts)} texts have more than {length} tokens, start and end among them "
                f"(the longest {longest}); {dropped} tokens are lost at their ends. Shorten them, or use "
                "truncate='silent'."
            )
            if truncate == "error":
                raise ValueError(message)
            warnings.warn(message, stacklevel=2)
        return rows

    def encode(self, text: str) -> list[int]:
        """Ids of one text without start, end and padding."""
        if not isinstance(text, str):
            raise TypeError(f"Texts must be strings. Received: {text!r} of type {type(text).__name__}")
        return [number for word in TOKEN_PATTERN.findall(clean(text)) for number in self.encode_word(word)]

    def count_tokens(self, text: str) -> int:
        """Returns the number of tokens of a text, including the start and end tokens."""
        return len(self.encode(text)) + 2

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the cleaned text of ids; start, end and what follows the end are left out.

        Raises:
            ValueError: If an id is not in the vocabulary.
        """
        symbols: list[str] = []
        for number in ids:
            if not 0 <= number < self.vocab_size:
                raise ValueError(f"ids must be 0 to {self.vocab_size - 1}. Received: {number}")
            if number == self.end:
                break
            if number != self.start:
                symbols.append(self.symbols[number])
        bytes_of = {symbol: byte for byte, symbol in byte_symbols().items()}
        words = "".join(symbols).split(WORD_END)
        return " ".join(bytes(bytes_of[symbol] for symbol in word).decode(errors="replace") for word in words).strip()

    def _encode_word(self, word: str) -> tuple[int, ...]:
        """Encodes one word by byte pairs: the pair that was merged first in training is merged first."""
        if word in (SOT, EOT):
            return (self.start if word == SOT else self.end,)
        symbols = [byte_symbols()[byte] for byte in word.encode()]
        symbols[-1] += WORD_END
        return tuple(self.ids[symbol] for symbol in merge_pairs(symbols, self.ranks))


def merge_pairs(symbols: list[str], ranks: dict[tuple[str, ...], int]) -> list[str]:
    """Joins neighbouring symbols, all pairs of the lowest rank first, in n log n steps for n symbols.

    Args:
        symbols: Symbols of one word.
        ranks: Ranks of the pairs that may be joined.

    Returns:
        The symbols that are left.
    """
    symbols = [*symbols]
    following = [*range(1, len(symbols)), -1]
    previous = [*range(-1, len(symbols) - 1)]
    heap: list[tuple[int, int, str, str]] = []  # rank, place of the left symbol, and both symbols

    def push(left: int) -> None:
        right = following[left] if left >= 0 else -1
        if right >= 0 and (rank := ranks.get((symbols[left], symbols[right]))) is not None:
            heapq.heappush(heap, (rank, left, symbols[left], symbols[right]))

    for index in range(len(symbols)):
        push(index)
    while heap:
        best, changed = heap[0][0], []
        while heap and heap[0][0] == best:  # All pairs of one rank, from left to right, before any that they make.
            _, left, first, second = heapq.heappop(heap)
            right = following[left]
            if symbols[left] != first or right < 0 or symbols[right] != second:
                continue  # One of the two was joined with its other neighbour.
            symbols[left], symbols[right] = first + second, ""
            following[left] = following[right]
            if following[right] >= 0:
                previous[following[right]] = left
            changed.append(left)
        for index in changed:
            push(previous[index])
            push(index)
    return [symbol for symbol in symbols if symbol]


def _validate_context_length(length: int) -> int:
    if isinstance(length, bool) or not isinstance(length, int) or length < 2:
        raise ValueError(f"context_length must be a whole number of 2 or more. Received: {length!r}")
    return length
