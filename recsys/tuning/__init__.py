"""The few settings whose best value depends on the data, chosen on validation within a budget of minutes.

Nothing here reads a test event: trials are trained on the training part and ranked by NDCG@10 on validation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from recsys.config import ExperimentConfig, shown_uri
from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.files import check_writable
from recsys.origins import check_settings
from recsys.processes import Processes
from recsys.recipe import settled
from recsys.tracking import track_run
from recsys.trainer import MONITOR
from recsys.tuning.result import Tuned, write_tuned
from recsys.tuning.space import ranges
from recsys.tuning.study import open_study
from recsys.tuning.trials import Clock, Trials, recorded

__all__ = ["Tuned", "tune"]

STUDY_FILE, TUNED_FILE = "study.db", "tuned.yaml"


def tune(
    config: ExperimentConfig,
    *,
    minutes: float = 30.0,
    trials: int | None = None,
    out: Path | None = None,
    study: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Tuned:
    """Search the best of at most three settings (`recsys.tuning.space.TUNED`) by NDCG@10 on validation.

    The first trial is the configuration as it stands. Each trial is a run below one parent run in MLflow. A
    study that is there already goes on, with the trial that was under way first, from its last epoch.

    Args:
        config: the experiment; its data must be prepared.
        minutes: budget of this call. A trial whose next validation would come later is left at its last one
            and judged by that, and the next call goes on with it. The first trial gets one validation anyhow.
        trials: at most so many in the study; None sets no limit.
        out: YAML file for the best configuration; default: `tune/tuned.yaml` in the run folder.
        study: SQLite file of the trials; default: `tune/study.db` in the run folder.
        say: called with a line for each stage.

    Raises:
        InputError: there is nothing to tune or to validate on, the budget is no time, a file cannot be
            written, or the study is of another configuration or other data.
    """
    clock = Clock(ends=time.monotonic() + 60 * minutes)
    _check_budget(minutes, trials)
    data = PreparedData.load(config.prepared_path)
    check_settings(config, data)
    whole = settled(config, data)
    searched = ranges(whole, data.training(weights=whole.training.event_weights).lengths)
    validation = data.asked_targets("valid")
    folder = config.output_path / "tune"
    if study is None or out is None:
        folder.mkdir(parents=True, exist_ok=True)
    study, out = study or folder / STUDY_FILE, out or folder / TUNED_FILE
    check_writable(study)
    check_writable(out)
    identity = {
        "data": data.digest,
        "model": whole.model.model_dump(mode="json"),
        "training": whole.training.model_dump(mode="json"),
    }
    with open_study(study, identity, config.training.epochs) as opened:
        run_id, name = recorded(config, opened.user_attrs.get("run_id")), f"tune {config.model.name}"
        with track_run(config, data.manifest, run_name=name, run_id=run_id) as run:
            opened.set_user_attr("run_id", run.run_id)
            say(f"tuning {'; '.join(map(str, searched))}")
            say(f"study {study}; run {run.run_id} at {shown_uri(config.tracking.uri)}")
            search = Trials(config, data, validation, searched, opened, study, run.run_id, clock, say)
            search.run(trials)
            tuned = Tuned(config=config, trials=search.results(), file=out, study=study, run_id=run.run_id)
            write_tuned(tuned)
            run.tag(best_trial=str(tuned.best.number))
            run.log_metrics({f"valid_{MONITOR}": tuned.best.value})
            run.log_file(out)
    return tuned


def _check_budget(minutes: float, trials: int | None) -> None:
    if not 0 < minutes < math.inf:
        raise InputError(f"the budget is {minutes:g} minutes; expected more than 0, such as --minutes 30")
    if trials is not None and trials < 1:
        raise InputError(f"the number of trials is {trials}; expected 1 or more, such as --trials 10")
    if Processes.launched().total > 1:
        raise InputError("trials are trained by one process; run `recsys tune` without torchrun")
