"""Histories as one stream of blocks of tokens: no padding beyond the last block of each.

A history is <s> and then the sentences of its items, the newest first, cut where it is too long. Each takes
whole blocks of `c` columns, and the blocks of all stand one after another.

Shapes: `B` histories, `E` items of all of them, `n` blocks, `c` columns of a block, `N` tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from recsys.text.tokens import PADDING, START

BLOCK_STEP = 8
"""Blocks that hold whole sentences are a multiple of this wide, so that few shapes occur."""


TOKENS_AT_ONCE = 2**13
"""Of sentences that are encoded each for itself: few enough for the caches."""


class Stream(NamedTuple):
    """B histories of tokens.

    Attributes:
        tokens_nc: int64 token ids.
        types_nc: int64 token types, PADDING where there is no token.
        places_nc: int64 place of the token in its history; 0 is <s>.
        items_nc: int64 place of the token's item in its history, 1 the newest; 0 at <s> and padding.
        owner_n: int64 history that a block belongs to.
        first_B: int64 first block of each history, which begins with its <s>.
        alone: whether every history is one block, so that none has a neighbour.
    """

    tokens_nc: torch.Tensor
    types_nc: torch.Tensor
    places_nc: torch.Tensor
    items_nc: torch.Tensor
    owner_n: torch.Tensor
    first_B: torch.Tensor
    alone: bool


class SentenceTable(NamedTuple):
    """Sentences as tensors, see `recsys.text.tokens`: row r is `tokens[offsets[r]:offsets[r+1]]`."""

    tokens_N: torch.Tensor
    types_N: torch.Tensor
    offsets: torch.Tensor

    def by_length(self) -> Iterator[torch.Tensor]:
        """All rows, those of similar length together."""
        lengths = self.offsets[1:] - self.offsets[:-1]
        order = torch.argsort(lengths, stable=True)
        start = 0
        while start < len(order):
            # The longest of a part decides; parts of a part are shorter still.
            size = max(TOKENS_AT_ONCE // (int(lengths[order[start]]) + 1), 1)
            yield order[start : start + size]
            start += size

    def stream(
        self,
        items_E: torch.Tensor,
        counts_B: torch.Tensor,
        *,
        start: int,
        pad: int,
        max_tokens: int,
        width: int,
        tight: bool = False,
    ) -> Stream:
        """Lay out histories.

        Args:
            items_E: rows of this table, the newest item of each history first.
            counts_B: items of each history.
            start: token id of <s>.
            pad: token id of padding.
            max_tokens: tokens of a history that are kept, <s> among them.
            width: columns of a block.
            tight: narrower blocks where every history fits into one.
        """
        B, device = len(counts_B), items_E.device
        lengths_E = self.offsets[items_E + 1] - self.offsets[items_E]
        owner_E = torch.arange(B, device=device).repeat_interleave(counts_B)
        before_E = lengths_E.cumsum(0) - lengths_E  # tokens of all items before
        head_B = counts_B.cumsum(0) - counts_B
        # An empty history after the last item has no item to begin with: any place will do.
        begin_B = torch.cat([before_E, before_E.new_zeros(1)])[head_B]
        place_E = before_E - begin_B[owner_E] + 1  # 0 is <s>
        kept_E = (max_tokens - place_E).clamp(min=0).minimum(lengths_E)
        size_B = torch.ones(B, dtype=torch.int64, device=device).index_add_(0, owner_E, kept_E)
        longest = int(size_B.max())
        alone = tight and longest <= width
        if alone:
            width = -(-longest // BLOCK_STEP) * BLOCK_STEP
        blocks_B = (size_B + width - 1) // width
        first_B = blocks_B.cumsum(0) - blocks_B
        n = int(blocks_B.sum())

        item_N = torch.arange(len(items_E), device=device).repeat_interleave(kept_E)
        within_N = torch.arange(len(item_N), device=device) - (kept_E.cumsum(0) - kept_E)[item_N]
        source_N = self.offsets[items_E][item_N] + within_N
        place_N = place_E[item_N] + within_N
        target_N = first_B[owner_E][item_N] * width + place_N
        rank_E = torch.arange(len(items_E), device=device) - head_B[owner_E] + 1

        tokens = torch.full((n * width,), pad, dtype=torch.int64, device=device)
        types = torch.full_like(tokens, PADDING)
        places, items = torch.zeros_like(tokens), torch.zeros_like(tokens)
        tokens[first_B * width], types[first_B * width] = start, START
        tokens[target_N], types[target_N] = self.tokens_N[source_N].long(), self.types_N[source_N].long()
        places[target_N], items[target_N] = place_N, rank_E[item_N]
        owner_n = torch.arange(B, device=device).repeat_interleave(blocks_B)
        shape = (n, width)
        return Stream(
            tokens.view(shape),
            types.view(shape),
            places.view(shape),
            items.view(shape),
            owner_n,
            first_B,
            alone,
        )
