"""What a tuning gives: the table of its trials, and the best configuration as a file to train."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recsys.config import ExperimentConfig, shown_uri
from recsys.files import written_file
from recsys.trainer import MONITOR
from recsys.tuning.space import Settings, tuned_tree


@dataclass(frozen=True)
class TrialResult:
    """A trial that was validated at least once.

    Attributes:
        number: from 0, which is the configuration as it stood.
        settings: such as `model.dropout` -> 0.2.
        ended: complete, pruned, unfinished (out of time) or failed.
        epochs: trained until the last validation.
        value: the best NDCG@10 on validation.
        best_epoch: the epoch, from 1, of that.
    """

    number: int
    settings: Settings
    ended: str
    epochs: int
    value: float
    best_epoch: int


@dataclass(frozen=True)
class Tuned:
    """A tuning, done.

    Attributes:
        config: the experiment as it stood.
        trials: in their order, at least one.
        file: the YAML file of the best configuration.
        study: the SQLite file of the trials.
        run_id: MLflow's id of the parent run.
    """

    config: ExperimentConfig
    trials: list[TrialResult]
    file: Path
    study: Path
    run_id: str

    @property
    def best(self) -> TrialResult:
        """The trial that validation chose, the first one of equals."""
        return max(self.trials, key=lambda trial: (trial.value, -trial.number))

    @property
    def tree(self) -> dict[str, Any]:
        """The given sections with the best settings."""
        return tuned_tree(self.config, self.best.settings)

    @property
    def sections(self) -> dict[str, Any]:
        """The sections `model` and `training`, as `recsys.train` takes them."""
        return {"model": self.tree["model"], "training": self.tree.get("training", {})}

    def lines(self) -> list[str]:
        """The table of the trials and how to train the best, in plain text."""
        names = [key.partition(".")[2] for key in self.best.settings]
        heads = "".join(f"{name:>15}" for name in names)
        lines = [f"trial{heads}  epochs  valid {MONITOR}"]
        for trial in self.trials:
            values = "".join(f"{value:>15.4g}" for value in trial.settings.values())
            mark = ", the best" if trial is self.best else ""
            lines.append(
                f"{trial.number:>5}{values}  {trial.epochs:>6}  {trial.value:>13.4f}  {trial.ended}{mark}"
            )
        return [*lines, f"wrote {self.file}; train it: recsys train {self.file}"]


def write_tuned(tuned: Tuned) -> None:
    """Write the best configuration, with where it comes from as comments; a password stays out of it."""
    best, tree = tuned.best, tuned.tree
    comments = [
        f"The best of {len(tuned.trials)} trials of `recsys tune` by {MONITOR} on validation:",
        f"trial {best.number} reached {best.value:.4f} at epoch {best.best_epoch}, trial "
        f"{tuned.trials[0].number} {tuned.trials[0].value:.4f}.",
        *(
            f"  {key}: {value:g}, was {tuned.trials[0].settings[key]:g}"
            for key, value in best.settings.items()
        ),
        f"Train it: recsys train {tuned.file}",
    ]
    uri = tree.get("tracking", {}).get("uri", "")
    if shown_uri(uri) != uri:
        del tree["tracking"]["uri"]
        comments.append("tracking.uri has a password and is left out: set $MLFLOW_TRACKING_URI")
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    with written_file(tuned.file) as draft:
        draft.write_text("".join(f"# {line}\n" for line in comments) + text, encoding="utf-8")


def shown(settings: Settings) -> str:
    """Settings in one line."""
    return ", ".join(f"{key.partition('.')[2]} {value:g}" for key, value in settings.items())
