"""The command line: where data preparation, the library and serving meet.

Imports of the other rooms, and of anything slow, stand inside the commands that need them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recsys import cli_data, cli_export, cli_judge, cli_playlists, cli_serve, cli_text, cli_tune
from recsys.cli_options import (
    Backend,
    BundleName,
    ConfigFile,
    DataFolder,
    FromBundle,
    JsonFile,
    Overrides,
    SplitName,
    TrackingUri,
    backend_named,
    bundle_folder,
)
from recsys.console import fail, say, show_answer, usage, write_json
from recsys.errors import InputError

if TYPE_CHECKING:
    from recsys.config import ExperimentConfig
    from recsys.dataset import PreparedData
    from recsys.recommender import Recommender

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
INTERRUPTED = 130
"""What Typer makes of Ctrl-C."""
RESUMABLE = ("train", "pretrain")
"""Commands with a `--resume`."""
UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""Click's own, or that of the copy that newer versions of typer carry."""


@app.callback()
def recsys(
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
) -> None:
    """Sequential recommendation, from logs to an endpoint."""


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="folder for everything it makes")] = Path("quickstart"),
) -> None:
    """Built-in sample: prepare, train, evaluate, index, recommend, export."""
    from data_prep.prepare import prepare as prepare_log
    from data_prep.sample import read_oracle, write_sample
    from recsys import quickstart as sample
    from serving.export import Wanted
    from serving.export import export as export_all

    write_sample(out / "sample")
    config = sample.configuration(out)
    for line in prepare_log(config).lines():
        say(line)
    recommender = sample.train_and_compare(config, read_oracle(out / "sample").hr_at_10, say=say)
    history = sample.example_history(config)
    show_answer(recommender, history, recommender.recommend(history, 10))
    prepared = recommender.bundle.prepared_data(None)
    report = export_all(recommender, prepared, out / "recommendations.parquet", Wanted(k=20))
    say(f"exported {report.rows:,} lists to {report.where} in {report.seconds:.1f} s")
    say(f"next: recsys serve {recommender.bundle.folder}")


@app.command()
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue an interrupted training")] = False,
    final: Annotated[
        bool, typer.Option("--final", help="refit all events for the number of epochs that validation chose")
    ] = False,
    from_bundle: FromBundle = None,
) -> None:
    """A prepared data set -> an MLflow run and a bundle."""
    train_experiment(_load(config, overrides), resume=resume, final=final, from_bundle=from_bundle)


def train_experiment(
    experiment: ExperimentConfig, *, resume: bool, final: bool = False, from_bundle: str | None = None
) -> None:
    """What `train` does with its configuration."""
    from recsys.evaluation import metric_lines, removes_seen
    from recsys.experiment import assist
    from recsys.experiment import train as train_model
    from recsys.processes import Processes

    if Processes.launched().rank > 0:
        assist(experiment, resume=resume, final=final, from_bundle=from_bundle)
        return
    _check_input(experiment)
    trained = train_model(experiment, resume=resume, final=final, from_bundle=from_bundle, say=say)
    epoch = "" if trained.best_epoch is None else f", epoch {trained.best_epoch}"
    measured_by = "; measured by the run that chose the epochs" if final else ""
    seen = "removed" if removes_seen(experiment) else "kept"
    say(f"trained in {trained.seconds:.1f} s{epoch}; full ranking, seen items {seen}{measured_by}:")
    if not trained.metrics:
        say("  the split holds out no target, so nothing was measured")
    for split in ("valid", "test"):
        prefix = f"{split}_"
        measured = {
            name.removeprefix(prefix): x for name, x in trained.metrics.items() if name.startswith(prefix)
        }
        for line in metric_lines(measured):
            say(f"  {split:5}  {line}")


@app.command()
def floors(
    source: Annotated[
        Path, typer.Argument(metavar="CONFIG.yaml|PREPARED", help="a configuration, or a prepared folder")
    ],
    overrides: Overrides = None,
    split: SplitName = "test",
    json_file: JsonFile = None,
) -> None:
    """What counting reaches on a data set: the floor that a trained model must beat."""
    from recsys.dataset import PreparedData, split_named
    from recsys.floors import measure_floors
    from recsys.origins import check_settings

    part = split_named(split)
    if source.is_dir():
        if overrides:
            raise InputError(f"{source} is a prepared folder, which takes no settings ({overrides[0]})")
        data = PreparedData.load(source)
    else:
        config = _load(source, overrides)
        if not config.prepared_path.exists():
            from data_prep.prepare import prepare as prepare_log

            for line in prepare_log(config).lines():
                say(line)
        else:
            _check_input(config)
        data = PreparedData.load(config.prepared_path)
        check_settings(config, data)
    table = measure_floors(data, part, say=say)
    for line in table.lines():
        say(line)
    write_json(json_file, table.to_json())


for command in (
    *(cli_data.download, cli_data.prepare, cli_data.quality),
    *(cli_tune.tune, cli_judge.evaluate, cli_judge.compare, cli_judge.report),
    *(cli_text.pretrain, cli_text.add_items),
):
    app.command()(command)
app.add_typer(cli_playlists.app, name="playlists")


@app.command()
def index(
    bundle: BundleName,
    recall: Annotated[float, typer.Option(help="recall@100 to reach against exact search")] = 0.99,
    dim: Annotated[int | None, typer.Option(help="dimensions of the index; default: all")] = None,
    backend: Annotated[str, typer.Option(help="what to search with: annoy, exact or auto")] = "annoy",
    data: DataFolder = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """(Re)build the index of a bundle, and measure it."""
    from recsys.bundle import Bundle
    from recsys.experiment import index_queries
    from recsys.index import build_index

    loaded = Bundle.load(bundle_folder(bundle, tracking_uri))
    queries = index_queries(loaded.prepared_data(data))
    info = build_index(loaded, queries, recall=recall, dim=dim, backend=backend_named(backend) or "annoy")
    say(
        f"{info.count:,} items, {info.dimension} dimensions, {info.trees} trees, search_k {info.search_k}: "
        f"recall@{info.k} {info.recall:.4f} (asked {info.asked_recall}) on {info.queries:,} histories"
    )
    say(f"median query: annoy {info.annoy_ms:.3f} ms, exact {info.exact_ms:.3f} ms; faster: {info.faster}")


@app.command()
def recommend(
    bundle: BundleName,
    history: Annotated[str, typer.Option(help="item ids, oldest first, separated by commas")],
    k: Annotated[int, typer.Option("-k", min=1, help="number of recommendations")] = 10,
    keep_seen: Annotated[bool, typer.Option("--keep-seen", help="recommend the history's items too")] = False,
    backend: Backend = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """One answer, as a table with titles."""
    recommender = _recommender(bundle, backend, tracking_uri)
    ids: list[int | str] = [part.strip() for part in history.split(",") if part.strip()]
    answer = recommender.recommend(ids, k, exclude_seen=not keep_seen)
    if as_json:
        typer.echo(json.dumps(answer.to_json(), ensure_ascii=False, indent=2))
    else:
        show_answer(recommender, ids, answer)


app.command()(cli_export.export)
app.command()(cli_serve.serve)
app.command("api-key")(cli_serve.api_key)


@app.command()
def promote(
    bundle: BundleName,
    model: Annotated[str | None, typer.Option(help="registered model; default: the bundle's own")] = None,
    if_better: Annotated[
        str | None,
        typer.Option(help="only if better in this test metric, such as ndcg@10, on the same users"),
    ] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Make a bundle the registry's `champion`; the former one becomes `previous`."""
    from recsys.bundle import Bundle
    from recsys.config import default_tracking_uri, shown_uri
    from recsys.registry import promote as move_champion

    made_by = Bundle.load(bundle_folder(bundle, tracking_uri)).config
    # A folder belongs to the registry that its training was recorded in, unless told otherwise.
    address = tracking_uri or (made_by.tracking.uri if Path(bundle).is_dir() else default_tracking_uri())
    if "***" in address:
        raise InputError(
            f"{bundle} was recorded at {address}; give the address with its password: --tracking-uri"
        )
    name = model or made_by.registered_name
    moved = move_champion(bundle, model_name=name, tracking_uri=address, if_better=if_better)
    say(f"{moved.message} (at {shown_uri(address)})")


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="the registered model")],
    tracking_uri: TrackingUri = None,
) -> None:
    """Make the previous champion the champion again."""
    from recsys.config import default_tracking_uri
    from recsys.registry import rollback as move_back

    say(move_back(model, tracking_uri or default_tracking_uri()).message)


def prepare_frame(frame: object, tree: dict[str, Any], items: object = None) -> PreparedData:
    """Prepare a table of events; the part of `recsys.prepare` that needs the data preparation."""
    from data_prep.prepare import prepare_frame as prepare_table
    from recsys.config import build_config
    from recsys.dataset import PreparedData

    return PreparedData.load(prepare_table(frame, build_config(tree, where="recsys.prepare"), items).path)


def main() -> None:
    """Entry point: 0 done, 2 bad usage or input (one line), 130 interrupted, 1 a failure of ours."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        code = app(arguments or ["--help"], standalone_mode=False)
    except UsageError as error:
        fail(usage(error), 2, debug)
    except InputError as error:
        fail(f"error: {error}", 2, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `recsys ... | head` is no failure
        sys.exit(0)
    except Exception as error:
        fail(f"internal error: {type(error).__name__}: {error} (--debug shows where)", 1, debug)
    if code == INTERRUPTED:
        goes_on = (
            "; with --resume it goes on from its last finished epoch" if arguments[0] in RESUMABLE else ""
        )
        fail(f"interrupted{goes_on}", INTERRUPTED, debug=False)
    sys.exit(code)


def _load(file: Path, overrides: list[str] | None) -> ExperimentConfig:
    from recsys.config import load_config

    return load_config(file, overrides or [])


def _check_input(config: ExperimentConfig) -> None:
    """Refuse prepared data whose log has changed since; say so where the log is not there to compare."""
    from data_prep.prepare import check_input

    for line in check_input(config):
        say(f"note: {line}")


def _recommender(bundle: str, backend: str | None, tracking_uri: str | None) -> Recommender:
    from recsys.recommender import Recommender

    return Recommender.load(bundle_folder(bundle, tracking_uri), backend=backend_named(backend))


if __name__ == "__main__":
    main()
