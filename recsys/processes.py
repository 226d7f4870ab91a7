"""Which of several training processes this one is, as torchrun's environment variables say."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Processes:
    """The processes of one training.

    Attributes:
        rank: number of this process, from 0; the first records the run and writes the bundle.
        total: processes on all nodes.
        local_rank: number of this process on its node, which is that of its device.
        per_node: processes on this node.
    """

    rank: int
    total: int
    local_rank: int
    per_node: int

    @property
    def nodes(self) -> int:
        """Machines, each with the same number of processes."""
        return self.total // self.per_node

    @classmethod
    def launched(cls) -> Processes:
        """What torchrun started; one process where it did not."""
        total = int(os.environ.get("WORLD_SIZE", 1))
        return cls(
            rank=int(os.environ.get("RANK", 0)),
            total=total,
            local_rank=int(os.environ.get("LOCAL_RANK", 0)),
            per_node=int(os.environ.get("LOCAL_WORLD_SIZE", total)),
        )
