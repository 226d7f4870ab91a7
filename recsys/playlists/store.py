"""The folder of a trained playlist encoder.

    manifest.json        format, encoder, version, hashes of the files below, data set
    config.json          the settings
    weights.safetensors  the encoder
    items.parquet        index, id, count, title and attributes of the tracks
    titles.safetensors   the tower that reads titles, and tokenizer.json of its own, where playlists have any
    index/               vectors of all playlists of a data set, their forest, and perhaps a map of them

Nothing in it is a pickle. The folder appears complete or not at all; so does the index, whose index.json
names its files by their hashes and is replaced last. Shapes: `S` playlists, `V` tracks, `D` width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
from numpy.typing import NDArray
from torch import nn

from recsys import schema
from recsys.bundle import TOKENIZER_FILE, WEIGHTS_FILE, check_vocabulary, written_folder
from recsys.dataset import PreparedData, read_manifest
from recsys.errors import InputError, UnknownItem
from recsys.files import alone, draft_file, put_in_place, written_file
from recsys.models.protocol import Encoder
from recsys.playlists.embedding import embed
from recsys.playlists.neighbours import Neighbours
from recsys.playlists.settings import PlaylistsConfig, build_playlists_config
from recsys.playlists.title_tower import TitleTower
from recsys.playlists.training import ENCODERS, held_out
from recsys.sequences import Ragged
from recsys.vocabulary import ItemId, Vocabulary

KIND = "playlist encoder"
CONFIG_FILE, TITLES_FILE = "config.json", "titles.safetensors"
INDEX_FOLDER, INDEX_FILE = "index", "index.json"
INDEX_PARTS = {"vectors": "vectors-{}.parquet", "forest": "forest-{}.ann", "map": "map-{}.parquet"}
"""Files of the index, named by the start of their SHA-256."""


@dataclass(frozen=True)
class PlaylistModel:
    """A trained encoder with the tracks that it knows.

    Attributes:
        folder: where it was read from.
        manifest: the content of manifest.json.
        config: the settings.
        vocabulary: the V tracks.
        items: items.parquet; row j is track index j+1.
        encoder: in evaluation mode on the CPU.
    """

    folder: Path
    manifest: dict[str, Any]
    config: PlaylistsConfig
    vocabulary: Vocabulary
    items: pa.Table
    encoder: Encoder

    @classmethod
    def load(cls, folder: Path | str) -> PlaylistModel:
        """Read a folder and check its hashes.

        Raises:
            InputError: it is no such folder, of a newer format, or a file is missing or was changed.
        """
        path = Path(folder)
        remedy = "expected the folder of a playlist encoder, which `recsys playlists train` makes"
        manifest = read_manifest(path, remedy=remedy)
        if manifest.get("kind") != KIND:
            raise InputError(f"{path} holds something else; {remedy}")
        if changed := schema.changed_file(path, manifest):
            raise InputError(
                f"{changed} is missing, or was changed or damaged since it was written; copy the folder anew "
                "or train again"
            )
        tree = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
        config = build_playlists_config(tree, where=str(path / CONFIG_FILE))
        items = pq.read_table(path / schema.ITEMS_FILE)
        build, _ = ENCODERS[config.model.name]
        encoder = build(config, items.num_rows)
        encoder.load_state_dict(safetensors.torch.load_file(path / WEIGHTS_FILE))
        encoder.eval().requires_grad_(False)
        vocabulary = Vocabulary(items[schema.ITEM_ID])
        return cls(path, manifest, config, vocabulary, items, cast(Encoder, encoder))

    @property
    def version(self) -> str:
        """Short hash of weights, tracks and settings."""
        return str(self.manifest["model_version"])

    def prepared_data(self, path: Path | str | None = None) -> PreparedData:
        """The data set that it was trained on, or another of the same tracks.

        Raises:
            InputError: it is not there, or of other tracks.
        """
        data = PreparedData.load(path or self.manifest["data"]["path"])
        check_vocabulary(self.vocabulary, data, where=str(self.folder))
        return data

    def kept_out(self, data: PreparedData) -> NDArray[np.bool_]:
        """(S,) playlists that training did not see: all, of another data set than it was trained on."""
        if data.digest != self.manifest["data"]["content_digest"]:
            return np.ones(len(data.sequences), dtype=bool)
        return held_out(self.config, len(data.sequences))

    def tracks(self, ids: Sequence[ItemId], what: str) -> tuple[Ragged, list[ItemId]]:
        """One playlist of track ids as indices, and the ids that are unknown.

        Raises:
            InputError: there is no id, or all are unknown; `what` names the list.
        """
        if not ids:
            raise InputError(f"{what} is empty; give at least one track id")
        found = self.vocabulary.encode(ids)
        unknown = [each for each, index in zip(ids, found, strict=True) if index == schema.PAD]
        if len(unknown) == len(ids):
            shown = ", ".join(map(str, unknown[:5]))
            example = self.vocabulary.decode([1])[0]
            raise InputError(
                f"{what} has {len(ids)} tracks and none of them is known ({shown}); expected ids of the "
                f"encoder's {schema.ITEMS_FILE}, such as {example}"
            )
        return Ragged.of([found[found != schema.PAD]]), unknown


def save_playlist_model(
    folder: Path | str,
    encoder: nn.Module,
    config: PlaylistsConfig,
    data: PreparedData,
    titles: TitleTower | None = None,
) -> PlaylistModel:
    """Write an encoder; an older one at the same place is replaced.

    Args:
        folder: where to.
        encoder: trained.
        config: its settings.
        data: what it was trained on.
        titles: the tower that reads titles, if there is one.

    Raises:
        InputError: something else stands at `folder`.
    """
    with written_folder(Path(folder), kind=KIND) as draft:
        state = {name: tensor.detach().contiguous() for name, tensor in encoder.state_dict().items()}
        safetensors.torch.save_file(state, draft / WEIGHTS_FILE)
        if titles is not None:
            titles.save(draft / TITLES_FILE, draft / TOKENIZER_FILE)
        (draft / CONFIG_FILE).write_text(config.model_dump_json(indent=2), encoding="utf-8")
        pq.write_table(data.items, draft / schema.ITEMS_FILE)
        hashes = {file.name: schema.file_hash(file) for file in sorted(draft.iterdir())}
        manifest = {
            "format_version": schema.FORMAT_VERSION,
            "kind": KIND,
            "model": config.model.name,
            "model_version": hashlib.sha256("\n".join(hashes.values()).encode()).hexdigest()[:12],
            "files": hashes,
            "data": {"path": str(data.path.resolve()), "content_digest": data.digest},
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        (draft / schema.MANIFEST_FILE).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    return PlaylistModel.load(folder)


@dataclass(frozen=True)
class PlaylistIndex:
    """Every playlist of a data set with its vector.

    Attributes:
        ids: (S,) original ids; playlists without a track are not in it.
        playlists: S ragged rows of track indices.
        neighbours: the forest over their vectors.
        file: name of the one that the first three are stored in.
        titles: (S,) what their owners call them, null where they do not, or None.
    """

    ids: pa.Array
    playlists: Ragged
    neighbours: Neighbours
    file: str
    titles: pa.Array | None = None

    def row(self, playlist: ItemId) -> int:
        """Row of a playlist id.

        Raises:
            UnknownItem: there is none of that id.
        """
        found = self._numbers.index(playlist)
        if not found:
            raise UnknownItem(
                f"playlist `{playlist}` is not among the {len(self.ids)} embedded ones, such as "
                f"{self.ids[0]}; embed the data set that holds it with `recsys playlists embed`"
            )
        return found - 1

    @cached_property
    def _numbers(self) -> Vocabulary:
        """Row + 1 of each id."""
        return Vocabulary(self.ids)


def build_playlist_index(model: PlaylistModel, data: PreparedData) -> PlaylistIndex:
    """Embed every playlist of a data set, index them, and put that in force in the model's folder."""
    rows = np.flatnonzero(data.sequences.lengths)
    playlists, ids = data.sequences.take(rows), data.ids.take(pa.array(rows))
    vectors = embed(model.encoder, playlists)
    neighbours = Neighbours.build(vectors, model.config.seed)
    offsets = pa.array(playlists.offsets)
    flat = pa.array(neighbours.vectors.reshape(-1))
    titles = None if data.titles is None else data.titles.take(pa.array(rows))
    table = pa.table(
        {
            schema.SEQUENCE_ID: ids,
            schema.ITEMS: pa.LargeListArray.from_arrays(offsets, pa.array(playlists.values)),
            "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
            **({} if titles is None else {schema.SEQUENCE_TITLE: titles}),
        }
    )
    folder = model.folder / INDEX_FOLDER
    folder.mkdir(exist_ok=True)
    with alone(folder):  # or another run would drop what is written, but not yet in force
        stored = {
            "vectors": write_part(model, "vectors", lambda draft: pq.write_table(table, draft)),
            "forest": write_part(model, "forest", lambda draft: neighbours.forest.save(str(draft))),
        }
        put_in_force(model, {"model_version": model.version, "count": len(ids), **stored})
    return PlaylistIndex(ids, playlists, neighbours, stored["vectors"], titles)


def write_part(model: PlaylistModel, part: str, write: Callable[[Path], object]) -> str:
    """Let `write` write a file of the index, which the caller has locked; its name, for index.json."""
    folder = model.folder / INDEX_FOLDER
    draft = draft_file(folder)
    write(draft)
    name = INDEX_PARTS[part].format(schema.file_hash(draft)[:12])
    put_in_place(draft, folder / name)
    return name


def put_in_force(model: PlaylistModel, content: dict[str, Any]) -> None:
    """Replace index.json, and drop the files that it names no longer; the caller has locked the index."""
    folder = model.folder / INDEX_FOLDER
    with written_file(folder / INDEX_FILE) as draft:
        draft.write_text(json.dumps(content, indent=2), encoding="utf-8")
    for file in folder.iterdir():
        if file.name not in (INDEX_FILE, *(content.get(part) for part in INDEX_PARTS)):
            file.unlink()


def read_index_file(model: PlaylistModel) -> dict[str, Any]:
    """The content of index.json.

    Raises:
        InputError: there is none, or it is of another model.
    """
    folder = model.folder / INDEX_FOLDER
    try:
        stated: dict[str, Any] = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        version = stated["model_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(model, error) from error
    if version != model.version:
        raise InputError(f"{folder} is of model {version}, not {model.version}; {_remedy(model)}")
    return stated


def part_file(model: PlaylistModel, stated: dict[str, Any], part: str) -> Path:
    """A file of the index, whose content is what its name says.

    Raises:
        InputError: index.json does not name it, it is missing, or was changed.
    """
    file = model.folder / INDEX_FOLDER / Path(str(stated.get(part))).name
    if not file.is_file() or INDEX_PARTS[part].format(schema.file_hash(file)[:12]) != file.name:
        raise InputError(f"{file} is missing, or was changed or damaged; {_remedy(model)}")
    return file


def _remedy(model: PlaylistModel) -> str:
    return f"run `recsys playlists embed {model.folder}`"


def _unreadable(model: PlaylistModel, error: Exception) -> InputError:
    folder = model.folder / INDEX_FOLDER
    return InputError(f"{folder} has no readable index of playlists ({error}); {_remedy(model)}")


def load_playlist_index(model: PlaylistModel) -> PlaylistIndex:
    """The index in a model's folder.

    Raises:
        InputError: there is none, it is of another model, or a file is missing or was changed.
    """
    stated = read_index_file(model)
    vectors, forest = (part_file(model, stated, part) for part in ("vectors", "forest"))
    try:
        table = pq.read_table(vectors)
        lists, ids = table[schema.ITEMS].combine_chunks(), table[schema.SEQUENCE_ID].combine_chunks()
        flat = np.asarray(table["vector"].combine_chunks().flatten(), dtype=np.float32)
        playlists = Ragged(
            np.asarray(lists.values, dtype=np.int32), np.asarray(lists.offsets, dtype=np.int64)
        )
        neighbours = Neighbours.load(flat.reshape(len(ids), -1), forest)
        has_titles = schema.SEQUENCE_TITLE in table.column_names
        titles = table[schema.SEQUENCE_TITLE].combine_chunks() if has_titles else None
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(model, error) from error
    return PlaylistIndex(ids, playlists, neighbours, vectors.name, titles)
