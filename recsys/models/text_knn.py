"""Text-kNN: items whose texts are like those of the history, by the cosine of TF-IDF vectors.

No sequence is counted but for ties, so that an item without an event is found as well as any other.

Shapes: `B` histories, `V` items, `W` words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray

from recsys.config import TextKNNConfig
from recsys.errors import InputError
from recsys.models.item_knn import TIE_SCALE
from recsys.models.popularity import tie_breaker
from recsys.models.sparse import all_items, matrix_from_arrays, matrix_to_arrays, recent_items
from recsys.sequences import Ragged
from recsys.text.attributes import check_present, text_columns, texts_of

WORD = r"\w+"
"""Words of one letter count too: some catalogues number their items."""


@dataclass(frozen=True)
class TextKNN:
    """Cosine of an item's words with the sum of those of the history.

    Attributes:
        prior: (V,) popularity scaled into [0, 1e-6).
        words: (V, W) sparse TF-IDF vectors of length 1; an item without a text has none.
        half_life: events until an item of the history counts half; None: never.
    """

    prior: NDArray[np.float32]
    words: sp.csr_array
    half_life: float | None

    def scores(self, histories: Ragged) -> sp.csr_array:
        """(B, V) cosines."""
        n_items = len(self.prior)
        if self.half_life is None:
            held_BV = all_items(histories, n_items)
        else:
            held_BV = recent_items(histories, n_items, self.half_life)
        summed_BW = sp.csr_array(held_BV @ self.words)
        norms_B = np.sqrt(np.asarray((summed_BW * summed_BW).sum(axis=1)))
        unit_BW = sp.diags_array(1 / np.maximum(norms_B, 1e-12), dtype=np.float32) @ summed_BW
        return sp.csr_array(unit_BW @ self.words.T, dtype=np.float32)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Prior and vectors."""
        shape = np.array(self.words.shape, dtype=np.int64)
        return {"prior": self.prior, "shape": shape, **matrix_to_arrays(self.words)}

    @classmethod
    def from_arrays(cls, config: TextKNNConfig, arrays: dict[str, NDArray[np.generic]]) -> TextKNN:
        """Rebuild from what `arrays` gave."""
        prior, width = np.asarray(arrays["prior"], dtype=np.float32), np.asarray(arrays["shape"])[1]
        return cls(prior, matrix_from_arrays(arrays, int(width)), config.half_life)


def has_words(items: pa.Table, names: Sequence[str]) -> bool:
    """Whether any item has a word in one of the columns."""
    texts = (text for name in names for text in texts_of(items[name]) if text)
    return any(re.search(WORD, text) for text in texts)


def fit_text_knn(config: TextKNNConfig, training: Ragged, items: pa.Table) -> TextKNN:
    """Weigh the words of all items, whether they have events or not.

    Raises:
        InputError: the items have no text, not even a word, or lack an attribute.
    """
    check_present(items, config.attributes)
    from sklearn.feature_extraction.text import TfidfVectorizer

    names = text_columns(items, config.attributes)
    if not has_words(items, names):
        raise InputError(
            f"model `text_knn` compares words, and no item has one in {', '.join(names)}; prepare the data "
            "with titles or attributes (data.items), or set model.attributes"
        )
    columns = [texts_of(items[name]) for name in names]
    texts = [" ".join(filter(None, parts)) for parts in zip(*columns, strict=True)]
    vectorizer = TfidfVectorizer(token_pattern=WORD, sublinear_tf=True, dtype=np.float32)
    words = sp.csr_array(vectorizer.fit_transform(texts))
    return TextKNN(tie_breaker(training, len(items)) * TIE_SCALE, words, config.half_life)
