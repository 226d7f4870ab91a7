"""Histories to vectors, so that a history gets the same vector alone as among thousands.

A matrix product rounds differently when its shape is different, and one last bit can swap two items of
nearly equal score. A history is therefore padded to a width that depends on its own length alone, and rows
are encoded in multiples of four by one thread: from four rows on, CPU kernels then compute each row in the
same way whatever their number (measured bit by bit; one to three rows take other kernels, and two threads cut
a batch at other places). Several batches, and under `recsys serve` several requests, run side by side
instead. On a GPU vectors agree to rounding.

Shapes: `B` sequences, `L` positions, `D` width.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

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


def encode_histories(
    model: Encoder, histories: Ragged, device: str | torch.device = "cpu"
) -> NDArray[np.float32]:
    """(B, D) vectors of B histories of item indices; the newest `max_history` items of each are read.

    On a CPU as many batches are computed at a time as PyTorch has threads.

    Args:
        model: an encoder in evaluation mode on `device`; one that computes a row alike whatever the number of
            rows says so by `row_step` 1.
        histories: B ragged rows.
        device: where the model is.
    """
    recent = histories.last(model.max_history)
    row_step = getattr(model, "row_step", ROW_STEP)
    batches = list(_batches(recent.lengths, model.max_history, row_step))

    @torch.inference_mode()  # a setting of the thread that computes
    def encode(batch: tuple[NDArray[np.int64], int]) -> NDArray[np.float32]:
        rows, width = batch
        filled = np.resize(rows, -(-len(rows) // row_step) * row_step)  # repeats rows to fill up
        items_BL = torch.from_numpy(recent.take(filled).padded(width).astype(np.int64))
        vectors: NDArray[np.float32] = model.encode(items_BL.to(device)).float().cpu().numpy()[: len(rows)]
        return vectors

    threads = min(torch.get_num_threads(), len(batches)) if torch.device(device).type == "cpu" else 1
    with one_thread():
        if threads <= 1:
            encoded = [encode(batch) for batch in batches]
        else:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                encoded = list(pool.map(encode, batches))
    if not encoded:
        return np.empty((0, 0), np.float32)
    vectors = np.empty((len(histories), encoded[0].shape[1]), dtype=np.float32)
    vectors[np.concatenate([rows for rows, _ in batches])] = np.concatenate(encoded)
    return vectors


def _batches(
    lengths: NDArray[np.int64], longest: int, row_step: int
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Rows to encode together, and the width they are padded to."""
    widths = np.minimum(-(-np.maximum(lengths, 1) // WIDTH_STEP) * WIDTH_STEP, longest)
    for width in np.unique(widths).tolist():
        members = np.flatnonzero(widths == width)
        step = max(TOKENS_PER_BATCH // width // row_step, 1) * row_step
        for start in range(0, len(members), step):
            yield members[start : start + step], width


def item_vectors(model: Encoder) -> NDArray[np.float32]:
    """(V, D) item table as an array of its own."""
    with torch.inference_mode():
        return np.array(model.item_table().float().cpu().numpy())
