"""Tokens that the text encoder reads in a second, beside a padded Longformer, at growing lengths.

    python -m tests.benchmarks.long_attention --threads 1

The public implementation of Recformer pads a batch to its longest history and runs transformers' Longformer
over all of it, as the second column does with random weights of the same sizes; both give the same states
(see tests/test_text_encoder.py). Half of a batch's histories have the length of the row, the others have
lengths drawn between an eighth of it and all of it; only their own tokens count. The first two columns of
tokens a second are vectors of histories without gradients, the next two a forward and backward pass.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from transformers import LongformerConfig, LongformerModel

from recsys.models.text_encoder import TextEncoder
from recsys.text.stream import SentenceTable, Stream

LENGTHS = (256, 512, 1024, 2048)
DIM, INNER, LAYERS, HEADS, WINDOW, TOKENS = 64, 256, 2, 2, 64, 8000


def longformer() -> LongformerModel:
    """Transformers' Longformer with random weights."""
    config = LongformerConfig(
        vocab_size=TOKENS,
        hidden_size=DIM,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        attention_window=WINDOW,
        max_position_embeddings=LENGTHS[-1] + 2,
        type_vocab_size=4,
        pad_token_id=1,
    )
    return LongformerModel(config, add_pooling_layer=False).eval()


def ours() -> TextEncoder:
    """Our encoder of the same sizes."""
    return TextEncoder(
        tokens=TOKENS, max_tokens=LENGTHS[-1], max_items=1, window=WINDOW, dim=DIM, inner=INNER,
        layers=LAYERS, heads=HEADS, dropout=0.0, norm_eps=1e-12,
    ).eval()  # fmt: skip


def batch(longest: int, size: int) -> tuple[Stream, dict[str, torch.Tensor], int]:
    """The same histories as a stream and padded, and how many tokens they have."""
    lengths = torch.randint(longest // 8, longest + 1, (size,))
    lengths[: size // 2] = longest
    tokens = torch.randint(5, TOKENS, (int(lengths.sum()) - size,), dtype=torch.int32)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), (lengths - 1).cumsum(0)])
    table = SentenceTable(tokens, torch.full_like(tokens, 2, dtype=torch.uint8), offsets)
    stream = table.stream(
        torch.arange(size), torch.ones_like(lengths), start=0, pad=1, max_tokens=longest, width=WINDOW // 2
    )
    padded = torch.full((size, longest), 1)
    for row, length in enumerate(lengths.tolist()):
        padded[row, 0] = 0
        padded[row, 1:length] = tokens[offsets[row] : offsets[row + 1]]
    everywhere = torch.zeros_like(padded)
    everywhere[:, 0] = 1
    inputs = {
        "input_ids": padded,
        "attention_mask": (padded != 1).long(),
        "global_attention_mask": everywhere,
    }
    return stream, inputs, int(lengths.sum())


def seconds(run: Callable[[], torch.Tensor], repeats: int, *, backward: bool) -> float:
    """The fastest of some runs, by the clock of the processor: others on the machine do not count."""
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        with torch.set_grad_enabled(backward):
            result = run()
            if backward:
                result.sum().backward()  # type: ignore[no-untyped-call]
        best = min(best, time.process_time() - started)
    return best


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tokens", type=int, default=8192, help="of a batch, padding included")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    encoder, reference = ours(), longformer()
    print(f"tokens a processor second, {options.threads} threads, {LAYERS} layers of {DIM}, window {WINDOW}")
    print(
        f"{'tokens':>7}{'ours':>10}{'padded':>10}{'ratio':>7}{'ours, training':>16}{'padded':>10}{'ratio':>7}"
    )
    for longest in LENGTHS:
        stream, inputs, count = batch(longest, max(options.tokens // longest, 2))
        cells = ""
        for backward, width in ((False, 10), (True, 16)):
            mine = count / seconds(lambda: encoder.summaries(stream), options.repeats, backward=backward)  # noqa: B023
            theirs = count / seconds(
                lambda: reference(**inputs).last_hidden_state[:, 0],  # noqa: B023
                options.repeats,
                backward=backward,
            )
            cells += f"{mine:>{width},.0f}{theirs:>10,.0f}{mine / theirs:>7.1f}"
        print(f"{longest:>7}{cells}", flush=True)


if __name__ == "__main__":
    main()
