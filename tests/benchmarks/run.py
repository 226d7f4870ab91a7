"""The benchmark of quality: our models, the floors, and the public libraries, on one data set.

    python -m tests.benchmarks.run --config configs/ml-100k.yaml --models BERT4Rec,floors --seeds 3 \\
        --protocols full,pop-100 --peers replay --bench ../shared/bench --bench-dir DIR data.path=PATH

prepares the data, trains what is not measured yet, evaluates all of it by `recsys.evaluation`, and adds a row
a model, seed, protocol and repeat rule to the results file. Interrupt it at any moment: started again, it
goes on from the last finished epoch, and what has its row is not run again. The public libraries get as many
seconds of training as our own encoder took. `python -m tests.benchmarks.readme` makes the README's tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from data_prep.prepare import prepare
from recsys.config import ExperimentConfig, TransformerConfig, load_config
from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.floors import FLOORS, TEXT_FLOORS
from recsys.recipe import settled
from tests.benchmarks import peers, results
from tests.benchmarks.measure import (
    Board,
    measure_encoder,
    measure_floor,
    measure_peer,
    rules_of,
    settings_hash,
)

ENCODERS = {"BERT4Rec": "bert4rec", "BERT4Rec as published": "bert4rec", "SASRec": "sasrec"}
"""Label -> `model.name`; the settings are the configuration's own."""


def run(options: argparse.Namespace) -> None:
    """Measure what is missing.

    Raises:
        InputError: an option is unknown or does not fit the data, or the results file is of another format.
    """
    results.read(options.results)  # a file of another format is refused before anything is trained
    config = load_config(options.config, options.overrides)
    rules = rules_of(options.protocols, options.seen_items)
    board = Board(PreparedData.load(prepare(config).path), config.name, options.results, rules)
    if options.measured_apart:
        for row in peers.measured_apart(options.measured_apart, config.name):
            results.add(options.results, row)
    for job in [*our_jobs(options, board), *peer_jobs(options, board)]:
        job()


COUNTED = {"floors": FLOORS, "text-floors": TEXT_FLOORS}


def our_jobs(options: argparse.Namespace, board: Board) -> list[Callable[[], None]]:
    """The floors and then the encoders that `--models` names.

    Raises:
        InputError: a label is unknown.
    """
    labels = [] if options.models == "none" else options.models.split(",")
    if unknown := [label for label in labels if label not in (*COUNTED, *ENCODERS)]:
        known = ", ".join(("none", *COUNTED, *ENCODERS))
        raise InputError(f"`{unknown[0]}` in --models is unknown; known: {known}")
    jobs = [
        partial(measure_floor, label, config, board)
        for name, floors in COUNTED.items()
        if name in labels
        for label, config in floors.items()
    ]
    for label in (label for label in labels if label in ENCODERS):
        for seed in range(options.seeds):
            one = load_config(options.config, [*options.overrides, f"training.seed={seed}"])
            if one.model.name != ENCODERS[label]:
                raise InputError(f"{options.config} trains {one.model.name}, not the {label} of --models")
            jobs.append(partial(measure_encoder, titled(label, one), one, board, options.work / board.name))
    return list(jobs)


def titled(label: str, config: ExperimentConfig) -> str:
    """The label with what no reader would take for granted: another width, validation events in training."""
    assert isinstance(config.model, TransformerConfig)
    width, usual = config.model.dim, type(config.model)().dim
    wide = f", width {width}" if width != usual else ""
    return f"{label}{wide}" + (f", {config.training.fit}" if config.training.fit != "training" else "")


def peer_jobs(options: argparse.Namespace, board: Board) -> list[Callable[[], None]]:
    """The trainings that `--peers` names, as one job: their seconds may depend on our own rows.

    Raises:
        InputError: a name is unknown, or the libraries' benchmark does not have this data set.
    """
    peers.parse_peers(options.peers, 0, 1)
    if not options.peers:
        return []
    if board.name not in peers.DATA:
        known = ", ".join(peers.DATA)
        raise InputError(f"the libraries' benchmark has no data set {board.name}; known: {known}")

    def job() -> None:
        config = settled(load_config(options.config, options.overrides), board.data)
        seconds = options.seconds or training_seconds(
            options.results, board.name, board.data.digest[:12], settings_hash(config)
        )
        for peer in peers.parse_peers(options.peers, seconds, options.peer_seeds):
            measure_peer(peer, board, options.bench, options.bench_dir, options.work / board.name)

    return [job]


def training_seconds(file: Path, data: str, digest: str, settings: str) -> int:
    """Mean training time of our encoder with these settings on this data: what a library gets too.

    Raises:
        InputError: there is no row of them yet.
    """
    asked = (results.OURS, data, digest, settings)
    found = {
        row["seed"]: float(row["seconds"])
        for row in results.read(file)
        if (row["library"], row["data"], row["digest"], row["settings"]) == asked
    }
    if not found:
        raise InputError(
            f"{file} has no row of our own encoder with these settings on {data}; measure it first, "
            "or give --seconds"
        )
    return round(sum(found.values()) / len(found))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--config", type=Path, required=True, help="one of configs/")
    add("--models", default="BERT4Rec,floors", help="BERT4Rec or SASRec, floors (all counting models), none")
    add("--seeds", type=int, default=3, help="trainings of each of our encoders")
    add("--protocols", default="full", help="full, pop-100, uniform-100")
    add("--seen-items", default="removed", help="repeat rules of full ranking: removed, kept")
    add(
        "--peers",
        default="",
        help="public libraries: replay, rectools, recbole; replay/sasrec for that model, "
        "replay/sasrec/documented with the library's own sizes",
    )
    add("--peer-seeds", type=int, default=1, help="trainings of each library's model")
    add("--seconds", type=int, help="of a library's training; default: our own encoder's mean")
    add("--bench", type=Path, default=Path("../shared/bench"), help="the libraries' scripts")
    add("--bench-dir", type=Path, default=Path("bench-out"), help="their environments and data")
    add("--measured-apart", type=Path, help="results file of an earlier run of those scripts, to take over")
    add("--work", type=Path, default=Path("runs/benchmarks"), help="folder of runs, finished or not")
    add("--results", type=Path, default=results.RESULTS, help="the results file")
    add("overrides", nargs="*", help="such as data.path=PATH")
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
