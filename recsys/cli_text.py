"""The commands of models that read text: pretrain, add-items. `recsys.cli` adds them to the command line.

Like there, imports of anything slow stand inside the commands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recsys.cli_options import BundleName, ConfigFile, DataFolder, Overrides, TrackingUri, bundle_folder
from recsys.console import say
from recsys.errors import InputError


def pretrain(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue an interrupted training")] = False,
) -> None:
    """Pre-train a recformer on a catalogue and its sequences: a bundle, and a backbone for others."""
    from recsys.cli import train_experiment
    from recsys.config import load_config

    chosen = ["model.name=recformer", *(overrides or []), "model.objective=pretrain"]
    experiment = load_config(config, chosen)
    folder = experiment.output or f"runs/{experiment.name}/pretrained"
    train_experiment(experiment.model_copy(update={"output": folder}), resume=resume)


def add_items(
    bundle: BundleName,
    items: Annotated[Path, typer.Argument(metavar="ITEMS", help="new items: .parquet, .csv or .jsonl")],
    out: Annotated[Path | None, typer.Option(help="folder; default: the bundle's own")] = None,
    id_column: Annotated[str, typer.Option("--id", help="column of the ids")] = "id",
    title: Annotated[str | None, typer.Option(help="column of the titles; default: title")] = None,
    data: DataFolder = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Add new items to a bundle that reads text, without training."""
    from recsys.add_items import add_items as add
    from recsys.add_items import read_item_file
    from recsys.bundle import Bundle
    from recsys.experiment import index_queries

    if out is None and not Path(bundle).is_dir():
        raise InputError(
            f"{bundle} is a version in the registry, which stays as it is; name a folder with --out"
        )
    loaded = Bundle.load(bundle_folder(bundle, tracking_uri))
    table = read_item_file(items, loaded, id_column, title)
    try:
        queries = index_queries(loaded.prepared_data(data))
    except InputError:  # the index is measured with single items where there are no histories
        if data is not None:
            raise
        queries = None
    added = add(loaded, table, out=out, id_column=id_column, title=title, queries=queries, say=say)
    for note in added.notes:
        say(f"note: {note}")
    say(
        f"{added.bundle.folder}: {added.items:,} new items, {len(added.bundle.vocabulary):,} in all, version "
        f"{added.bundle.model_version} in {added.seconds:.1f} s"
    )
