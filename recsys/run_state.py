"""What a run folder remembers of a training, so that it can be resumed and is never mixed with another."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.errors import InputError
from recsys.history import HISTORY_FILE

STATE_FILE = "run.json"
CHECKPOINTS = "checkpoints"


@dataclass
class RunState:
    """What a run folder remembers for `--resume`: the MLflow run and what it was made from."""

    file: Path
    fingerprint: str
    run_id: str | None = None

    @classmethod
    def open(cls, folder: Path, fingerprint: str, *, resume: bool) -> RunState:
        """The folder's state; a new one unless there is a training to resume."""
        state = cls(folder / STATE_FILE, fingerprint)
        folder.mkdir(parents=True, exist_ok=True)
        if not resume:
            # In this order: a checkpoint must never outlive the record of what it was made from.
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
            (folder / HISTORY_FILE).unlink(missing_ok=True)
            state.file.unlink(missing_ok=True)
            return state
        if not state.file.exists():
            raise InputError(f"{folder} holds no training to resume; train without --resume")
        stored: dict[str, Any] = json.loads(state.file.read_text(encoding="utf-8"))
        if stored["fingerprint"] != state.fingerprint:
            raise InputError(
                f"the training in {folder} was started with other model or training settings, on other data, "
                "or from another bundle; resume with the same, or train without --resume"
            )
        state.run_id = stored["run_id"]
        return state

    def keep(self, run_id: str) -> None:
        """Remember the run, before its first epoch."""
        content = json.dumps({"run_id": run_id, "fingerprint": self.fingerprint})
        draft = self.file.with_suffix(".tmp")
        draft.write_text(content, encoding="utf-8")
        draft.replace(self.file)
