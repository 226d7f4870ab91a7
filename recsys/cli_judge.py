"""The commands that judge bundles: evaluate, compare, report. `recsys.cli` adds them to the command line.

Like there, imports of anything slow stand inside the commands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recsys.cli_options import (
    BundleName,
    Cutoffs,
    DataFolder,
    JsonFile,
    KeepSeen,
    ProtocolName,
    Seed,
    SplitName,
    TrackingUri,
    bundle_folder,
    cutoffs_of,
)
from recsys.console import readable_or_writable, say, writable, write_json


def evaluate(
    bundle: BundleName,
    split: SplitName = "test",
    protocol: ProtocolName = "full",
    keep_seen: KeepSeen = False,
    candidates: Annotated[
        str, typer.Option(help="all, or rank only warm or only cold items (with or without training events)")
    ] = "all",
    cutoffs: Cutoffs = "5,10,20",
    negatives: Annotated[
        Path | None,
        typer.Option(
            help="Parquet file of the sampled negatives: read, or written if missing",
            callback=readable_or_writable,
        ),
    ] = None,
    seed: Seed = 0,
    data: DataFolder = None,
    json_file: JsonFile = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Metrics of a bundle on a split of its data; of a model that reads text on any other with --data."""
    from recsys.bundle import Bundle
    from recsys.evaluation import evaluate_bundle
    from recsys.models import reads_text

    asked = cutoffs_of(cutoffs)
    _note_of_seen(protocol, keep_seen)
    loaded = Bundle.load(bundle_folder(bundle, tracking_uri))
    prepared = loaded.prepared_data(data, other_items=reads_text(loaded.config.model))
    result = evaluate_bundle(
        loaded,
        prepared,
        split=split,
        protocol=protocol,
        exclude_seen=not keep_seen,
        cutoffs=asked,
        negatives=negatives,
        seed=seed,
        candidates=candidates,
    )
    for line in result.lines():
        say(line)
    identity = {"model_version": loaded.model_version, "model": loaded.config.model.name}
    write_json(json_file, {**identity, **result.to_json()})


def compare(
    bundle_a: Annotated[str, typer.Argument(metavar="BUNDLE_A", help="as BUNDLE elsewhere")],
    bundle_b: Annotated[str, typer.Argument(metavar="BUNDLE_B", help="differences are B - A")],
    split: SplitName = "test",
    protocol: ProtocolName = "full",
    keep_seen: KeepSeen = False,
    metric: Annotated[
        list[str] | None, typer.Option(help="may be repeated; default: hr@10 and ndcg@10")
    ] = None,
    seed: Seed = 0,
    data: DataFolder = None,
    json_file: JsonFile = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Paired bootstrap of two bundles on the same users, with a verdict in words."""
    from recsys.bundle import Bundle
    from recsys.compare import METRICS, compare_bundles

    _note_of_seen(protocol, keep_seen)
    a, b = (Bundle.load(bundle_folder(bundle, tracking_uri)) for bundle in (bundle_a, bundle_b))
    result = compare_bundles(
        a,
        b,
        data=data,
        split=split,
        protocol=protocol,
        exclude_seen=not keep_seen,
        metrics=metric or METRICS,
        seed=seed,
    )
    for line in result.lines():
        say(line)
    write_json(json_file, result.to_json())


def report(
    bundle: BundleName,
    out: Annotated[Path, typer.Option(help="HTML file to write", callback=writable)] = Path("report.html"),
    split: SplitName = "test",
    keep_seen: KeepSeen = False,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="put every counting model beside it")
    ] = True,
    data: DataFolder = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """One self-contained HTML page about a bundle."""
    from recsys.report import write_report

    file = write_report(
        bundle_folder(bundle, tracking_uri),
        out,
        data=data,
        split=split,
        exclude_seen=not keep_seen,
        baselines=baselines,
        say=say,
    )
    say(f"wrote {file}")


def _note_of_seen(protocol: str, keep_seen: bool) -> None:
    """Say so where `--keep-seen` does nothing."""
    if keep_seen and protocol != "full":
        say(f"note: --keep-seen changes nothing with {protocol}, whose negatives are never of the history")
