"""The trials of a tuning: trained one after the other, recorded, stopped when they are not worth going on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.trial import TrialState

from recsys.config import EncoderConfig, ExperimentConfig
from recsys.dataset import PreparedData, Targets
from recsys.mlflow_session import find_run, mlflow_session
from recsys.recipe import settled
from recsys.tracking import TrackedRun, track_run
from recsys.trainer import MONITOR, OnEpoch
from recsys.training import fit_encoder
from recsys.tuning.result import TrialResult, shown
from recsys.tuning.space import Range, tuned_config
from recsys.tuning.study import countable, interrupted, judged, next_trial, validations

ENDED = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.RUNNING: "unfinished"}
"""The study's word for how a trial ended -> ours; unfinished is what ran out of time."""


class _Stop(Exception):
    """Raised in a training to end its trial in this state."""

    def __init__(self, state: TrialState) -> None:
        super().__init__(ENDED[state])
        self.state = state


@dataclass
class Clock:
    """A budget of time, spent in steps from one validation to the next.

    Attributes:
        ends: when it is spent, of `time.monotonic`.
        step: seconds that the last step took.
    """

    ends: float
    step: float = 0.0
    _last: float = field(default_factory=time.monotonic)

    def begin(self) -> None:
        """A training begins."""
        self._last = time.monotonic()

    def validated(self) -> None:
        """A step is done, and the next one begins."""
        now = time.monotonic()
        self.step, self._last = now - self._last, now

    def allows_a_step(self) -> bool:
        """Whether another one fits."""
        return time.monotonic() + self.step < self.ends


@dataclass
class Trials:
    """The trials of one study.

    Attributes:
        config: the experiment as it stands.
        data: its prepared data.
        validation: what trials are judged by.
        ranges: what is searched.
        study: Optuna's.
        file: the study's, which the checkpoints of the trial under way stand beside.
        parent: id of the MLflow run that those of the trials stand below.
        clock: the budget.
        say: called with lines for people.
    """

    config: ExperimentConfig
    data: PreparedData
    validation: Targets
    ranges: list[Range]
    study: optuna.Study
    file: Path
    parent: str
    clock: Clock
    say: Callable[[str], None]

    def run(self, limit: int | None) -> None:
        """Go on with what is under way, then new trials, while there is time and up to the limit."""
        given = {each.key: each.given for each in self.ranges}
        while not judged(self.study) or self.clock.allows_a_step():
            trial = interrupted(self.study)
            if trial is not None:
                self._run_trial(trial, resumed=True)
            elif limit is None or countable(self.study) < limit:
                self._run_trial(next_trial(self.study, given, self.config.training.seed), resumed=False)
            else:
                return

    def results(self) -> list[TrialResult]:
        """The trials that were validated, in their order."""
        return [
            TrialResult(
                number=trial.number,
                settings=trial.user_attrs["settings"],
                ended=ENDED.get(trial.state, "failed"),
                epochs=max(trial.intermediate_values),
                value=self._best(trial.number)[0],
                best_epoch=self._best(trial.number)[1],
            )
            for trial in judged(self.study)
        ]

    def _run_trial(self, trial: optuna.Trial, *, resumed: bool) -> None:
        """Train a trial and record it."""
        settings = {each.key: each.suggested(trial) for each in self.ranges}
        trial.set_user_attr("settings", settings)
        name = f"trial {trial.number}"
        self.say(f"{name}{' goes on' if resumed else ''}: {shown(settings)}")
        self.clock.begin()
        config = settled(tuned_config(self.config, settings), self.data)
        run_id = recorded(config, trial.user_attrs.get("run_id"))
        with track_run(config, self.data.manifest, run_name=name, run_id=run_id, parent=self.parent) as run:
            trial.set_user_attr("run_id", run.run_id)
            ended = ENDED[self._fit(trial, config, run, resumed=resumed)]
            best, epoch = self._best(trial.number)
            run.log_metrics({f"valid_{MONITOR}": best})
            run.tag(ended=ended)
        self.say(f"  {ended}: {MONITOR} on validation {best:.4f} at epoch {epoch}")

    def _fit(
        self, trial: optuna.Trial, config: ExperimentConfig, run: TrackedRun, *, resumed: bool
    ) -> TrialState:
        """Train until the end, the pruner or the clock, and tell the study which of them it was.

        A trial that ran out of time stays under way, with its checkpoints.
        """
        assert isinstance(config.model, EncoderConfig)
        folder = self.file.with_name(f"{self.file.stem}-trial-{trial.number}")
        try:
            fit_encoder(
                config.model,
                config.training,
                training=self.data.training(weights=config.training.event_weights),
                n_items=len(self.data.vocabulary),
                validation=self.validation,
                checkpoints=folder,
                resume=resumed,
                on_epoch=self._watch(trial, run),
            )
            state = TrialState.COMPLETE
        except _Stop as stop:
            state = stop.state
        except Exception:
            self.study.tell(trial, state=TrialState.FAIL)  # to go on with it would fail again
            raise
        if state == TrialState.COMPLETE:
            self.study.tell(trial, self._best(trial.number)[0])
        elif state == TrialState.PRUNED:
            self.study.tell(trial, state=state)
        if state != TrialState.RUNNING:
            shutil.rmtree(folder, ignore_errors=True)
        return state

    def _watch(self, trial: optuna.Trial, run: TrackedRun) -> OnEpoch:
        """What to call after each epoch: it records, and stops what is not worth going on or has no time."""
        known = validations(self.study, trial.number)

        def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
            run.log_epoch(epoch, metrics)
            if MONITOR not in metrics:
                return
            self.clock.validated()
            if epoch not in known:  # one that an interrupted call has reported is repeated, to the same bits
                trial.report(metrics[MONITOR], epoch)
            if trial.should_prune():
                raise _Stop(TrialState.PRUNED)
            if epoch < self.config.training.epochs and not self.clock.allows_a_step():
                raise _Stop(TrialState.RUNNING)

        return on_epoch

    def _best(self, number: int) -> tuple[float, int]:
        """A trial's best NDCG@10 on validation so far, and the first epoch that reached it."""
        found = validations(self.study, number)
        epoch = max(found, key=lambda epoch: (found[epoch], -epoch))
        return found[epoch], epoch


def recorded(config: ExperimentConfig, run_id: str | None) -> str | None:
    """The run to go on with; None where there is none, or MLflow no longer has it."""
    if run_id is None:
        return None
    with mlflow_session(config.tracking.uri, create=True) as client:
        return run_id if find_run(client, run_id) else None
