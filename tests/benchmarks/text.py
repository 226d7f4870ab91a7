"""What items' texts are worth: beside ids, for items that nobody has met, with few users, on other data.

    python -m tests.benchmarks.text --bench ../shared/data --work WORK --epochs 20 yelp yelp-cold

Each word is an experiment of `EXPERIMENTS`: a data set, how it is split, and its arms, which are trained for
the same number of epochs (those that WORK holds are taken from there) and measured on the same test users. A
model's interval of the difference to the first arm is the paired one. Rows go to text.jsonl, of which
`python -m tests.benchmarks.readme` makes the README's tables.

`--bundle LABEL=FOLDER` puts a bundle that was trained elsewhere on the same catalogue in an arm's place;
`--backbone FOLDER` is the checkpoint of the arms that read one. `zero-shot SOURCE TARGET` measures the text
arm of one experiment on the data of another.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_prep.prepare import prepare
from recsys.bundle import Bundle
from recsys.compare import compare
from recsys.config import ExperimentConfig, load_config
from recsys.dataset import PreparedData
from recsys.environment import environment
from recsys.evaluation import Evaluation, evaluate
from recsys.experiment import train
from recsys.models import COUNTING, fit_counting, scores_cold
from recsys.models.protocol import Model
from recsys.models.reading import for_catalogue
from recsys.run_state import STATE_FILE

RESULTS = Path(__file__).with_name("text.jsonl")
CONFIGS = Path(__file__).parents[2] / "configs"
METRICS = ("hr@10", "ndcg@10")
RANDOM = "chance"


@dataclass(frozen=True)
class Experiment:
    """What is compared on what.

    Attributes:
        data: name of the data set, and of its configuration.
        split: overrides of the configuration's split.
        arms: label -> overrides of the model; the first is what the others are compared with.
        candidates: which items are ranked, see `evaluate`.
    """

    data: str
    split: tuple[str, ...]
    arms: dict[str, tuple[str, ...]]
    candidates: tuple[str, ...] = ("all",)


Arms = dict[str, tuple[str, ...]]
ID: Arms = {"BERT4Rec, id": ("model=bert4rec",)}
TEXT: Arms = {"BERT4Rec, text": ("model=bert4rec", "model.item_encoder=text")}
BOTH: Arms = {"BERT4Rec, id+text": ("model=bert4rec", "model.item_encoder=id+text")}
MINILM: Arms = {
    "BERT4Rec, text of MiniLM": ("model=bert4rec", "model.item_encoder=text", "model.backbone=BACKBONE"),
    "BERT4Rec, id+text of MiniLM": (
        *("model=bert4rec", "model.item_encoder=id+text"),
        "model.backbone=BACKBONE",
    ),
}
FLOORS: Arms = {"popularity by category": ("model=category_popularity",), "text-kNN": ("model=text_knn",)}
YELP_ITEMS = (
    "data.items=items.jsonl",
    "data.items_format=jsonl",
    "data.item_columns={id: id, title: title, attributes: [categories]}",
)
EXPERIMENTS = {
    "yelp": Experiment("yelp", (), ID | BOTH | TEXT),
    "yelp-minilm": Experiment("yelp", (), TEXT | MINILM),
    "yelp-cold": Experiment("yelp", ("split={kind: item_cold}",), FLOORS | ID | TEXT | BOTH, ("cold", "all")),
    "yelp-users-10": Experiment("yelp", ("split={kind: low_resource, users: 0.1}",), ID | TEXT | BOTH),
    "yelp-users-30": Experiment("yelp", ("split={kind: low_resource, users: 0.3}",), ID | TEXT | BOTH),
    "ml-100k": Experiment("ml-100k", (), ID | TEXT | BOTH),
}


def prepared(experiment: Experiment, bench: Path, work: Path) -> tuple[list[str], PreparedData]:
    """Overrides that name the data, prepared, and the data."""
    source, items = bench / experiment.data, tuple[str, ...]()
    if experiment.data == "yelp":
        source, items = _with_item_lines(source, work / "yelp"), YELP_ITEMS
    name = "-".join([experiment.data, *("".join(filter(str.isalnum, each)) for each in experiment.split)])
    overrides = [f"data.path={source}", f"prepared={work / 'prepared' / name}", *items, *experiment.split]
    config = load_config(CONFIGS / f"{experiment.data}.yaml", overrides)
    prepare(config)
    return overrides, PreparedData.load(config.prepared_path)


def _with_item_lines(source: Path, folder: Path) -> Path:
    """The Yelp of S3-Rec with its items as JSON lines: key "i" of items.json is item i+1 of the log."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"id": int(key) + 1, "title": item["title"], "categories": item["description"]})
        for key, item in json.loads((source / "items.json").read_text()).items()
    ]
    (folder / "items.jsonl").write_text("\n".join(lines))
    (folder / "sequences.txt").write_bytes((source / "sequences.txt").read_bytes())
    return folder


def arm(
    config: ExperimentConfig, data: PreparedData, folder: Path, work: Path
) -> tuple[Model, dict[str, Any]]:
    """The model of an arm and what is known of its training; an encoder is trained unless it was before."""
    if config.model.name in COUNTING:
        training, times = data.training(), data.training_times()
        return fit_counting(config.model, training, times, len(data.vocabulary), data.items), {}
    file = folder / "trained.json"
    if not file.exists():
        tracking = {"uri": f"sqlite:///{work.absolute() / 'mlflow.db'}", "report": False}
        where = {"output": str(folder), "tracking": config.tracking.model_copy(update=tracking)}
        began = time.process_time()
        trained = train(config.model_copy(update=where), resume=(folder / STATE_FILE).exists(), say=print)
        facts = {"best_epoch": trained.best_epoch, "seconds": round(trained.seconds, 1)}
        facts["cpu_seconds"] = round(time.process_time() - began, 1)
        file.write_text(json.dumps(facts))
    return Bundle.load(folder / "bundle").model, json.loads(file.read_text())


def measure(name: str, options: argparse.Namespace) -> None:
    """Train and measure the arms of an experiment."""
    experiment = EXPERIMENTS[name]
    where, data = prepared(experiment, options.bench, options.work)
    given = dict(each.split("=", 1) for each in options.bundle)
    first: dict[str, Evaluation] = {}
    for label, overrides in experiment.arms.items():
        if options.arms and label not in options.arms.split(";"):
            continue
        training = [f"training.epochs={options.epochs}", f"training.validate_every={options.validate_every}"]
        chosen = [each.replace("BACKBONE", str(options.backbone)) for each in overrides]
        file = CONFIGS / f"{experiment.data}.yaml"
        config = load_config(file, [*where, *chosen, *training, "training.patience=100"])
        if label in given:
            bundle = Bundle.load(given[label])
            assert bundle.vocabulary.hash == data.vocabulary.hash, "another catalogue"
            model, facts = bundle.model, {"best_epoch": bundle.manifest["best_epoch"]}
        else:
            folder = _run_folder(options, name, label)
            model, facts = arm(config, data, folder, options.work)
        for candidates in experiment.candidates:
            found = evaluate(model, data, scores_cold=scores_cold(config.model), candidates=candidates)
            baseline = first.setdefault(candidates, found)
            _add(_row(name, label, candidates, data, found, baseline, facts))


def zero_shot(source: str, target: str, options: argparse.Namespace) -> None:
    """Measure the text arm of an experiment on another one's data, beside text-kNN and chance."""
    experiment = EXPERIMENTS[target]
    where, data = prepared(experiment, options.bench, options.work)
    file = CONFIGS / f"{experiment.data}.yaml"
    knn = load_config(file, [*where, *FLOORS["text-kNN"]])
    floor = evaluate(arm(knn, data, options.work, options.work)[0], data, scores_cold=True)
    name = f"{source} to {target}"
    _add(_row(name, "text-kNN", "all", data, floor, floor, {}))
    bundle = Bundle.load(_run_folder(options, source, next(iter(TEXT))) / "bundle")
    model = for_catalogue(bundle.model, bundle.config.model, data.items)
    found = evaluate(model, data, scores_cold=True)
    chance = {RANDOM: round(10 / len(data.vocabulary), 6)}
    _add(_row(name, f"{next(iter(TEXT))}, zero-shot", "all", data, found, floor, chance))


def _run_folder(options: argparse.Namespace, name: str, label: str) -> Path:
    kind = "".join(filter(str.isalnum, label))
    return Path(options.work) / "runs" / f"{name}-{kind}-{options.epochs}"


def _row(
    name: str,
    label: str,
    candidates: str,
    data: PreparedData,
    found: Evaluation,
    baseline: Evaluation,
    facts: dict[str, Any],
) -> dict[str, Any]:
    metrics = {metric: found.intervals[metric].to_json(absent=None) for metric in METRICS}
    row = {
        "date": datetime.now(UTC).date().isoformat(),
        "experiment": name,
        "model": label,
        "candidates": candidates,
        "data_digest": data.digest[:12],
        "users": found.users,
        "cold_targets": found.cold_targets,
        "metrics": metrics,
        **facts,
        "versions": environment().packages,
    }
    if found is not baseline:
        differences = compare(baseline, found).differences
        row["difference"] = {metric: differences[metric].to_json(absent=None) for metric in METRICS}
    return row


def _add(row: dict[str, Any]) -> None:
    """Append a row and print it."""
    with RESULTS.open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    means = "  ".join(f"{metric} {row['metrics'][metric]['mean']:.4f}" for metric in METRICS)
    found = row.get("difference", {}).get("ndcg@10")
    paired = f"  ndcg@10 {found['mean']:+.4f} ({found['low']:+.4f} to {found['high']:+.4f})" if found else ""
    facts = (f"{key} {row[key]}" for key in ("best_epoch", "seconds", "cpu_seconds", RANDOM) if key in row)
    where = f"{row['experiment']}, {row['candidates']} items, {row['model']}"
    print(f"{where}: {means}{paired}  {'  '.join(facts)}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run experiments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("experiments", nargs="+", help=f"of {', '.join(EXPERIMENTS)}; or zero-shot A B")
    parser.add_argument("--bench", type=Path, required=True, help="folder of the public data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps data and trainings")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--validate-every", type=int, default=4)
    parser.add_argument("--backbone", type=Path, help="checkpoint of the MiniLM arms")
    parser.add_argument("--bundle", action="append", default=[], help="LABEL=FOLDER")
    parser.add_argument("--arms", default="", help="labels, split by `;`; default: all")
    options = parser.parse_args(arguments)
    if options.experiments[0] == "zero-shot":
        _, source, target = options.experiments
        zero_shot(source, target, options)
        return
    for name in options.experiments:
        measure(name, options)


if __name__ == "__main__":
    main()
