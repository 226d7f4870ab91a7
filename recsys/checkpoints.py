"""Where a training stands, on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from recsys.files import written_file

LAST, BEST = "last", "best"
"""Names of the two checkpoints, without their `.ckpt`."""


class StreamedCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint to its file piece by piece; Lightning's own makes it whole in memory before."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any = None,  # noqa: ANN401 -- Lightning's own
    ) -> None:
        """The file is there complete or not at all."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_file(target) as draft:
            torch.save(checkpoint, draft)


def ran_out_of_patience(last: Path) -> bool:
    """Whether early stopping had ended the training; Lightning alone would go on until it stops again."""
    states = torch.load(last, map_location="cpu", weights_only=True, mmap=True)["callbacks"].values()
    return any(state.get("stopped_epoch") for state in states)
