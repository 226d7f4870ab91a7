"""The command that chooses settings: tune. `recsys.cli` adds it to the command line.

Like there, imports of anything slow stand inside the command.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recsys.cli_options import ConfigFile, Overrides
from recsys.console import say, writable
from recsys.errors import InputError


def tune(
    config: ConfigFile,
    overrides: Overrides = None,
    minutes: Annotated[float, typer.Option(help="budget of this call")] = 30.0,
    trials: Annotated[int | None, typer.Option(help="at most so many in the study")] = None,
    out: Annotated[
        Path | None, typer.Option(help="YAML file to write; default: in the run folder", callback=writable)
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(help="file of the trials, made or gone on with; default: in the run folder"),
    ] = None,
) -> None:
    """The best of the settings that depend on the data, by validation alone -> a YAML for `train`."""
    from recsys.cli import _check_input, _load
    from recsys.tuning import tune as search

    if out and out.exists() and out.samefile(config):
        raise InputError(f"--out {out} is the configuration itself; name another file")
    experiment = _load(config, overrides)
    _check_input(experiment)
    tuned = search(experiment, minutes=minutes, trials=trials, out=out, study=study, say=say)
    for line in tuned.lines():
        say(line)
