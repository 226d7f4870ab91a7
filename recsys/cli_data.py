"""The commands about data: download, prepare, quality. `recsys.cli` adds them to the command line.

Like there, imports of the other rooms and of anything slow stand inside the commands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recsys.cli_options import ConfigFile, JsonFile, Overrides
from recsys.console import say, writable, write_json


def download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="such as ml-1m; a wrong name lists them all")],
    out: Annotated[Path, typer.Option(help="folder that the data set's own folder goes into")] = Path("data"),
) -> None:
    """A public data set from its publisher, checked; an interrupted download goes on where it was."""
    from data_prep.download import dataset_named
    from data_prep.download import download as fetch
    from recsys.progress import byte_reporter

    dataset = dataset_named(name)
    with byte_reporter(name) as report:
        folder, fresh = fetch(dataset, out, report)
    say(f"{folder}: {'complete and checked' if fresh else 'was there already'} ({dataset.terms})")
    elsewhere = "" if out == Path("data") else f" data.path={folder}"
    say(f"next: recsys prepare {dataset.config}{elsewhere}")


def prepare(
    config: ConfigFile,
    overrides: Overrides = None,
    append: Annotated[
        bool, typer.Option("--append", help="add log files that are new; every index stays what it was")
    ] = False,
) -> None:
    """Logs -> a prepared data set."""
    from recsys.config import load_config

    if append:
        from data_prep.append import append as prepare_log
    else:
        from data_prep.prepare import prepare as prepare_log
    for line in prepare_log(load_config(config, overrides or [])).lines():
        say(line)


def quality(
    prepared: Annotated[Path, typer.Argument(metavar="PREPARED", help="folder of a prepared data set")],
    against: Annotated[
        Path | None, typer.Option(help="an earlier version of it, or the --json report on one")
    ] = None,
    out: Annotated[Path, typer.Option(help="HTML file to write", callback=writable)] = Path("quality.html"),
    json_file: JsonFile = None,
) -> None:
    """One HTML page about a prepared data set: counts, distributions, gaps, drift, the leakage check."""
    from data_prep.quality import measure_quality
    from data_prep.quality_page import render_quality
    from recsys.files import written_file

    report = measure_quality(prepared, against)
    with written_file(out) as draft:
        draft.write_text(render_quality(report), encoding="utf-8")
    write_json(json_file, report)
    for line in report["findings"] or ["nothing stands out"]:
        say(f"  {line}")
    say(f"wrote {out}")
