"""Everything that a report says, gathered before a word of it is laid out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from recsys.bootstrap import Interval
from recsys.bundle import Bundle
from recsys.compare import compare
from recsys.dataset import PreparedData, Split, split_named
from recsys.errors import InputError
from recsys.evaluation import Evaluation, evaluate, evaluate_bundle
from recsys.floors import floors_for
from recsys.index import IndexInfo, read_index_info
from recsys.measured import check_trained_on
from recsys.models import ANSWERS_SEEN, check_has_answers, fit_counting, scores_cold
from recsys.report.examples import Example, example_users

COMPARED = ("hr@10", "ndcg@10")
"""Metrics that the baselines are compared by; the first one also tells hits from misses."""
SORTED_BY = "ndcg@10"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Baseline:
    """A counting model beside the model.

    Attributes:
        name: in words.
        evaluation: as the model's, on the same users.
        differences: metric -> model minus baseline, paired by user.
    """

    name: str
    evaluation: Evaluation
    differences: dict[str, Interval]


@dataclass(frozen=True)
class Report:
    """The content of a page.

    Attributes:
        bundle: what the report is about.
        measured: whose metrics it shows: the same, or for a bundle fitted on all events the one whose
            validation chose its epochs; None where that one is not at hand.
        data: the prepared data set.
        split: valid or test.
        evaluation: `Evaluation.to_json()` of `measured`, NaN where it has no interval; or None.
        baselines: best first.
        examples: users of the split with the answers of `measured`.
        history: metrics of each epoch of the training of `measured`, or else of `bundle`.
        repeats: share of the targets that stand in their own history, or None without `measured`.
        index: of `bundle`, or None.
    """

    bundle: Bundle
    measured: Bundle | None
    data: PreparedData
    split: Split
    evaluation: dict[str, Any] | None
    baselines: list[Baseline]
    examples: list[Example]
    history: list[dict[str, float]]
    repeats: float | None
    index: IndexInfo | None

    @property
    def final(self) -> bool:
        """Whether the bundle has seen the targets, and so has no metrics of its own."""
        return bool(self.bundle.manifest["trained_on"] == "all")


def gather(
    bundle: Bundle,
    data: PreparedData,
    *,
    split: str = "test",
    exclude_seen: bool = True,
    baselines: bool = True,
    seed: int = 0,
    say: Say = lambda line: None,
) -> Report:
    """Measure everything that the report of a bundle says.

    Args:
        bundle: what the report is about.
        data: the prepared data that the bundle was trained on.
        split: valid or test.
        exclude_seen: take the items of the history out of the ranking.
        baselines: fit and measure the counting models too.
        seed: of the bootstrap and of the choice of examples.
        say: called with a line for each stage.

    Raises:
        InputError: the split is unknown or has no target, or the bundle was trained on other data or has
            nothing to say under `exclude_seen`.
    """
    part = split_named(split)
    check_trained_on(bundle, data)
    check_has_answers(bundle.config.model.name, exclude_seen=exclude_seen)
    measured = _measured(bundle)
    if measured is None:
        history = _history(bundle)
        index = read_index_info(bundle)
        return Report(bundle, None, data, part, None, [], [], history, None, index)
    say(f"evaluating {measured.folder} on the {split} targets of {data.path}")
    evaluation = evaluate_bundle(measured, data, split=part, exclude_seen=exclude_seen, seed=seed)
    repeats = float(data.targets(part).repeated().mean())
    gains = evaluation.per_user[COMPARED[0]]
    return Report(
        bundle=bundle,
        measured=measured,
        data=data,
        split=part,
        evaluation=evaluation.to_json(absent=math.nan),
        baselines=_baselines(measured, evaluation, data, repeats, say) if baselines else [],
        examples=example_users(measured, data, gains, split=part, exclude_seen=exclude_seen, seed=seed),
        history=_history(measured),
        repeats=repeats,
        index=read_index_info(bundle),
    )


def _measured(bundle: Bundle) -> Bundle | None:
    """The bundle whose metrics speak for this one; a final one lies below the run that chose its epochs."""
    if bundle.manifest["trained_on"] != "all":
        return bundle
    try:
        chosen = Bundle.load(bundle.folder.resolve().parent.parent / "bundle")
    except InputError:
        return None  # a copy without its run, or from the registry
    same = (
        chosen.manifest["trained_on"] != "all"
        and chosen.manifest["data"]["content_digest"] == bundle.manifest["data"]["content_digest"]
        and chosen.manifest["best_epoch"] == bundle.manifest["best_epoch"]
        and chosen.config.model == bundle.config.model
        and chosen.config.training == bundle.config.training
    )
    return chosen if same else None


def _baselines(
    measured: Bundle, model: Evaluation, data: PreparedData, repeats: float, say: Say
) -> list[Baseline]:
    """Every counting model that has something to say here, measured as the model was, best first."""
    training, times = data.training(), data.training_times()
    found = []
    for name, config in floors_for(data).items():
        silent = config.name in ANSWERS_SEEN and (model.exclude_seen or not repeats)
        if silent or config == measured.config.model:
            continue
        say(f"baseline: {name}")
        fitted = fit_counting(config, training, times, len(data.vocabulary), data.items)
        evaluation = evaluate(
            fitted,
            data,
            split=model.split,
            exclude_seen=model.exclude_seen,
            seed=model.seed,
            scores_cold=scores_cold(config),
        )
        differences = compare(evaluation, model, metrics=COMPARED, seed=model.seed).differences
        found.append(Baseline(name, evaluation, differences))
    return sorted(found, key=lambda each: -each.evaluation.metrics[SORTED_BY])


def _history(bundle: Bundle) -> list[dict[str, float]]:
    # Here and not above: an experiment writes a report when it ends.
    from recsys.history import read_history

    return read_history(bundle.folder.resolve().parent)
