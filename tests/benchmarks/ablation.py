"""What each ingredient of a recipe is worth: the recipe, and the recipe with one thing changed at a time.

    python -m tests.benchmarks.ablation --config configs/amazon-beauty-5core.yaml \\
        --variants tests/benchmarks/ablation-amazon-beauty-5core.yaml data.path=PATH

trains what is not measured yet and adds a row a variant and seed to the results file, with the difference to
the recipe in HR@10 and NDCG@10 on the same test users and its paired 95% interval. The variants file maps a
name to the `key=value` settings that it changes:

    without last-item samples: [model.last_item_prob=0]

Interrupt it at any moment, as `tests.benchmarks.run`, whose trainings it shares. `tests.benchmarks.readme`
makes the table. Nothing is chosen by these figures: settings are chosen on validation (`recsys tune`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from data_prep.prepare import prepare
from recsys.compare import compare
from recsys.config import ExperimentConfig, load_config
from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.evaluation import Evaluation, evaluate
from recsys.overrides import parse_yaml
from recsys.recipe import settled
from tests.benchmarks import results
from tests.benchmarks.measure import (
    CUTOFFS,
    SEEN,
    Board,
    encoder_identity,
    settings_hash,
    trained_encoder,
)
from tests.benchmarks.results import Row
from tests.benchmarks.run import ENCODERS

Variants = dict[str, list[str]]
"""Name -> overrides of the recipe's configuration."""
AS_CONFIGURED = "as configured"
"""The recipe itself, among its variants: `tests.benchmarks.run` tells nothing of it, whatever its epochs."""


def run(options: argparse.Namespace) -> None:
    """Measure what is missing.

    Raises:
        InputError: the configuration, the variants or the results file are not what is expected.
    """
    results.read(options.results)  # a file of another format is refused before anything is trained
    recipe = load_config(options.config, options.overrides)
    label = next((label for label, name in ENCODERS.items() if name == recipe.model.name), None)
    if label is None:
        raise InputError(
            f"{options.config} has model `{recipe.model.name}`, which has no ingredients; expected one of "
            f"{', '.join(ENCODERS.values())}"
        )
    variants = read_variants(options.variants)
    for name, changes in variants.items():
        changed = load_config(options.config, [*options.overrides, *changes])
        if settings_hash(changed) == settings_hash(recipe):
            raise InputError(f"variant `{name}` of {options.variants} changes neither model nor training")
    data = PreparedData.load(prepare(recipe).path)
    board = Board(data, recipe.name, options.results, [("full", options.seen_items)])
    for seed in range(options.seeds):
        _measure_seed(options, label, variants, seed, board)


def read_variants(file: Path) -> Variants:
    """The variants of a file.

    Raises:
        InputError: it is missing, or not a mapping of names to lists of `key=value`.
    """
    try:
        content = parse_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file} is not a readable YAML file: {' '.join(str(error).split())}") from error
    lists = content.values() if isinstance(content, dict) else [None]
    if not all(
        isinstance(each, list) and each and all(isinstance(word, str) for word in each) for each in lists
    ):
        raise InputError(
            f"{file} is no list of variants; expected lines such as "
            "`without last-item samples: [model.last_item_prob=0]`"
        )
    return {str(name): changes for name, changes in content.items()}


def _measure_seed(
    options: argparse.Namespace, label: str, variants: Variants, seed: int, board: Board
) -> None:
    """Add the rows of the recipe and of its variants that are missing, of one seed."""

    def configured(changes: list[str]) -> ExperimentConfig:
        overrides = [*options.overrides, *changes, f"training.seed={seed}"]
        return settled(load_config(options.config, overrides), board.data)

    work = options.work / board.name
    recipe = configured([])
    pending = []
    for name, changes in {AS_CONFIGURED: [], **variants}.items():
        variant = configured(changes)
        row = _variant_identity(f"{label}, {name}", variant, settings_hash(recipe))
        row["ablation"] = {"recipe": settings_hash(recipe), "variant": name, "changes": changes}
        if board.missing(row):
            pending.append((variant, row))
    if not pending:
        return
    bundle, _ = trained_encoder(recipe, board, work)
    (rule,) = board.rules
    whole = evaluate(bundle.model, board.data, exclude_seen=rule[1] == "removed", cutoffs=CUTOFFS)
    for variant, row in pending:
        bundle, facts = trained_encoder(variant, board, work)
        board.measure(bundle.model, row | facts, board.rules, lambda changed: _difference(whole, changed))


def _variant_identity(label: str, variant: ExperimentConfig, recipe: str) -> Row:
    """As that of any training, and of which recipe it is a variant."""
    identity = encoder_identity(label, variant)
    return identity | {"settings": f"{identity['settings']}, variant of {recipe}"}


def _difference(recipe: Evaluation, variant: Evaluation) -> Row:
    """Variant minus recipe on the same users, with paired 95% intervals."""
    found = compare(recipe, variant).differences
    return {"difference": {metric: interval.to_json(absent=None) for metric, interval in found.items()}}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--config", type=Path, required=True, help="the recipe, one of configs/")
    add("--variants", type=Path, required=True, help="YAML: name -> list of settings to change")
    add("--seeds", type=int, default=1, help="trainings of the recipe and of each variant")
    add("--seen-items", choices=SEEN, default="removed", help="repeat rule of full ranking")
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
