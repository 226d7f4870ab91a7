"""The commands about playlists: train, embed, probe, similar, search, continue, map.

Like in `recsys.cli`, which adds them to the command line, imports of anything slow stand inside the commands.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recsys.cli_options import JsonFile
from recsys.console import say, writable, write_json
from recsys.errors import InputError

if TYPE_CHECKING:
    from recsys.playlists.continuation import Limit
    from recsys.playlists.labels import Labels
    from recsys.playlists.store import PlaylistModel

app = typer.Typer(help="Playlists, sessions or baskets as vectors: represent, explore, continue.")

DataArgument = Annotated[Path, typer.Argument(metavar="DATA", help="prepared data set")]
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="what `recsys playlists train` made")]
Data = Annotated[Path | None, typer.Option(help="prepared data; default: what it was trained on")]
Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[key=value ...]", help="such as model=seq2seq dim=64 order=set model.epochs=30"),
]
LabelColumn = Annotated[str | None, typer.Option("--label", help="column of the tracks that labels them")]
ClusterColumn = Annotated[
    str | None, typer.Option("--cluster", help="without labels: column to cluster by company, such as artist")
]
Clusters = Annotated[int, typer.Option(min=2, help="labels that --cluster makes")]
Count = Annotated[int, typer.Option("-k", min=1, help="number of answers")]
Tracks = Annotated[str, typer.Option(help="track ids with commas")]


@app.command()
def train(
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="folder to write")],
    settings: Settings = None,
    titles: Annotated[str, typer.Option(help="how titles are read: tower or letters")] = "tower",
) -> None:
    """Train an encoder of playlists, embed every playlist, and index the vectors.

    Where playlists have titles, a text tower learns to read them (needs recsys[text]); with
    `--titles letters` they are compared by their letters.
    """
    import time
    from typing import cast

    from recsys.dataset import PreparedData
    from recsys.models.protocol import Encoder
    from recsys.playlists.settings import playlists_config
    from recsys.playlists.store import build_playlist_index, save_playlist_model
    from recsys.playlists.titles import train_titles
    from recsys.playlists.training import fit_playlists
    from recsys.text.tokens import text_extra

    if titles not in ("tower", "letters"):
        raise InputError(f"--titles `{titles}` is unknown; known: tower, letters")
    config = playlists_config(settings or [])
    prepared = PreparedData.load(data)
    if titles == "tower" and prepared.titles is not None:
        with text_extra():  # before what takes long
            import tokenizers  # noqa: F401
    started = time.perf_counter()
    encoder = fit_playlists(config, prepared)
    say(f"trained {config.model.name} in {time.perf_counter() - started:.1f} s")
    tower = train_titles(cast(Encoder, encoder), config, prepared) if titles == "tower" else None
    model = save_playlist_model(out, encoder, config, prepared, tower)
    index = build_playlist_index(model, prepared)
    kept = int(model.kept_out(prepared).sum())
    say(f"{out}: version {model.version}, {len(index.ids):,} playlists embedded, {kept:,} of them unseen")
    _note_windows(model, index.playlists.lengths.max())


@app.command()
def embed(folder: Folder, data: Data = None) -> None:
    """Embed and index every playlist of a data set with the same tracks."""
    from recsys.playlists.store import PlaylistModel, build_playlist_index

    model = PlaylistModel.load(folder)
    prepared = model.prepared_data(data)
    index = build_playlist_index(model, prepared)
    say(f"{folder}: {len(index.ids):,} playlists embedded and indexed")
    empty = len(prepared.sequences) - len(index.ids)
    if empty:
        say(f"note: {empty:,} playlists without a track have no vector and were left out")
    _note_windows(model, index.playlists.lengths.max())


@app.command()
def probe(
    folder: Folder,
    label: LabelColumn = None,
    cluster: ClusterColumn = None,
    clusters: Clusters = 9,
    data: Data = None,
    json_file: JsonFile = None,
) -> None:
    """What the vectors know of playlists that training did not see: label, length, content, order."""
    from dataclasses import asdict

    import numpy as np

    from recsys.playlists.judging import judge
    from recsys.playlists.store import PlaylistModel
    from recsys.playlists.titles import judge_titles

    model = PlaylistModel.load(folder)
    prepared = model.prepared_data(data)
    unseen = model.kept_out(prepared) & (prepared.sequences.lengths > 1)
    if not unseen.any():
        raise InputError(f"{folder} was trained on every playlist; train with holdout=0.2, or give --data")
    labels = _labels(model, label, cluster, clusters)
    found = judge(model.encoder, prepared.sequences.take(np.flatnonzero(unseen)), labels)
    titles = judge_titles(model, prepared)
    for line in [*found.lines(), *([titles.line()] if titles else [])]:
        say(line)
    of_titles = {"titles": asdict(titles)} if titles else {}
    write_json(json_file, {"model_version": model.version, **found.to_json(), **of_titles})


@app.command()
def order(data: DataArgument, settings: Settings = None, json_file: JsonFile = None) -> None:
    """Which order the playlists prefer: order=set and order=sequence, trained and compared."""
    from recsys.dataset import PreparedData
    from recsys.playlists.preference import preferred_order
    from recsys.playlists.settings import playlists_config

    found = preferred_order(playlists_config(settings or []), PreparedData.load(data))
    for line in found.lines():
        say(line)
    write_json(json_file, found.to_json())


@app.command()
def similar(
    folder: Folder,
    playlist: Annotated[str, typer.Option(help="id of an embedded playlist")],
    k: Count = 10,
) -> None:
    """The playlists nearest to one."""
    from recsys.playlists.store import PlaylistModel, load_playlist_index

    model = PlaylistModel.load(folder)
    index = load_playlist_index(model)
    row = index.row(playlist)
    rows, cosines = index.neighbours.search(index.neighbours.vectors[row], k, exclude=row)
    for place, (found, cosine) in enumerate(zip(rows.tolist(), cosines.tolist(), strict=True), start=1):
        say(f"{place:3d}  {cosine:.4f}  {index.ids[found]}  {_glimpse(model, index.playlists[found])}")


@app.command()
def search(folder: Folder, tracks: Tracks, k: Count = 10) -> None:
    """The playlists that hold the most of some tracks, and then those nearest to them."""
    from recsys.playlists.search import search_tracks
    from recsys.playlists.store import PlaylistModel, load_playlist_index

    model = PlaylistModel.load(folder)
    index = load_playlist_index(model)
    wanted, unknown = model.tracks(_ids(tracks), "--tracks")
    _note_unknown(unknown)
    for place, hit in enumerate(search_tracks(model.encoder, index, wanted, k), start=1):
        holds = f"holds {hit.held} of {hit.asked}" if hit.held else "close"
        shown = _glimpse(model, index.playlists[hit.row])
        say(f"{place:3d}  {hit.cosine:.4f}  {holds}  {index.ids[hit.row]}  {shown}")


@app.command(name="continue")
def continue_(
    folder: Folder,
    seed: Annotated[str | None, typer.Option(help="track ids of the playlist so far, with commas")] = None,
    title: Annotated[str | None, typer.Option(help="instead: what the playlist is called")] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="tracks to add")] = 10,
    decoder: Annotated[str, typer.Option(help="one-shot or beam")] = "one-shot",
    groups: Annotated[int, typer.Option(min=1, help="beam: slates to choose from")] = 1,
    width: Annotated[int, typer.Option(min=1, help="beam: beams of a group")] = 2,
    diversity: Annotated[float, typer.Option(min=0, help="beam: price of a repetition, in nats")] = 1.0,
    diverse_in: Annotated[str | None, typer.Option(help="beam: column whose repetition costs")] = None,
    at_most: Annotated[list[str] | None, typer.Option(help="such as artist=2; may be repeated")] = None,
) -> None:
    """The next tracks of a playlist, or the first ones of a title."""
    from recsys.playlists.continuation import Diverse, diverse_beams, groups_of, nearest_tracks, one_shot
    from recsys.playlists.labels import track_column
    from recsys.playlists.store import PlaylistModel
    from recsys.playlists.titles import title_reader

    if decoder not in ("one-shot", "beam"):
        raise InputError(f"decoder `{decoder}` is unknown; known: one-shot, beam")
    if (seed is None) == (title is None):
        raise InputError("name what is continued: either --seed with track ids, or --title")
    if title is not None and decoder == "beam":
        raise InputError(
            "the beam reads the tracks of a seed: give --seed, or --decoder one-shot for a --title"
        )
    model = PlaylistModel.load(folder)
    limits = [_limit(model, text) for text in at_most or []]
    if title is not None:
        slates = [nearest_tracks(model.encoder, title_reader(model).vector(title), n, limits)]
    else:
        seeds, unknown = model.tracks(_ids(str(seed)), "--seed")
        _note_unknown(unknown)
        _note_windows(model, len(seeds[0]))
        if decoder == "one-shot":
            slates = list(one_shot(model.encoder, seeds, n, limits))
        else:
            shared = groups_of(track_column(model.items, diverse_in)) if diverse_in else None
            settings = Diverse(groups=groups, width=width, strength=diversity, shared=shared)
            slates = diverse_beams(model.encoder, seeds[0], n, settings, limits)
    for number, slate in enumerate(slates, start=1):
        if len(slates) > 1:
            say(f"slate {number}")
        found = slate[slate > 0]
        for place, track in enumerate(found.tolist(), start=1):
            say(f"{place:3d}  {_named(model, track)}")
        if len(found) < n:
            say(f"note: the limits leave {len(found)} tracks, not {n}")


@app.command(name="map")
def map_(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="HTML file to write", callback=writable)] = Path("playlists.html"),
    png: Annotated[Path | None, typer.Option(help="picture to write", callback=writable)] = None,
    label: LabelColumn = None,
    cluster: ClusterColumn = None,
    clusters: Clusters = 9,
) -> None:
    """A map of all embedded playlists, coloured by label: an HTML file of its own, and a PNG.

    It is also kept in FOLDER, until playlists are embedded anew: `recsys serve --playlists FOLDER` shows it.
    """
    import numpy as np

    from recsys.playlists.explore import LARGEST, PlaylistMap, laid_out, write_html, write_png
    from recsys.playlists.map_store import StoredMap, store_map
    from recsys.playlists.store import PlaylistModel, load_playlist_index

    model = PlaylistModel.load(folder)
    index = load_playlist_index(model)
    labels = _labels(model, label, cluster, clusters)
    drawn = np.sort(np.random.default_rng(model.config.seed).permutation(len(index.ids))[:LARGEST])
    playlists = index.playlists.take(drawn)
    found = PlaylistMap(
        places=laid_out(index.neighbours.vectors[drawn], model.config.seed),
        names=[str(index.ids[row]) for row in drawn.tolist()],
        label=labels.of(playlists),
        labels=labels.names,
        details=[f"{length} tracks" for length in playlists.lengths.tolist()],
    )
    title = f"Playlists of {folder.name}"
    write_html(found, out, title)
    store_map(model, index, StoredMap(drawn, found.places, found.label, found.labels))
    if png:
        write_png(found, png, title)
    say(f"wrote {out}" + (f" and {png}" if png else "") + f", and kept the map in {folder}")


def _labels(model: PlaylistModel, label: str | None, cluster: str | None, clusters: int) -> Labels:
    """Labels of the tracks: a column, or clusters made from the playlists that training saw."""
    import numpy as np

    from recsys.playlists.labels import cluster_labels, column_labels, track_column

    if (label is None) == (cluster is None):
        raise InputError(
            "name what labels the tracks: either --label COLUMN, such as genre, or --cluster COLUMN"
        )
    if label:
        return column_labels(track_column(model.items, label))
    trained = model.prepared_data()
    seen = trained.sequences.take(np.flatnonzero(~model.kept_out(trained)))
    return cluster_labels(track_column(model.items, str(cluster)), seen, clusters, model.config.seed)


def _limit(model: PlaylistModel, text: str) -> Limit:
    from recsys.playlists.continuation import Limit, groups_of
    from recsys.playlists.labels import track_column

    column, _, most = text.partition("=")
    if not most.isdecimal() or int(most) < 1:
        raise InputError(f"--at-most `{text}` is no limit; expected COLUMN=NUMBER, such as artist=2")
    return Limit(groups_of(track_column(model.items, column)), int(most))


def _ids(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _note_unknown(unknown: Sequence[object]) -> None:
    if unknown:
        say(f"note: unknown, ignored: {', '.join(map(str, unknown))}")


def _note_windows(model: PlaylistModel, longest: int) -> None:
    limit = model.encoder.max_history
    if longest > limit:
        say(
            f"note: the longest playlist has {longest:,} tracks; those of more than {limit} are read in "
            f"windows of {limit} that overlap by half, and have the mean of their vectors; max_length sets it"
        )


def _named(model: PlaylistModel, track: int) -> str:
    title = model.items["title"][track - 1].as_py() if "title" in model.items.column_names else None
    return f"{model.items['id'][track - 1]} {title or ''}".strip()


def _glimpse(model: PlaylistModel, tracks: object) -> str:
    """Length and first tracks of a playlist."""
    import numpy as np

    found = np.asarray(tracks)
    return f"{len(found)} tracks: " + ", ".join(_named(model, track) for track in found[:3].tolist())
