from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recsys.checkpoints import StreamedCheckpoints


def test_a_checkpoint_that_cannot_be_written_leaves_the_former(tmp_path: Path) -> None:
    checkpoints, path = StreamedCheckpoints(), tmp_path / "new folder" / "last.ckpt"
    checkpoints.save_checkpoint({"weights": torch.ones(2)}, path)
    unwritable = {"weights": torch.zeros(2), "more": (letter for letter in "ab")}
    with pytest.raises(TypeError, match="pickle"):
        checkpoints.save_checkpoint(unwritable, path)
    assert checkpoints.load_checkpoint(path)["weights"].tolist() == [1.0, 1.0]
    assert list(path.parent.iterdir()) == [path]
