"""The benchmark of playlist vectors: every encoder on the same held-out playlists.

    python -m tests.benchmarks.playlists --config configs/spotify.yaml --cluster artist_id \\
        --owner artist_id --removed local_test.csv data.path=PATH
    python -m tests.benchmarks.playlists --config configs/sample-playlists.yaml --label genre --owner artist
    python -m tests.benchmarks.playlists --scale 100000

The first two train every encoder at the same dimension on four fifths of the playlists and add a row each to
playlists.jsonl: probes, neighbours, and continuations of held-out endings and of the tracks that stand in
`--removed` (playlist, track; two columns with a header), beside the models that count. What has its row is
not run again; `--encoders` names some. The third measures how long many playlists of 50 tracks take.
`python -m tests.benchmarks.readme` makes the README's tables.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from data_prep.prepare import prepare
from recsys.config import load_config
from recsys.dataset import PreparedData
from recsys.encoding import item_vectors
from recsys.environment import environment
from recsys.floors import FLOORS
from recsys.models import fit_counting
from recsys.models.protocol import CountingModel, Encoder
from recsys.playlists.continuation import Diverse, diverse_beams, groups_of, one_shot
from recsys.playlists.embedding import embed
from recsys.playlists.judging import SEEDS, endings, judge, score_slates
from recsys.playlists.labels import Labels, cluster_labels, column_labels, track_column
from recsys.playlists.neighbours import Neighbours
from recsys.playlists.pooled import fit_pooled
from recsys.playlists.preference import preferred_order
from recsys.playlists.settings import PlaylistsConfig, playlists_config
from recsys.playlists.training import fit_playlists, held_out
from recsys.sequences import Ragged
from tests.benchmarks import playlist_oracle

RESULTS = Path(__file__).with_name("playlists.jsonl")
ENCODERS = {
    "word2vec, mean": ["model=word2vec"],
    "word2vec, SIF": ["model=sif"],
    "GRU": ["model=seq2seq", "model.epochs=15"],
    "GRU, reversed source": ["model=seq2seq", "model.epochs=15", "model.reverse=true"],
    "GRU, bidirectional": ["model=seq2seq", "model.epochs=15", "model.bidirectional=true"],
    "GRU, attention": ["model=seq2seq", "model.epochs=15", "model.attention=true"],
    "LSTM": ["model=seq2seq", "model.epochs=15", "model.cell=lstm"],
    "ours": [],
    "ours, order: set": ["order=set"],
}
"""Label -> settings; the rest are the defaults, the dimension among them."""
OURS = {"sample-playlists": ["model.epochs=18", "model.learning_rate=4e-3", "model.track_rate=0.2"]}
"""Data set -> settings of our encoder that are its own: few tracks, which many playlists tell of."""
COUNTING = ("popularity", "Markov chain, order 1", "item-kNN, whole history")
LONGEST = 500
DIVERSE_PLAYLISTS = 60
"""Held-out playlists that diverse beam search continues after 10 tracks."""
STRENGTHS = (0.0, 0.25, 0.5, 1.0)
CATALOGUE, STYLES = 20_000, 40
"""Of the measurement of time: tracks, and the parts of the catalogue that playlists keep to."""
SCALE_QUERIES = 500

Slates = NDArray[np.int64]


class Bench:
    """A data set, who is held out, what is asked, and where the rows go."""

    def __init__(self, asked: argparse.Namespace) -> None:
        config = load_config(asked.config, asked.overrides)
        self.data = PreparedData.load(prepare(config).path)
        self.name = config.name
        settings = playlists_config()
        out = held_out(settings, len(self.data.sequences))
        self.held_ids = self.data.ids.filter(pa.array(out)).to_pylist()
        self.held = self.data.sequences.take(np.flatnonzero(out))
        self.training = self.data.sequences.take(np.flatnonzero(~out))
        self.labels = self._labels(asked)
        self.owner = groups_of(track_column(self.data.items, asked.owner))
        self.tasks = {f"after {known}": endings(self.held, known) for known in SEEDS}
        if asked.removed:
            self.tasks["removed"] = self._removed(asked.removed)

    def _labels(self, asked: argparse.Namespace) -> Labels:
        if asked.label:
            return column_labels(track_column(self.data.items, asked.label))
        return cluster_labels(track_column(self.data.items, asked.cluster), self.training, 9, seed=0)

    def _removed(self, file: Path) -> tuple[Ragged, Ragged]:
        """Whole playlists, and the tracks that were taken out of them before."""
        table = pl.read_csv(file)
        playlist, track = table.columns
        rows = {name: row for row, name in enumerate(self.data.ids.to_pylist())}
        lists: dict[int, list[int]] = {}
        for name, item in table.select(playlist, track).iter_rows():
            index = self.data.vocabulary.index(item)
            if name in rows and index and index not in self.data.sequences[rows[name]]:
                lists.setdefault(rows[name], []).append(index)
        return self.data.sequences.take(list(lists)), Ragged.of(list(lists.values()))

    def add(self, label: str, settings: str, **fields: Any) -> None:  # noqa: ANN401 -- JSON
        row = {"data": self.name, "digest": self.data.digest[:12], "encoder": label, "settings": settings}
        row |= {
            "date": datetime.now(UTC).date().isoformat(),
            **fields,
            **environment().model_dump(exclude={"command"}),
        }
        with RESULTS.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")

    def done(self, label: str, settings: str) -> bool:
        wanted = (self.name, self.data.digest[:12], label, settings)
        keys = ("data", "digest", "encoder", "settings")
        return any(tuple(row.get(key) for key in keys) == wanted for row in read())

    def scored(self, slates: dict[str, Slates], table: NDArray[np.float32] | None) -> dict[str, Any]:
        """Mean of every measure of each task's slates."""
        return {
            name: {
                measure: float(values.mean())
                for measure, values in score_slates(
                    slates[name], targets, table, {"artist": self.owner}
                ).items()
            }
            for name, (_, targets) in self.tasks.items()
        }


def read() -> list[dict[str, Any]]:
    """All rows measured so far."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    return [json.loads(line) for line in lines]


def measure_encoder(bench: Bench, label: str, config: PlaylistsConfig) -> None:
    """Train, judge and continue."""
    settings = config.model_dump_json()
    if bench.done(label, settings):
        return
    started = time.process_time()
    model = cast(Encoder, fit_playlists(config, bench.data))
    seconds = time.process_time() - started
    judged = judge(model, bench.held, bench.labels).to_json()
    slates = {name: one_shot(model, seeds, LONGEST) for name, (seeds, _) in bench.tasks.items()}
    continued = bench.scored(slates, item_vectors(model))
    found = {"cpu_seconds": seconds, **judged, "continuation": continued}
    bench.add(label, settings, **found)
    print(label, json.dumps(found), flush=True)


def measure_oracles(bench: Bench) -> None:
    """What was planted, asked the same: of the sample alone."""
    truth = playlist_oracle.planted(bench.held_ids, track_column(bench.data.items, "year"), bench.labels)
    for label, found in playlist_oracle.judged(truth, bench.held, bench.labels).items():
        if not bench.done(label, playlist_oracle.SETTINGS):
            bench.add(label, playlist_oracle.SETTINGS, **found)
            print(label, json.dumps(found), flush=True)


def measure_order(bench: Bench, config: PlaylistsConfig) -> None:
    """Which order the training playlists prefer."""
    label, settings = "order", config.model_dump_json()
    if not bench.done(label, settings):
        found = preferred_order(config, bench.data)
        bench.add(label, settings, preference=found.to_json())
        print("\n".join(found.lines()), flush=True)


def measure_decoders(bench: Bench, config: PlaylistsConfig) -> None:
    """Train our encoder and continue playlists at once and by diverse beam search."""
    label, settings = "ours, decoders", config.model_dump_json()
    if not bench.done(label, settings):
        found = diverse(bench, cast(Encoder, fit_playlists(config, bench.data)))
        bench.add(label, settings, diverse=found)
        print(label, json.dumps(found), flush=True)


def diverse(bench: Bench, model: Encoder) -> dict[str, dict[str, float]]:
    """What diverse beam search makes of R-precision and of the artists, by strength; and one-shot."""
    seeds, targets = bench.tasks[f"after {SEEDS[-1]}"]
    chosen = np.random.default_rng(0).permutation(len(seeds))[:DIVERSE_PLAYLISTS]
    seeds, targets = seeds.take(chosen), targets.take(chosen)
    longest, table = int(targets.lengths.max()), item_vectors(model)
    made = {"one-shot": one_shot(model, seeds, longest)}
    for strength in STRENGTHS:
        beams = Diverse(groups=1, width=2, strength=strength, shared=bench.owner)
        slates = np.zeros((len(seeds), longest), dtype=np.int64)
        for row in range(len(seeds)):
            n = int(targets.lengths[row])
            (slate,) = diverse_beams(model, seeds[row], n, beams, table=table)
            slates[row, : len(slate)] = slate
        made[f"beam, strength {strength:g}"] = slates
    return {
        name: {
            measure: float(values.mean())
            for measure, values in score_slates(slates, targets, table, {"artist": bench.owner}).items()
        }
        for name, slates in made.items()
    }


def measure_counting(bench: Bench, label: str) -> None:
    """Fit a model that counts and continue."""
    if bench.done(label, "counting"):
        return
    fitted = fit_counting(FLOORS[label], bench.training, None, len(bench.data.vocabulary))
    slates = {name: counted(fitted, seeds) for name, (seeds, _) in bench.tasks.items()}
    continued = bench.scored(slates, None)
    bench.add(label, "counting", continuation=continued)
    print(label, json.dumps(continued), flush=True)


def counted(model: CountingModel, seeds: Ragged) -> Slates:
    """(B, 500) best tracks of a model that counts."""
    slates = []
    for start in range(0, len(seeds), 256):
        some = seeds.take(np.arange(start, min(start + 256, len(seeds))))
        scores = model.scores(some).toarray() + model.prior
        scores[some.rows, some.values - 1] = -np.inf
        slates.append(np.argsort(-scores, axis=1, kind="stable")[:, :LONGEST] + 1)
    return np.concatenate(slates)


def measure_scale(count: int) -> None:
    """Embed and index playlists of 50 tracks, and ask for similar ones: time, and what is found."""
    rng = np.random.default_rng(0)
    offsets = np.arange(count + 1, dtype=np.int64) * 50
    style = np.repeat(rng.integers(STYLES, size=count), 50)
    tracks = style * (CATALOGUE // STYLES) + rng.integers(CATALOGUE // STYLES, size=count * 50) + 1
    playlists = Ragged(tracks.astype(np.int32), offsets)
    # What is trained costs what any encoder of this size does; a thousand playlists are soon learnt.
    few = playlists.take(np.arange(min(count, 1000)))
    model = cast(Encoder, fit_pooled(playlists_config(["model.epochs=1"]), few, CATALOGUE))
    started = time.perf_counter()
    vectors = embed(model, playlists)
    embedded = time.perf_counter()
    index = Neighbours.build(vectors)
    indexed = time.perf_counter()
    asked = rng.permutation(count)[:SCALE_QUERIES]
    times, found = [], []
    for row in asked.tolist():
        start = time.perf_counter()
        found.append(index.search(vectors[row], 10, exclude=row)[0])
        times.append(time.perf_counter() - start)
    measured = {
        "data": "scale",
        "playlists": count,
        "catalogue": CATALOGUE,
        "embed_s": embedded - started,
        "index_s": indexed - embedded,
        "query_ms": float(np.median(times)) * 1e3,
        "query_ms_99": float(np.quantile(times, 0.99)) * 1e3,
        "recall": recall(index, asked, found),
        "date": datetime.now(UTC).date().isoformat(),
        **environment().model_dump(exclude={"command"}),
    }
    with RESULTS.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(measured) + "\n")
    print(json.dumps(measured))


def recall(index: Neighbours, asked: NDArray[np.int64], found: list[NDArray[np.int64]]) -> float:
    """Share of the nearest playlists by the exact cosine that the forest's answers hold."""
    shares = []
    for row, answers in zip(asked.tolist(), found, strict=True):
        cosines = index.vectors @ index.vectors[row]
        cosines[row] = -np.inf
        exact = np.argpartition(-cosines, len(answers))[: len(answers)]
        shares.append(np.isin(exact, answers).mean())
    return float(np.mean(shares))


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path)
    parser.add_argument("--label", help="column of the tracks")
    parser.add_argument("--cluster", help="column to cluster by company, where there is no label")
    parser.add_argument("--owner", help="column of the artist")
    parser.add_argument("--removed", type=Path, help="tracks taken out of the playlists before")
    parser.add_argument(
        "--encoders", default=",".join(["counting", *map(_key, ENCODERS), "order", "decoders"])
    )
    parser.add_argument("--scale", type=int, help="measure the time of so many playlists instead")
    parser.add_argument("overrides", nargs="*")
    asked = parser.parse_args()
    if asked.scale:
        measure_scale(asked.scale)
        return
    bench = Bench(asked)
    wanted = asked.encoders.split(",")
    for label in COUNTING if "counting" in wanted else ():
        measure_counting(bench, label)
    for label, overrides in ENCODERS.items():
        if _key(label) in wanted:
            own = OURS.get(bench.name, []) if label.startswith("ours") else []
            measure_encoder(bench, label, playlists_config([*overrides, *own]))
    if bench.name == "sample-playlists":
        measure_oracles(bench)
    ours = playlists_config(OURS.get(bench.name, []))
    if "order" in wanted:
        measure_order(bench, ours)
    if "decoders" in wanted:
        measure_decoders(bench, ours)


def _key(label: str) -> str:
    """The label as `--encoders` takes it, without commas and blanks."""
    return label.replace(", ", "-").replace(": ", "-").replace(" ", "-")


if __name__ == "__main__":
    main()
