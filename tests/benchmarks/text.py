"""What items' texts are worth: beside ids, for items that nobody has met, with few users, on other data.

    python -m tests.benchmarks.text --bench ../shared/data --work WORK --epochs 20 yelp yelp-cold

Each word is an experiment of `EXPERIMENTS`: a data set, how it is split, and its arms, which are trained for
the same number of epochs (those that WORK holds are taken from there) and measured on the same test users. A
model's interval of the difference to the first arm is the paired one. Rows go to text.jsonl, of which
`python -m tests.benchmarks.readme` makes the README's tables.

`--bundle LABEL=FOLDER` puts a bundle that was trained elsewhere on the same catalogue in an arm's place;
`--backbone FOLDER` is the checkpoint of the arms that read one. `zero-shot SOURCE TARGET` measures the text
arm of one experiment on the data of another, `cost NAME` the processor time of a step.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from recsys.bundle import Bundle
from recsys.compare import compare
from recsys.config import ExperimentConfig, TransformerConfig, load_config
from recsys.dataset import PreparedData
from recsys.environment import environment
from recsys.evaluation import Evaluation, evaluate
from recsys.experiment import train
from recsys.fresh import fresh_encoder
from recsys.models import COUNTING, fit_counting, scores_cold
from recsys.models.protocol import Model
from recsys.models.reading import for_catalogue
from recsys.optimizer import RowAdamW, clip_gradients
from recsys.recipe import settled
from recsys.run_state import STATE_FILE
from recsys.steps import Steps
from recsys.training import EncoderTraining
from tests.benchmarks.text_data import CONFIGS, Experiment, prepared

RESULTS = Path(__file__).with_name("text.jsonl")
METRICS = ("hr@10", "ndcg@10")
RANDOM = "chance"
COUNTED_STEPS = 16


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
TEXT_KNN: Arms = {"text-kNN": ("model=text_knn",)}
FLOORS: Arms = {**TEXT_KNN, "popularity by category": ("model=category_popularity",)}
COLD: Any = {"split": ("split={kind: item_cold}",), "candidates": ("cold", "all")}
RECFORMER = ("model=recformer", "model.max_length=20", "model.max_tokens=256", "training.batch_size=128")
PRETRAINED: Arms = {"Recformer, pre-trained": (*RECFORMER, "model.objective=pretrain")}


def _recformers(source: str) -> Arms:
    """Fine-tuned in two stages, from scratch and from what was pre-trained on other data."""
    start = f"model.backbone=RUN({source}, {next(iter(PRETRAINED))})"
    return {"Recformer": RECFORMER, f"Recformer, pre-trained on {source}": (*RECFORMER, start)}


EXPERIMENTS = {
    "yelp": Experiment("yelp", (), ID | BOTH | TEXT),
    "yelp-minilm": Experiment("yelp", (), BOTH | MINILM),
    "yelp-cold": Experiment("yelp", arms=FLOORS | ID | TEXT | BOTH, **COLD),
    "yelp-cold-minilm": Experiment("yelp", arms=TEXT_KNN | MINILM, **COLD),
    "yelp-users-10": Experiment("yelp", ("split={kind: low_resource, users: 0.1}",), ID | TEXT | BOTH),
    "yelp-users-30": Experiment("yelp", ("split={kind: low_resource, users: 0.3}",), ID | TEXT | BOTH),
    "ml-100k": Experiment("ml-100k", (), ID | TEXT | BOTH),
    "ml-100k-minilm": Experiment("ml-100k", (), MINILM),
    "yelp-restaurants": Experiment("yelp", (), TEXT | MINILM, half=True),
    "yelp-others": Experiment("yelp", (), TEXT | MINILM | PRETRAINED, half=False),
    "yelp-restaurants-tuned": Experiment("yelp", (), _recformers("yelp-others"), half=True),
}


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
        training += [f"training.seed={options.seed}"]
        chosen = [_filled(each, options) for each in overrides]
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
            title = f"{name}, seed {options.seed}" if options.seed else name
            _add(_row(title, label, candidates, data, found, baseline, facts))


def zero_shot(source: str, target: str, options: argparse.Namespace) -> None:
    """Measure the text models of an experiment on another one's data, beside text-kNN and chance."""
    experiment = EXPERIMENTS[target]
    where, data = prepared(experiment, options.bench, options.work)
    knn = load_config(CONFIGS / f"{experiment.data}.yaml", [*where, *TEXT_KNN["text-kNN"]])
    floor = evaluate(arm(knn, data, options.work, options.work)[0], data, scores_cold=True)
    name = f"{source} to {target}"
    chance = {RANDOM: round(10 / len(data.vocabulary), 6)}
    _add(_row(name, "text-kNN", "all", data, floor, floor, chance))
    for label in EXPERIMENTS[source].arms:
        folder = _run_folder(options, source, label) / "bundle"
        if not folder.exists() or (options.arms and label not in options.arms.split(";")):
            continue
        bundle = Bundle.load(folder)
        model = for_catalogue(bundle.model, bundle.config.model, data.items)
        found = evaluate(model, data, scores_cold=True)
        _add(_row(name, f"{label}, zero-shot", "all", data, found, floor, chance))


def epoch_cost(name: str, options: argparse.Namespace) -> None:
    """Processor time of a step of each arm, alternating in one run, and of filling the table."""
    experiment = EXPERIMENTS[name]
    where, data = prepared(experiment, options.bench, options.work)
    modules = {}
    for label in (*ID, *TEXT, *BOTH):
        config = load_config(CONFIGS / f"{experiment.data}.yaml", [*where, *experiment.arms[label]])
        config = settled(config, data)
        assert isinstance(config.model, TransformerConfig)
        encoder = fresh_encoder(config.model, data.items, data.training())
        steps = Steps(data.training(), len(data.vocabulary), config.model, config.training)
        modules[label] = EncoderTraining(encoder, steps, None, config.training).train()
    seconds: dict[str, list[float]] = {label: [] for label in modules}
    runs = {label: _steps(module) for label, module in modules.items()}
    for _ in range(COUNTED_STEPS):
        for label, run in runs.items():
            began = time.process_time()
            next(run)
            seconds[label].append(time.process_time() - began)
    middle = {label: median(times[1:]) for label, times in seconds.items()}
    row: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), "experiment": f"cost of {name}"}
    for label, module in modules.items():
        began = time.process_time()
        module.encoder.refresh()
        row[label] = {
            "ms_a_step": round(1000 * middle[label], 1),
            "of_ids": round(middle[label] / middle[next(iter(ID))], 2),
            "ms_to_fill_the_table": round(1000 * (time.process_time() - began)),
        }
    with RESULTS.open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=1), flush=True)


def _steps(module: EncoderTraining) -> Iterator[None]:
    """Steps of a training, one at a time."""
    module.steps.share = lambda: (0, 1)  # there is no trainer to ask
    optimizer = RowAdamW(module.encoder.parameters(), lr=1e-3, fused=True)
    for step in module.steps:
        optimizer.zero_grad()
        module.loss(step).backward()  # type: ignore[no-untyped-call]
        clip_gradients(module.encoder.parameters(), 5.0)
        optimizer.step()
        yield


def _filled(override: str, options: argparse.Namespace) -> str:
    """With the folders of this run: `BACKBONE` as given, `RUN(experiment, label)` what was trained before."""
    named = re.search(r"RUN\((.+?), (.+?)\)", override)
    if named:
        folder = _run_folder(options, named[1], named[2]) / "bundle"
        return override.replace(named[0], str(folder))
    return override.replace("BACKBONE", str(options.backbone))


def _run_folder(options: argparse.Namespace, name: str, label: str) -> Path:
    kind = "".join(filter(str.isalnum, label))
    seed = f"-seed{options.seed}" if options.seed else ""
    return Path(options.work) / "runs" / f"{name}-{kind}-{options.epochs}{seed}"


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
        "scores_cold": found.scores_cold,
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


def table(rows: list[dict[str, Any]]) -> str:
    """The README's table: the newest row of each model by each rule, experiment after experiment.

    Args:
        rows: of text.jsonl, oldest first.
    """
    newest: dict[tuple[str, ...], dict[str, Any]] = {}
    compared: dict[tuple[str, ...], str] = {}
    for row in (row for row in rows if "metrics" in row):
        rule = row["experiment"], row["candidates"]
        if "difference" not in row:  # what the rows after it were compared with
            compared[rule] = row["model"]
        newest[*rule, row["model"]] = {**row, "compared": compared[rule]}
    lines = ["| experiment | ranked | model | HR@10 | NDCG@10 | NDCG@10, paired 95% | best epoch |"]
    lines.append("|---|---|---|---|---|---|---|")
    experiments = list(dict.fromkeys(experiment for experiment, *_ in newest))
    for (experiment, candidates, model), row in sorted(
        newest.items(), key=lambda entry: (experiments.index(entry[0][0]), entry[0][1] == "all")
    ):
        means = [f"{row['metrics'][metric]['mean']:.4f}" for metric in METRICS]
        found = row.get("difference", {}).get("ndcg@10")
        paired = f"{found['mean']:+.4f} ({found['low']:+.4f} to {found['high']:+.4f})" if found else ""
        if found:
            paired += f" against {row['compared']}"
        if row["cold_targets"] == row["users"] and not row.get("scores_cold", True):
            means, paired = ["cannot score them"] * len(METRICS), ""
        ranked = f"{candidates} items" + (f", HR@10 by chance {row[RANDOM]:.4f}" if RANDOM in row else "")
        cells = [experiment, ranked, model, *means, paired, str(row.get("best_epoch", ""))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cost_table(rows: list[dict[str, Any]]) -> str:
    """The README's table of the newest costs of a step."""
    newest = {row["experiment"]: row for row in rows if row["experiment"].startswith("cost of ")}
    lines = ["| data, model | processor time of a step | of ids alone | filling the table |"]
    lines.append("|---|---|---|---|")
    for experiment, row in newest.items():
        for label in (*ID, *TEXT, *BOTH):
            found, data = row[label], experiment.removeprefix("cost of ")
            lines.append(
                f"| {data}, {label} | {found['ms_a_step']} ms | {found['of_ids']:.2f} | "
                f"{found['ms_to_fill_the_table']} ms |"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run experiments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "experiments", nargs="+", help=f"of {', '.join(EXPERIMENTS)}; or zero-shot A B, or cost A"
    )
    parser.add_argument("--bench", type=Path, required=True, help="folder of the public data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps data and trainings")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--validate-every", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0, help="of the trainings")
    parser.add_argument("--backbone", type=Path, help="checkpoint of the MiniLM arms")
    parser.add_argument("--bundle", action="append", default=[], help="LABEL=FOLDER")
    parser.add_argument("--arms", default="", help="labels, split by `;`; default: all")
    options = parser.parse_args(arguments)
    if options.experiments[0] == "cost":
        for name in options.experiments[1:]:
            epoch_cost(name, options)
        return
    if options.experiments[0] == "zero-shot":
        _, source, target = options.experiments
        zero_shot(source, target, options)
        return
    for name in options.experiments:
        measure(name, options)


if __name__ == "__main__":
    main()
