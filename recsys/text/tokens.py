"""Sentences of items: attributes flattened to `key value key value ...` and cut into tokens once.

Li et al., "Text Is All You Need: Learning Language Representations for Sequential Recommendation", KDD 2023,
arXiv 2305.13731, section 2.1.

Shapes: `V` items, `N` tokens of all sentences.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.errors import InputError
from recsys.sequences import Ragged
from recsys.text.attributes import text_columns, texts_of

if TYPE_CHECKING:
    import tokenizers

START, KEY, VALUE, PADDING = 0, 1, 2, 3
"""Token types."""
TOKEN_TYPES = 4
_SPECIALS = {"pad": "[PAD]", "unknown": "[UNK]", "start": "[CLS]", "mask": "[MASK]"}
LETTERS = 1000
"""Different letters that WordPiece knows, the most frequent ones; a word with another is unknown."""
_OTHER_NAMES = {"pad": "<pad>", "unknown": "<unk>", "start": "<s>", "mask": "<mask>"}


@contextmanager
def text_extra() -> Iterator[None]:
    """Around an import: who lacks the package is told where it is.

    Raises:
        InputError: the package is missing.
    """
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"models that read text need the package `{error.name}`; install it: pip install 'recsys[text]'"
        ) from error


@dataclass(frozen=True)
class Sentences:
    """The sentences of a catalogue; row 0 is the sentence of items without a text, row j that of item j.

    Attributes:
        tokens: V+1 ragged rows of token ids.
        types: (N,) uint8, KEY or VALUE.
        without_text: (n,) item indices whose sentence is that of row 0.
        truncated: values of which only the first tokens are kept.
    """

    tokens: Ragged
    types: NDArray[np.uint8]
    without_text: NDArray[np.int64]
    truncated: int

    @classmethod
    def stored(
        cls, tokens: NDArray[np.int32], types: NDArray[np.uint8], offsets: NDArray[np.int64]
    ) -> Sentences:
        """Sentences that were made before; what there was to report is not known any more."""
        return cls(Ragged(tokens, offsets), types, np.empty(0, np.int64), 0)

    def notes(self, ids: pa.Array, shown: int = 5) -> list[str]:
        """What a person should know, in plain text; `ids` (V,) are the original ids."""
        notes = []
        if count := len(self.without_text):
            names = ", ".join(map(str, ids.take(pa.array(self.without_text[:shown] - 1)).to_pylist()))
            more = ", ..." if count > shown else ""
            notes.append(f"{count:,} items have no text and share one learned sentence: {names}{more}")
        if self.truncated:
            notes.append(f"{self.truncated:,} texts are longer than max_attribute_tokens and were cut there")
        return notes


class ItemTokenizer:
    """A tokenizer of the `tokenizers` library, and the four special tokens that a model of items needs."""

    def __init__(self, definition: str) -> None:
        """Read a tokenizer.

        Args:
            definition: content of a tokenizer.json.

        Raises:
            InputError: it is none, or it lacks a special token.
        """
        self.definition = definition
        self._tokenizer = _parse(definition)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.pad, self.unknown, self.start, self.mask = (self._special(role) for role in _SPECIALS)

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    @classmethod
    def trained(cls, texts: Iterable[str], *, size: int, kind: Literal["wordpiece", "bpe"]) -> ItemTokenizer:
        """Train on texts: the same texts give the same tokenizer.

        Args:
            texts: keys and values of a catalogue.
            size: tokens at most.
            kind: WordPiece in lower case without accents, or byte-level BPE.
        """
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or it warns when a process forks
        return cls(_word_pieces(sorted(texts), size) if kind == "wordpiece" else _bytes(sorted(texts), size))

    @classmethod
    def trained_on(
        cls, items: pa.Table, columns: list[str], *, size: int, kind: Literal["wordpiece", "bpe"]
    ) -> ItemTokenizer:
        """Train on the columns of an item table and their names."""
        values = chain.from_iterable(texts_of(items[name]) for name in columns)
        return cls.trained([*map(_key, columns), *filter(None, values)], size=size, kind=kind)

    def sentences(
        self, items: pa.Table, attributes: tuple[str, ...] | None, *, max_attributes: int, max_tokens: int
    ) -> Sentences:
        """Sentences of the rows of an item table.

        Args:
            items: V rows; row j is item j+1.
            attributes: columns that make a sentence, see `text_columns`.
            max_attributes: at most so many of them.
            max_tokens: tokens of a value that are kept.

        Raises:
            InputError: no column is a text.
        """
        parts: list[tuple[Ragged, int]] = []
        truncated = 0
        for name in text_columns(items, attributes, max_attributes):
            texts = texts_of(items[name])
            values = self._encode([text or "" for text in texts])
            present = np.array([text is not None for text in texts], dtype=np.int64) * (values.lengths > 0)
            truncated += int((values.lengths > max_tokens).sum())
            key = self._encode([_key(name)])
            keys = key.take(np.zeros(len(texts), dtype=np.int64)).first(present * key.lengths[0])
            parts += [(keys, KEY), (values.first(present * max_tokens), VALUE)]
        lengths, tokens, types = _side_by_side(parts, len(items))
        without = np.flatnonzero(lengths == 0)
        # One [UNK] is the sentence of row 0 and of every item that has none.
        lengths = np.r_[1, np.maximum(lengths, 1)]
        offsets = np.r_[0, np.cumsum(lengths)].astype(np.int64)
        filled = np.ones(int(offsets[-1]), dtype=np.bool_)
        filled[offsets[np.r_[0, without + 1]]] = False
        all_tokens = np.full(len(filled), self.unknown, dtype=np.int32)
        all_types = np.full(len(filled), VALUE, dtype=np.uint8)
        all_tokens[filled], all_types[filled] = tokens, types
        return Sentences(Ragged(all_tokens, offsets), all_types, without + 1, truncated)

    def _encode(self, texts: list[str]) -> Ragged:
        encoded = [each.ids for each in self._tokenizer.encode_batch(texts, add_special_tokens=False)]
        offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(ids) for ids in encoded], out=offsets[1:])
        return Ragged(np.fromiter(chain.from_iterable(encoded), dtype=np.int32), offsets)

    def _special(self, role: str) -> int:
        for name in (_SPECIALS[role], _OTHER_NAMES[role]):
            found = self._tokenizer.token_to_id(name)
            if found is not None:
                return int(found)
        raise InputError(
            f"the tokenizer has no {_SPECIALS[role]} or {_OTHER_NAMES[role]}, the {role} token; expected "
            "that of a BERT, RoBERTa or Longformer checkpoint, or one that was trained here"
        )


def _word_pieces(texts: list[str], size: int) -> str:
    """WordPiece in lower case without accents.

    The trainer numbers the letters inside words in no fixed order, which decides between pairs of equal
    count. They are given to it as special tokens first, and are none in the end.
    """
    with text_extra():
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.WordPiece(unk_token=_SPECIALS["unknown"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    counts = Counter(chain.from_iterable(tokenizer.normalizer.normalize_str(text) for text in texts))
    letters = sorted(sorted(counts), key=lambda letter: -counts[letter])[:LETTERS]
    inner = [f"##{letter}" for letter in letters if not letter.isspace()]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=[*_SPECIALS.values(), *inner],
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    definition = json.loads(tokenizer.to_str())
    definition["added_tokens"] = definition["added_tokens"][: len(_SPECIALS)]
    return json.dumps(definition, ensure_ascii=False)


def _bytes(texts: list[str], size: int) -> str:
    """Byte-level BPE."""
    with text_extra():
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE(unk_token=_SPECIALS["unknown"]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(_SPECIALS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str())


def _parse(definition: str) -> tokenizers.Tokenizer:
    with text_extra():
        from tokenizers import Tokenizer
    try:
        return Tokenizer.from_str(definition)
    except Exception as error:  # the library raises nothing narrower
        raise InputError(f"the tokenizer cannot be read ({error}); expected a tokenizer.json") from error


def _key(name: str) -> str:
    return " ".join(name.replace("_", " ").split())


def _side_by_side(
    parts: list[tuple[Ragged, int]], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint8]]:
    """Lengths (V,), tokens and types of rows that are made of those of each part, one after another."""
    lengths = np.stack([part.lengths for part, _ in parts], axis=1)
    ends = np.cumsum(lengths.ravel())
    starts = (ends - lengths.ravel()).reshape(count, len(parts))
    tokens = np.empty(int(lengths.sum()), dtype=np.int32)
    types = np.empty(len(tokens), dtype=np.uint8)
    for number, (part, kind) in enumerate(parts):
        within = np.arange(len(part.values)) - np.repeat(part.offsets[:-1], part.lengths)
        places = within + np.repeat(starts[:, number], part.lengths)
        tokens[places], types[places] = part.values, kind
    return lengths.sum(axis=1), tokens, types
