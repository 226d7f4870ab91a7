"""The command export. `recsys.cli` adds it to the command line.

Like there, imports of the other rooms stand inside the command.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recsys.cli_options import Backend, BundleName, DataFolder, TrackingUri, backend_named, bundle_folder
from recsys.console import say
from recsys.errors import InputError

if TYPE_CHECKING:
    from recsys.recommender import Recommender
    from serving.export import ExportReport

NAMED = 5  # unknown ids that a note names


def export(
    bundle: BundleName,
    out: Annotated[
        str,
        typer.Option(
            help=".parquet, .jsonl or .csv file; with --partitions a folder; sqlite:///FILE, "
            "postgresql://HOST/DATABASE or redis://HOST:PORT/0"
        ),
    ],
    what: Annotated[
        str, typer.Option(help="recommendations, similar-items, sequence-vectors or item-vectors")
    ] = "recommendations",
    k: Annotated[int, typer.Option("-k", min=1, help="length of each list")] = 100,
    only: Annotated[Path | None, typer.Option(help="CSV or Parquet of the ids to export")] = None,
    since: Annotated[
        str | None, typer.Option(help="only sequences with an event since this date, UTC")
    ] = None,
    shard: Annotated[str, typer.Option(help="i/n: this machine's share of n")] = "1/1",
    partitions: Annotated[
        int | None, typer.Option(help="a folder of so many Parquet files, by hash of the id")
    ] = None,
    table: Annotated[str | None, typer.Option(help="SQL table or Redis hash; default: what it holds")] = None,
    keep_seen: Annotated[bool, typer.Option("--keep-seen", help="recommend the history's items too")] = False,
    allow: Annotated[Path | None, typer.Option(help="CSV or Parquet of the items that may come")] = None,
    deny: Annotated[Path | None, typer.Option(help="CSV or Parquet of items that may not")] = None,
    where: Annotated[
        str | None,
        typer.Option(help='JSON: attribute -> values or operators, such as {"year": {">=": 1990}}'),
    ] = None,
    max_per: Annotated[
        list[str] | None, typer.Option(help="attribute=m: at most m share a value; may be repeated")
    ] = None,
    min_score: Annotated[float | None, typer.Option(help="the least score, on the model's scale")] = None,
    availability: Annotated[Path | None, typer.Option(help="as for `recsys serve`")] = None,
    region: Annotated[str | None, typer.Option(help="where items must be available")] = None,
    at: Annotated[
        str | None, typer.Option(help="the moment of --availability, UTC, one for all shards; default: now")
    ] = None,
    backend: Backend = "exact",  # in blocks faster than Annoy, whatever is faster for one question
    data: DataFolder = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Lists or vectors for all sequences or items; killed, it goes on when it is run again."""
    from recsys.answers import Filters
    from recsys.progress import count_reporter
    from recsys.recommender import Recommender
    from serving.export import Shard, Wanted
    from serving.export import export as export_all
    from serving.export.wanted import day, known_what, read_ids

    recommender = Recommender.load(bundle_folder(bundle, tracking_uri), backend=backend_named(backend))
    filters = Filters(
        exclude_seen=not keep_seen,
        allow=None if allow is None else read_ids(allow, "item").to_pylist(),
        deny=() if deny is None else read_ids(deny, "item").to_pylist(),
        where={} if where is None else _conditions(where),
        max_per=dict(_limit(text) for text in max_per or ()),
        min_score=min_score,
        available=_available(recommender, availability, region, at),
    )
    wanted = Wanted(
        what=known_what(what),
        k=k,
        filters=filters,
        only=only,
        since=None if since is None else day(since),
        shard=Shard.read(shard),
        partitions=partitions,
    )
    prepared = recommender.bundle.prepared_data(data)
    with count_reporter("export") as report:
        done = export_all(recommender, prepared, out, wanted, table=table, progress=report)
    _tell(done, wanted.key)


def _tell(done: ExportReport, key: str) -> None:
    """What was written, and what one should know of it."""
    rate = (done.rows - done.resumed) / max(done.seconds, 1e-9)
    say(
        f"{done.where}: {done.rows:,} {key}s, {done.answers:,} answers by {done.model_version} "
        f"({done.backend}) in {done.seconds:.1f} s, {rate:,.0f}/s"
    )
    if done.resumed:
        say(f"note: {done.resumed:,} of them a former attempt had stored")
    if done.awaited:
        say(f"note: readers see it when shards {', '.join(map(str, done.awaited))} are there too")
    if done.unknown:
        first = ", ".join(done.unknown[:NAMED]) + (", ..." if len(done.unknown) > NAMED else "")
        say(f"note: {len(done.unknown):,} ids are unknown and were left out ({first})")
    if done.short:
        say(f"note: {done.short:,} lists are short, for no further item may come")
    if done.fallback:
        say(f"note: {done.fallback:,} sequences have no event: recent popularity stands there, or no vector")
    if not done.trained_on_this:
        say("note: this data is not what the model was trained on (same items, other events)")


def _conditions(text: str) -> dict[str, Any]:
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise InputError(f"--where is `{text}`, which is no JSON ({error})") from error
    if not isinstance(tree, dict) or not all(isinstance(value, list | dict) for value in tree.values()):
        raise InputError(
            f'--where is `{text}`; expected such as {{"genre": ["rock"], "year": {{">=": 1990}}}}'
        )
    return tree


def _limit(text: str) -> tuple[str, int]:
    name, _, number = text.rpartition("=")
    if not name or not (number.isdecimal() and number.isascii()):
        raise InputError(f"--max-per is `{text}`; expected ATTRIBUTE=NUMBER, such as artist=2")
    return name, int(number)


def _available(recommender: Recommender, file: Path | None, region: str | None, at: str | None) -> Any:  # noqa: ANN401
    """(V,) items that can be had, or None for all."""
    if file is None:
        for option, value in (("--region", region), ("--at", at)):
            if value is not None:
                raise InputError(f"{option} {value} needs --availability, which says what can be had")
        return None
    from serving.export.wanted import day
    from serving.tables import Availability

    now = None if at is None else day(at).timestamp()
    return Availability.read(file).mask(recommender.vocabulary, region, now)
