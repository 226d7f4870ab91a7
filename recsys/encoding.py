"""Histories to vectors, so that a history gets the same vector alone as among thousands.

A matrix product rounds differently when its shape is different, and one last bit can swap two items of
nearly equal score. A history is therefore padded to a width that depends on its own length alone, and rows
are encoded in multiples of four by one thread: from four rows on, CPU kernels then compute each row in the
same way whatever their number (measured bit by bit; one to three rows take other kernels, and two threads cut
a batch at other places). Several requests run side by side instead. On a GPU vectors agree to rounding.

Shapes: `B` sequences, `L` positions, `D` width.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.models.protocol import Encoder
from recsys.sequences import Ragged

WIDTH_STEP = 8
ROW_STEP = 4
TOKENS_PER_BATCH = 2**14


_threads = threading.Lock()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with a single CPU thread inside the block; where that is set already, do nothing."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    with _threads:  # the setting is the process's, not the caller's
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@torch.inference_mode()
@one_thread()
def encode_histories(
    model: Encoder, histories: Ragged, device: str | torch.device = "cpu"
) -> NDArray[np.float32]:
    """(B, D) vectors of B histories of item indices; the newest `max_history` items of each are read.

    Args:
        model: an encoder in evaluation mode on `device`.
        histories: B ragged rows, none of them empty.
        device: where the model is.
    """
    recent = histories.last(model.max_history)
    widths = np.minimum(-(-recent.lengths // WIDTH_STEP) * WIDTH_STEP, model.max_history)
    vectors: NDArray[np.float32] | None = None
    for width in np.unique(widths):
        members = np.flatnonzero(widths == width)
        step = max(TOKENS_PER_BATCH // int(width) // ROW_STEP, 1) * ROW_STEP
        for start in range(0, len(members), step):
            rows = members[start : start + step]
            filled = np.resize(rows, -(-len(rows) // ROW_STEP) * ROW_STEP)  # repeats rows to fill up
            items_BL = torch.from_numpy(recent.take(filled).padded(int(width)).astype(np.int64))
            encoded = model.encode(items_BL.to(device)).float().cpu().numpy()[: len(rows)]
            if vectors is None:
                vectors = np.empty((len(histories), encoded.shape[1]), dtype=np.float32)
            vectors[rows] = encoded
    return np.empty((0, 0), np.float32) if vectors is None else vectors


def item_vectors(model: Encoder) -> NDArray[np.float32]:
    """(V, D) item table as an array of its own."""
    with torch.inference_mode():
        return np.array(model.item_table().float().cpu().numpy())
