"""A grown log: training on from yesterday's bundle against training anew, validation NDCG@10 by seconds.

    python -m tests.benchmarks.warm_start --config configs/ml-100k.yaml --warm training.epochs=10 \\
        data.path=PATH

Yesterday's log holds the oldest events of today's; both are split alike. Yesterday's model and
today's from fresh weights are trained as the configuration says, today's from yesterday's weights with the
settings of `--warm` besides. The three share seed, threads and machine; today's two are trained one after
the other. Seconds are those of the processor, of training and validation, so that others on the machine do
not count: take `training.threads=1`. Prints the curves and adds a row to warm_start.jsonl, which
`python -m tests.benchmarks.readme` makes the README's table of.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.prepare import prepare
from recsys.bundle import Bundle
from recsys.config import EncoderConfig, ExperimentConfig, load_config
from recsys.dataset import PreparedData
from recsys.environment import environment
from recsys.errors import InputError
from recsys.evaluation import evaluate
from recsys.experiment import train
from recsys.trainer import MONITOR
from recsys.training import fit_encoder
from recsys.warm_start import WarmStart

RESULTS = Path(__file__).with_name("warm_start.jsonl")
SHARES = (0.9, 0.95, 1.0)
"""Of the best validation NDCG@10 from fresh weights: when is it reached?"""
Curve = list[tuple[float, float]]
"""(CPU seconds since the training began, validation NDCG@10) of every validation."""


@dataclass(frozen=True)
class Measured:
    """One training of today's log.

    Attributes:
        curve: its validations.
        test: NDCG@10 of the best epoch on the test targets.
    """

    curve: Curve
    test: float

    def seconds_to(self, level: float) -> float | None:
        """Seconds until a validation reached this NDCG@10; None where none did."""
        return next((seconds for seconds, value in self.curve if value >= level), None)


def measure(config: ExperimentConfig, data: PreparedData, folder: Path, start: WarmStart | None) -> Measured:
    """Train today's model from a bundle, or from fresh weights."""
    assert isinstance(config.model, EncoderConfig)
    curve: Curve = []
    training = data.training()
    began = time.process_time()

    def keep(epoch: int, metrics: dict[str, float]) -> None:
        if MONITOR in metrics:
            curve.append((round(time.process_time() - began, 2), round(metrics[MONITOR], 5)))

    fit = partial(
        fit_encoder,
        config.model,
        config.training,
        training=training,
        n_items=len(data.vocabulary),
        validation=data.asked_targets("valid"),
        checkpoints=folder,
        on_epoch=keep,
    )
    fitted = fit(start=lambda model, _: start.encoder(model, data, training)) if start else fit()
    return Measured(curve, evaluate(fitted.encoder, data).metrics[MONITOR])


def run(options: argparse.Namespace) -> None:
    """Prepare both logs, train three times, print the curves and add the row.

    Raises:
        InputError: a setting is unknown, or the log has no time to cut it by.
    """
    work = options.work
    own = [*options.overrides, f"tracking.uri=sqlite:///{work / 'mlflow.db'}", "tracking.report=false"]
    today = load_config(options.config, [*own, f"prepared={work / 'today'}", f"output={work / 'fresh'}"])
    data = PreparedData.load(prepare(today).path)
    if data.times is None:
        raise InputError(f"{data.path} has no times to tell yesterday from today by; take a log that has")
    newest = int(np.sort(data.times)[int(options.yesterday * len(data.times))])
    cut = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=newest)).isoformat()
    former = load_config(
        options.config,
        [
            *own,
            "expect={}",
            f"clean.end='{cut}'",
            f"prepared={work / 'yesterday'}",
            f"output={work / 'former'}",
        ],
    )
    yesterday = PreparedData.load(prepare(former).path)
    bundle = former.output_path / "bundle"
    if not bundle.exists():
        train(former, say=print)
    warm = load_config(options.config, [*own, *options.warm.split(), f"prepared={work / 'today'}"])
    start = WarmStart.checked(Bundle.load(bundle), "yesterday's bundle", warm, data)
    print(start.summary(data))
    warm_measured = measure(warm, data, work / "warm", start)
    fresh_measured = measure(today, data, work / "fresh", None)
    row = {
        "date": datetime.now(UTC).date().isoformat(),
        "data": today.name,
        "digest": data.digest[:12],
        "model": today.model.name,
        "split": today.split.kind,
        "users": len(data.targets("valid").rows),
        "seed": today.training.seed,
        "events": int(data.train_end.sum()),
        "events_yesterday": int(yesterday.train_end.sum()),
        "items": len(data.vocabulary),
        "items_known": int((start.known(data) >= 0).sum()),
        "settings": " ".join(each for each in options.overrides if not each.startswith("data.")),
        "warm_settings": options.warm,
        "fresh": {"curve": fresh_measured.curve, "test": round(fresh_measured.test, 5)},
        "warm": {"curve": warm_measured.curve, "test": round(warm_measured.test, 5)},
        "versions": environment().packages,
    }
    print_curves(fresh_measured, warm_measured)
    with options.results.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def print_curves(fresh: Measured, warm: Measured) -> None:
    """Both curves, and when each reached a share of the best from fresh weights."""
    for title, measured in (("fresh weights", fresh), ("yesterday's weights", warm)):
        print(f"{title}: test NDCG@10 {measured.test:.4f}; validation by seconds")
        print("  " + "  ".join(f"{seconds:.0f}s {value:.4f}" for seconds, value in measured.curve))
    best = max(value for _, value in fresh.curve)
    print(f"{'seconds to':>28}{'fresh':>10}{'warm':>10}")
    for share in SHARES:
        level = share * best
        cells = [
            "never" if s is None else f"{s:.0f}" for s in (fresh.seconds_to(level), warm.seconds_to(level))
        ]
        print(f"{f'{share:.0%} of the best, {level:.4f}':>28}{cells[0]:>10}{cells[1]:>10}")


def table(rows: list[dict[str, Any]]) -> str:
    """The README's table: one line a data set, split and model; the newest row of each counts."""
    newest = {(row["data"], row["split"], row["model"]): row for row in rows}
    shares = " | ".join(f"{share:.0%} of its best: anew, from the bundle" for share in SHARES)
    lines = [f"| data, split, model | {shares} | test NDCG@10: anew, from the bundle |"]
    lines.append("|" + "---|" * (len(SHARES) + 2))
    for (data, split, model), row in newest.items():
        fresh, warm = (Measured(row[name]["curve"], row[name]["test"]) for name in ("fresh", "warm"))
        best = max(value for _, value in fresh.curve)
        cells = []
        for share in SHARES:
            found = (one.seconds_to(share * best) for one in (fresh, warm))
            cells.append(", ".join("never" if seconds is None else f"{seconds:.0f} s" for seconds in found))
        title = f"{data}, {split} ({row['users']:,} targets), {model}"
        lines.append(f"| {title} | {' | '.join(cells)} | {fresh.test:.4f}, {warm.test:.4f} |")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.warm_start",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--config", type=Path, required=True, help="one of configs/, of a log with times")
    add("--warm", default="", help="settings of the training from yesterday's bundle, with spaces between")
    add("--yesterday", type=float, default=0.9, help="share of the events that yesterday's log holds")
    add("--work", type=Path, default=Path("runs/warm-start"), help="folder of what it makes")
    add("--results", type=Path, default=RESULTS, help="file to add the row to")
    add("overrides", nargs="*", help="such as data.path=PATH training.threads=1")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: 0 done, 2 bad usage or input."""
    try:
        run(parser().parse_intermixed_args(arguments))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
