"""The commands of the endpoint: serve and api-key. `recsys.cli` adds them to the command line.

Like there, imports of the other rooms stand inside the commands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recsys.cli_options import Backend, BundleName, TrackingUri, backend_named, bundle_folder, engine_named
from recsys.console import say


def serve(
    bundle: BundleName,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one")] = 8000,
    backend: Backend = None,
    engine: Annotated[
        str, typer.Option(help="eager (PyTorch), or onnx (ONNX Runtime: faster; needs the extra `onnx`)")
    ] = "eager",
    tracking_uri: TrackingUri = None,
    histories: Annotated[
        Path | None, typer.Option(help="stored histories: Parquet (sequence, items), or prepared data")
    ] = None,
    availability: Annotated[
        Path | None,
        typer.Option(help="CSV or Parquet: item, and any of available, region, starts, expires"),
    ] = None,
    playlists: Annotated[
        Path | None, typer.Option(help="folder of `recsys playlists train` and `embed`, and perhaps `map`")
    ] = None,
    api_keys: Annotated[Path | None, typer.Option(help="file of lines that `recsys api-key` prints")] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="origin whose web pages may ask; may be repeated")
    ] = None,
    watch_seconds: Annotated[
        float, typer.Option(min=0.05, help="between looks for a new model, or new tables")
    ] = 10.0,
    window_ms: Annotated[
        float, typer.Option(min=0, max=1000, help="under load, wait so long for others to be answered with")
    ] = 2.0,
    batch: Annotated[int, typer.Option(min=1, help="questions answered together; 1: each alone")] = 64,
    queue: Annotated[int, typer.Option(min=1, help="questions that may wait; more get 503")] = 1024,
    deadline_ms: Annotated[float, typer.Option(min=1, help="of a request; later it gets 504")] = 10_000.0,
    log_level: Annotated[str, typer.Option(help="info logs each request; warning, error")] = "info",
) -> None:
    """The endpoint, until it is stopped; a new model at BUNDLE takes over while it runs."""
    from serving.model import Model
    from serving.server import serve as run_server
    from serving.service import Settings

    settings = Settings(
        window=window_ms / 1e3,
        most=batch,
        waiting=queue,
        deadline=deadline_ms / 1e3,
        watch=watch_seconds,
        availability=availability,
        histories=histories,
        playlists=playlists,
        keys=api_keys,
        origins=cors_origin or (),
    )
    model = Model(lambda: bundle_folder(bundle, tracking_uri), backend_named(backend), engine_named(engine))
    run_server(model, host, port, log_level, settings)


def api_key(
    name: Annotated[str, typer.Argument(help="whose key it is: letters, digits, `.`, `_`, `-`")],
) -> None:
    """Make a key for the endpoint, and the line for the file of `recsys serve --api-keys`."""
    from serving.security import new_key

    key, line = new_key(name)
    say(f"key, shown this once:  {key}")
    say(f"line for the file:     {line}")
