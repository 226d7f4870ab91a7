"""The public libraries RecTools, RePlay and RecBole, trained by scripts made for them, evaluated by us.

Each library lives in an environment of its own, BENCH_DIR/LIBRARY/bin/python, with its data beside it. Its
script trains the model for the given seconds and scores its own top-100 lists; `peer_scores.py` then takes
the model's score of every item, which our evaluation ranks by any protocol.

Shapes: `S` users, `V` items in our order; `U` users of the scripts' data, the same people in the order of
their ids, and its items likewise; `B` users of a chunk, `K` items of a list.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.sequences import Ragged
from tests.benchmarks.results import Row, new_row

LIBRARIES = {"rectools": "RecTools", "replay": "RePlay", "recbole": "RecBole"}
"""Name on the command line and of the environment -> name in the tables."""
MODELS = {"bert4rec": "BERT4Rec", "sasrec": "SASRec"}
SIZES = ("matched", "documented")
DATA = {"ml-100k": "ml-100k", "amazon-beauty-5core": "beauty", "lastfm": "lastfm"}
"""Our name of a data set -> the scripts'."""
LIST_LENGTH = 100
ALL_SECONDS = ("--patience", "1000")
"""No early stop: a library uses the time that it is given, and keeps the weights of its best validation."""


@dataclass(frozen=True)
class Peer:
    """One training of a library's model.

    Attributes:
        library: a key of `LIBRARIES`.
        model: a key of `MODELS`.
        sizes: matched (2 layers, 2 heads, width 64) or documented (the library's own defaults).
        seconds: training time; the script ends the epoch in which it runs out.
        seed: of the training.
    """

    library: str
    model: str
    sizes: str
    seconds: int
    seed: int

    @property
    def settings(self) -> str:
        """What was asked of the script; batch and learning rate stand in it."""
        return f"{self.sizes} size, {self.seconds} s, best epoch by validation"


@dataclass(frozen=True)
class Trained:
    """What a training left.

    Attributes:
        scores_UV: float32 in the order of the scripts' data, memory-mapped.
        lists_UK: the library's own top 100, seen items removed; -1 where it has fewer.
        quality: the script's row: its data's own metrics of those lists.
        training: the script's row: seconds, epochs, versions.
    """

    scores_UV: NDArray[np.float32]
    lists_UK: NDArray[np.int32]
    quality: dict[str, Any]
    training: dict[str, Any]


@dataclass(frozen=True)
class Order:
    """Where our users and items stand in the scripts' data: (S,) and (V,) places from 0."""

    users_S: NDArray[np.int64]
    items_V: NDArray[np.int64]


def parse_peers(text: str, seconds: int, seeds: int) -> list[Peer]:
    """The trainings that `replay,rectools/sasrec/documented` asks for; bert4rec, matched where not named.

    Raises:
        InputError: a library, model or size is unknown.
    """
    peers = []
    for name in filter(None, text.split(",")):
        library, model, sizes, *rest = [*name.strip().split("/"), "", ""]
        if len(rest) > 2:
            raise InputError(f"`{name}` in --peers {text} has too many parts; expected LIBRARY/MODEL/SIZES")
        model, sizes = model or "bert4rec", sizes or "matched"
        for word, known in ((library, LIBRARIES), (model, MODELS), (sizes, SIZES)):
            if word not in known:
                raise InputError(f"`{word}` in --peers {text} is unknown; known: {', '.join(known)}")
        peers += [Peer(library, model, sizes, seconds, seed) for seed in range(seeds)]
    return peers


def train_peer(peer: Peer, data: str, bench: Path, bench_dir: Path, work: Path) -> Trained:
    """Train, or read what an earlier call left in its folder under `work`.

    Args:
        peer: what to train.
        data: our name of the data set.
        bench: folder of the scripts.
        bench_dir: folder of the environments and the scripts' data.
        work: folder to keep scores, lists and output in.

    Raises:
        InputError: the environment or its data is missing, or the script fails.
    """
    sizes = "" if peer.sizes == "matched" else f"-{peer.sizes}"
    folder = work / f"{peer.library}-{peer.model}{sizes}-{peer.seconds}s-seed{peer.seed}"
    scores, lists, output = folder / "scores.npy", folder / "lists.npy", folder / "output.txt"
    if not scores.exists():
        python = bench_dir.absolute() / peer.library / "bin/python"
        script = bench.absolute() / f"run_{peer.library}.py"
        for needed in (python, script, bench_dir / "data" / f"{DATA[data]}.npz"):
            if not needed.exists():
                raise InputError(
                    f"there is no {needed}; make it with BENCH_DIR={bench_dir} bash {bench}/setup.sh"
                )
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / "draft.npy"
        adapter = Path(__file__).with_name("peer_scores.py")
        asked = [DATA[data], peer.model, str(peer.seconds), "--seed", str(peer.seed), *ALL_SECONDS]
        command = [str(python), str(adapter), peer.sizes, str(script), str(draft.absolute()), *asked]
        _run(command, bench_dir, output)
        shutil.copyfile(bench_dir / "topk" / f"{peer.library}_{peer.model}_{DATA[data]}.npy", lists)
        draft.rename(scores)
    said = [json.loads(line[4:]) for line in output.read_text().splitlines() if line.startswith("ROW {")]
    rows = {row["kind"]: row for row in said}
    return Trained(np.load(scores, mmap_mode="r"), np.load(lists), rows["quality"], rows["train"])


def _run(command: list[str], bench_dir: Path, output: Path) -> None:
    output.write_text(run_script(command, bench_dir, output.with_name("errors.txt")))


def run_script(command: list[str], bench_dir: Path, errors: Path) -> str:
    """What one of the libraries' scripts prints.

    Args:
        command: Python of the library's environment, the script and its arguments.
        bench_dir: folder of the environments and the scripts' data.
        errors: file for what it complains of.

    Raises:
        InputError: it fails.
    """
    environment = {**os.environ, "BENCH_DIR": str(bench_dir.absolute())}
    for name in ("PYTHONPATH", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):  # ours; theirs wait as PyTorch does
        environment.pop(name, None)
    with errors.open("w") as complained:
        done = subprocess.run(
            command, env=environment, cwd=bench_dir, stdout=subprocess.PIPE, stderr=complained, text=True
        )
    if done.returncode:
        last = (errors.read_text().strip() or "no message").splitlines()[-1]
        script = next(word for word in command if Path(word).name.startswith("run_"))
        raise InputError(f"{script} failed with exit code {done.returncode}: {last}; see {errors}")
    return done.stdout


def order_of(data: PreparedData, npz: Path) -> Order:
    """Match our users and items with the scripts' data, and check that every sequence is the same.

    Raises:
        InputError: there is no such file, or it holds other sequences.
    """
    if not npz.exists():
        raise InputError(f"there is no {npz}; the benchmark's setup.sh makes it")
    with np.load(npz) as file:
        theirs = Ragged(file["items"].astype(np.int32), file["off"].astype(np.int64))
        n_items = int(file["n_items"])
    order = Order(_places(data.ids), _places(data.vocabulary.ids))
    same_size = (len(data.ids), len(data.vocabulary)) == (len(theirs), n_items)
    if same_size:
        matched = theirs.take(order.users_S)
        ours = order.items_V[data.sequences.values - 1]
        same = np.array_equal(matched.offsets, data.sequences.offsets) and np.array_equal(
            matched.values, ours
        )
    if not (same_size and same):
        raise InputError(
            f"{npz} holds other sequences than {data.path}; prepare ours without cleaning, theirs by setup.sh"
        )
    return order


def _places(ids: pa.Array) -> NDArray[np.int64]:
    """Rank of each id, from 0; ids that are numbers go by their value."""
    values = np.array(ids.to_pylist())
    if values.dtype.kind == "U" and np.char.isdigit(values).all():
        values = values.astype(np.int64)
    places = np.empty(len(values), dtype=np.int64)
    places[np.argsort(values, kind="stable")] = np.arange(len(values))
    return places


def recorded(
    scores_UV: NDArray[np.float32], data: PreparedData, order: Order
) -> Callable[[Ragged], NDArray[np.float32]]:
    """A scorer that answers test histories with the scores recorded for them.

    Equal histories of two users have equal scores, so a history is known by its items.
    """
    targets = data.targets("test")
    places = {targets.histories[t].tobytes(): row for t, row in enumerate(order.users_S[targets.rows])}

    def score(histories: Ragged) -> NDArray[np.float32]:
        rows_B = [places[histories[b].tobytes()] for b in range(len(histories))]
        scores_BV: NDArray[np.float32] = scores_UV[rows_B][:, order.items_V]
        return scores_BV

    return score


def list_scores(lists_UK: NDArray[np.int32], n_items: int) -> NDArray[np.float32]:
    """(U, V) scores that rank as the lists do: K for the first of K, 1 for the last, 0 for all others."""
    scores_UV = np.zeros((len(lists_UK), n_items), dtype=np.float32)
    users, places = np.nonzero(lists_UK >= 0)
    scores_UV[users, lists_UK[users, places]] = lists_UK.shape[1] - places
    return scores_UV


def own_metrics(quality: dict[str, Any]) -> dict[str, float]:
    """What the script measured on its lists, under our names."""
    return {
        name.lower(): quality[name] for name in ("HR@10", "NDCG@10", "MRR@10", "HR@20") if name in quality
    }


def measured_apart(file: Path, data: str) -> list[Row]:
    """Rows of an earlier run of the libraries' scripts, from its results file: its metrics, no interval.

    Raises:
        InputError: there is no such file.
    """
    if not file.exists():
        raise InputError(f"there is no {file}; expected the results file of the libraries' benchmark")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows = [row for row in rows if row.get("dataset") == DATA.get(data) and row.get("peer") in LIBRARIES]
    versions = {
        (row["peer"], row["model"]): {LIBRARIES[row["peer"]]: row["version"], "torch": row["torch"]}
        for row in rows
        if row["kind"] == "train" and "version" in row
    }
    return [
        new_row(
            data=data,
            digest=None,
            library=LIBRARIES[row["peer"]],
            model=MODELS.get(row["model"], row["model"]),
            settings=f"matched size, {row['budget_s']:.0f} s, measured apart",
            seed=42,
            split="test",
            protocol="full",
            seen_items="removed",
            users=row["n_users"],
            metrics={name: {"mean": value} for name, value in own_metrics(row).items()},
            seconds=row["train_s"],
            best_epoch=row["best_at"][1],
            versions=versions.get((row["peer"], row["model"]), {}),
        )
        for row in rows
        if row["kind"] == "quality"
    ]
