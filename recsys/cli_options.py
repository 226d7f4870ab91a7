"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from recsys.console import writable
from recsys.errors import InputError

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="one of configs/, or your own")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[key=value ...]", help="such as data.path=logs training.epochs=5"),
]
BundleName = Annotated[
    str, typer.Argument(metavar="BUNDLE", help="a folder, runs:/RUN_ID/bundle or models:/NAME@ALIAS")
]
FromBundle = Annotated[
    str | None,
    typer.Option("--from", metavar="BUNDLE", help="start from its weights: items keep their vectors by id"),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(help="MLflow's address; default: $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db"),
]
Backend = Annotated[str | None, typer.Option(help="annoy, exact or auto (the faster one here)")]
DataFolder = Annotated[
    Path | None, typer.Option(help="prepared data; default: what the bundle was trained on")
]
SplitName = Annotated[str, typer.Option("--split", help="valid or test")]
ProtocolName = Annotated[str, typer.Option("--protocol", help="full, pop-100 or uniform-100")]
KeepSeen = Annotated[bool, typer.Option("--keep-seen", help="rank the history's items too")]
Seed = Annotated[int, typer.Option(min=0, help="of sampled negatives and intervals")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="write the result there", callback=writable)]
Cutoffs = Annotated[str, typer.Option("-k", "--cutoffs", help="lengths of the lists, such as 5,10,20")]


def cutoffs_of(text: str) -> tuple[int, ...]:
    """The numbers of `Cutoffs`, in rising order, each once.

    Raises:
        InputError: it holds something else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and part.isascii() for part in parts):
        raise InputError(f"cutoffs are `{text}`; expected whole numbers with commas, such as 5,10,20")
    return tuple(sorted({int(part) for part in parts}))


def backend_named(name: str | None) -> Any:  # noqa: ANN401 -- a literal, which the type checker cannot see
    """The backend that `Backend` names, or None for the index's own.

    Raises:
        InputError: there is none of that name.
    """
    if name not in (None, "annoy", "exact", "auto"):
        raise InputError(f"backend `{name}` is unknown; known: annoy, exact, auto")
    return name


def engine_named(name: str) -> Any:  # noqa: ANN401 -- as above
    """The engine of that name.

    Raises:
        InputError: there is none.
    """
    if name not in ("eager", "onnx"):
        raise InputError(f"engine `{name}` is unknown; known: eager, onnx")
    return name


def bundle_folder(bundle: str, tracking_uri: str | None) -> Path:
    """The folder of what `BundleName` names; MLflow itself is imported only for a URI.

    Raises:
        InputError: there is no such bundle.
    """
    from recsys.config import default_tracking_uri
    from recsys.registry import resolve_bundle

    return resolve_bundle(bundle, tracking_uri or default_tracking_uri())
