"""The map of playlists that is kept beside their index, for the endpoint to show.

Shapes: `M` playlists of the map, `C` labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys.errors import InputError
from recsys.files import alone
from recsys.playlists.store import (
    INDEX_FOLDER,
    PlaylistIndex,
    PlaylistModel,
    part_file,
    put_in_force,
    read_index_file,
    write_part,
)


@dataclass(frozen=True)
class StoredMap:
    """Where playlists of an index lie.

    Attributes:
        rows: (M,) of the index.
        places: (M, 2) coordinates.
        label: (M,) number of the label, -1 for none.
        labels: C names.
    """

    rows: NDArray[np.int64]
    places: NDArray[np.float32]
    label: NDArray[np.int64]
    labels: Sequence[str]


def store_map(model: PlaylistModel, index: PlaylistIndex, found: StoredMap) -> None:
    """Put a map in force beside the index whose rows it names; a new index takes it away.

    Raises:
        InputError: another index is in force by now.
    """
    across, up = found.places.T
    columns = {"row": found.rows, "across": across, "up": up, "label": found.label}
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    with alone(model.folder / INDEX_FOLDER):
        stated = read_index_file(model)
        if stated.get("vectors") != index.file:
            raise InputError(
                f"the playlists of {model.folder} were embedded anew while they were mapped; the map is not "
                "kept: run `recsys playlists map` again"
            )
        name = write_part(model, "map", lambda draft: pq.write_table(table, draft))
        put_in_force(model, {**stated, "map": name, "labels": list(found.labels)})


def load_map(model: PlaylistModel) -> StoredMap | None:
    """The map in a model's folder, or None where none was made of this index.

    Raises:
        InputError: it is damaged.
    """
    stated = read_index_file(model)
    if "map" not in stated:
        return None
    file = part_file(model, stated, "map")
    try:
        table = pq.read_table(file)
        places = np.stack([np.asarray(table[name], dtype=np.float32) for name in ("across", "up")], axis=1)
        rows, label = (np.asarray(table[name], dtype=np.int64) for name in ("row", "label"))
        return StoredMap(rows, places, label, [str(name) for name in stated["labels"]])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is no map ({error}); run `recsys playlists map` again") from error
