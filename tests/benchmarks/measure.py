"""Train one model, or go on where its training stopped, evaluate it by every rule, and add the rows."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import get_args

from recsys.bundle import Bundle
from recsys.compare import compare
from recsys.config import ExperimentConfig, ModelConfig, build_config
from recsys.dataset import PreparedData
from recsys.environment import environment
from recsys.errors import InputError
from recsys.evaluation import ALL, TRAINED, Evaluation, Protocol, Scorer, evaluate
from recsys.experiment import train
from recsys.floors import FLOORS
from recsys.history import HISTORY_FILE
from recsys.models import ANSWERS_SEEN, ENCODERS, fit_counting, scores_cold
from recsys.models.protocol import Model
from recsys.recipe import settled
from recsys.run_state import STATE_FILE
from tests.benchmarks import peers, results
from tests.benchmarks.peers import LIBRARIES, MODELS, Peer
from tests.benchmarks.results import OURS, Row

CUTOFFS = (5, 10, 20)
SEEN = ("removed", "kept")
Rule = tuple[Protocol, str]
"""Protocol, and whether seen items are `removed` or `kept`."""


@dataclass(frozen=True)
class Board:
    """Where rows go, and the rules by which models earn them.

    Attributes:
        data: the prepared data set.
        name: its name in the rows.
        file: the results file.
        rules: what every model is measured by.
        counted: label and rule -> the evaluation of that counting model, kept for the encoders beside it.
    """

    data: PreparedData
    name: str
    file: Path
    rules: list[Rule]
    counted: dict[tuple[str, Rule], Evaluation] = field(default_factory=dict)

    def missing(self, model: Row, *, answers_seen: bool = False) -> list[Rule]:
        """The rules by which a model has no row yet.

        Args:
            model: the row's `library`, `model`, `settings` and `seed`.
            answers_seen: whether it recommends seen items alone, and is measured only where they are kept.
        """
        known = results.keys(results.read(self.file))
        rules = [rule for rule in self.rules if rule == ("full", "kept") or not answers_seen]
        return [rule for rule in rules if results.key_of(self._identity(model, rule)) not in known]

    def measure(
        self,
        model: Model | Scorer,
        facts: Row,
        rules: list[Rule],
        more: Callable[[Evaluation], Row] = lambda evaluation: {},
        *,
        scores_cold: bool = False,
    ) -> list[Evaluation]:
        """Evaluate a model by each rule and add its row.

        Args:
            model: the model.
            facts: the row's fields known already.
            rules: what it is measured by.
            more: evaluation -> further fields of its row.
            scores_cold: whether it knows items without a training event by something else.
        """
        evaluations = []
        for rule in rules:
            protocol, seen = rule
            evaluation = evaluate(
                model,
                self.data,
                protocol=protocol,
                exclude_seen=seen == "removed",
                cutoffs=CUTOFFS,
                scores_cold=scores_cold,
            )
            content = evaluation.to_json()
            row = results.new_row(
                **self._identity(facts, rule),
                users=content["users"],
                cold_targets=content["cold_targets"],
                metrics=content["rows"][ALL]["metrics"],
                trained_targets=content["rows"].get(TRAINED),
                beyond=content["beyond"],
                evaluation_seconds=round(evaluation.seconds, 2),
                **more(evaluation),
            )
            results.add(self.file, row)
            print(_line(row), flush=True)
            evaluations.append(evaluation)
        return evaluations

    def _identity(self, model: Row, rule: Rule) -> Row:
        data = {"data": self.name, "digest": self.data.digest[:12], "split": "test"}
        return {**data, **model, "protocol": rule[0], "seen_items": rule[1]}


def rules_of(protocols: str, seen_items: str) -> list[Rule]:
    """The rules that `full,pop-100` and `removed,kept` ask for; sampled negatives are never seen items.

    Raises:
        InputError: one of them is unknown.
    """
    asked, rules = protocols.split(","), seen_items.split(",")
    for words, known in ((asked, get_args(Protocol)), (rules, SEEN)):
        for word in words:
            if word not in known:
                raise InputError(f"rule `{word}` is unknown; known: {', '.join(known)}")
    full: list[Rule] = [("full", seen) for seen in SEEN if seen in rules and "full" in asked]
    return full + [(name, "removed") for name in get_args(Protocol) if name in asked and name != "full"]


def measure_floor(label: str, config: ModelConfig, board: Board) -> None:
    """Fit a counting model and add the rows that are missing; one that needs times is left out without."""
    data = board.data
    times = data.training_times()
    if config.name == "recent_popularity" and times is None:
        return
    model: Row = {"library": OURS, "model": label, "settings": _hash(config.model_dump_json()), "seed": 0}
    rules = board.missing(model, answers_seen=config.name in ANSWERS_SEEN)
    if not rules:
        return
    started = time.perf_counter()
    fitted = fit_counting(config, data.training(), times, len(data.vocabulary), data.items)
    facts = {"seconds": round(time.perf_counter() - started, 2), "versions": environment().packages}
    board.measure(fitted, model | facts, rules, scores_cold=scores_cold(config))


def measure_encoder(label: str, config: ExperimentConfig, board: Board, work: Path) -> None:
    """Train an encoder, or go on from its last finished epoch, and add the rows that are missing.

    Args:
        label: its name in the rows.
        config: what to train, and with which seed.
        board: where the rows go.
        work: folder that keeps the run, so that another rule needs no other training.
    """
    config = settled(config, board.data)
    model = encoder_identity(label, config)
    rules = board.missing(model)
    if rules:
        bundle, facts = trained_encoder(config, board, work)
        more = partial(above_floor, board=board)
        board.measure(bundle.model, model | facts, rules, more, scores_cold=scores_cold(config.model))


def above_floor(evaluation: Evaluation, board: Board) -> Row:
    """The paired difference to the best counting model by the same rule; empty where none has a row."""
    rule: Rule = (evaluation.protocol, "removed" if evaluation.exclude_seen else "kept")
    asked = (OURS, board.name, board.data.digest[:12], *rule)
    floors = {
        row["model"]: row["metrics"]["ndcg@10"]["mean"]
        for row in results.read(board.file)
        if tuple(row[name] for name in ("library", "data", "digest", "protocol", "seen_items")) == asked
        and row["model"] in FLOORS
    }
    if not floors:
        return {}
    best = max(floors, key=lambda label: floors[label])
    if (best, rule) not in board.counted:
        board.counted[best, rule] = _evaluated_floor(best, evaluation, board.data)
    found = compare(board.counted[best, rule], evaluation).differences
    return {"above_floor": {"floor": best} | {name: one.to_json(absent=None) for name, one in found.items()}}


def _evaluated_floor(label: str, like: Evaluation, data: PreparedData) -> Evaluation:
    """A counting model by the rule of another evaluation."""
    floor = fit_counting(FLOORS[label], data.training(), data.training_times(), len(data.vocabulary))
    return evaluate(floor, data, protocol=like.protocol, exclude_seen=like.exclude_seen, cutoffs=CUTOFFS)


def encoder_identity(label: str, config: ExperimentConfig) -> Row:
    """The fields of a row that say which training it is of."""
    settings, seed = settings_hash(config), config.training.seed
    return {"library": OURS, "model": label, "settings": settings, "seed": seed}


def trained_encoder(config: ExperimentConfig, board: Board, work: Path) -> tuple[Bundle, Row]:
    """The encoder, trained unless its folder below `work` holds it, and what is known of its training."""
    name = f"{config.model.name}-{settings_hash(config)}-seed{config.training.seed}-{board.data.digest[:12]}"
    file = work / name / "trained.json"
    if not file.exists():
        _replace(file, _train(config, work / name, work))
    return Bundle.load(work / name / "bundle"), json.loads(file.read_text())


def settings_hash(config: ExperimentConfig) -> str:
    """Short hash of model and training settings, the seed apart; counting models have none of the latter."""
    parts = [config.model.model_dump_json()]
    if config.model.name in ENCODERS:
        parts.append(config.training.model_dump_json(exclude={"seed"}))
    return _hash("\n".join(parts))


def _train(config: ExperimentConfig, folder: Path, work: Path) -> Row:
    before = seconds_before(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "attempt.json", {"began": time.time(), "before": before})
    tree = config.model_dump(mode="json") | {
        "output": str(folder),
        "tracking": {"uri": f"sqlite:///{work.absolute() / 'mlflow.db'}"},
    }
    trained = train(build_config(tree, where="the benchmark"), resume=(folder / STATE_FILE).exists())
    return {
        "seconds": round(before + trained.seconds, 1),
        "best_epoch": trained.best_epoch,
        "versions": environment().packages,
    }


def seconds_before(folder: Path) -> float:
    """Training time of a run's interrupted attempts.

    Of each of them the time until its last finished epoch counts; what came after is done again.
    """
    file, history = folder / "attempt.json", folder / HISTORY_FILE
    if not file.exists():
        return 0.0
    last = json.loads(file.read_text())
    ended = history.stat().st_mtime if history.exists() else 0.0
    return float(last["before"]) + max(ended - float(last["began"]), 0.0)


def measure_peer(peer: Peer, board: Board, bench: Path, bench_dir: Path, work: Path) -> None:
    """Train a public library's model and add the rows that are missing.

    The rows also say what the library's script measured on its own top-100 lists, and what our evaluation
    gives the same lists: full ranking of one model, scored three ways, which must agree.
    """
    model: Row = {
        "library": LIBRARIES[peer.library],
        "model": MODELS[peer.model],
        "settings": peer.settings,
        "seed": peer.seed,
    }
    rules = board.missing(model)
    if not rules:
        return
    order = peers.order_of(board.data, bench_dir / "data" / f"{peers.DATA[board.name]}.npz")
    trained = peers.train_peer(peer, board.name, bench, bench_dir, work)
    listed = peers.list_scores(trained.lists_UK, len(board.data.vocabulary))
    by_lists = evaluate(peers.recorded(listed, board.data, order), board.data, cutoffs=CUTOFFS).metrics
    own = peers.own_metrics(trained.quality)
    said = trained.training
    facts = {
        "seconds": said["train_s"],
        "epochs": said["epochs"],
        "best_epoch": said["best_at"][1],
        "versions": {LIBRARIES[peer.library]: said.get("version"), "torch": said.get("torch")},
        "own_metrics": own,
        "by_lists": {name: round(by_lists[name], 6) for name in own},
    }
    score = peers.recorded(trained.scores_UV, board.data, order)
    for evaluation in board.measure(score, model | facts, rules):
        if evaluation.protocol == "full" and evaluation.exclude_seen:
            for name, value in own.items():
                print(
                    f"  {name}: {value:.5f} by its script, {by_lists[name]:.5f} by us from its top-"
                    f"{peers.LIST_LENGTH} lists, {evaluation.metrics[name]:.5f} by us from its scores"
                )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _replace(file: Path, content: Row) -> None:
    draft = file.with_suffix(".tmp")
    draft.write_text(json.dumps(content))
    draft.replace(file)


def _line(row: Row) -> str:
    hr, ndcg = (row["metrics"][name]["mean"] for name in ("hr@10", "ndcg@10"))
    return (
        f"{row['library']} {row['model']}, seed {row['seed']}, {row['protocol']}, seen items "
        f"{row['seen_items']}: HR@10 {hr:.4f}, NDCG@10 {ndcg:.4f}, trained in {row['seconds']} s"
    )
