"""A map of playlists in two dimensions: PCA and then t-SNE, as one HTML file and as a PNG.

The HTML needs nothing but itself: points, names and the script that zooms and tells a point's name stand in
it. Shapes: `S` playlists, `D` width, `C` labels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader
from numpy.typing import NDArray

from recsys.errors import InputError
from recsys.files import written_file

COMPONENTS = 30
PERPLEXITY = 30.0
LARGEST = 20_000
"""Points that are drawn at most; of more a draw is taken."""
PALETTE = (
    "#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e",
    "#12715b", "#b22222", "#5f6b7a",
)  # fmt: skip
UNLABELLED = "#c9ccd1"


@dataclass(frozen=True)
class PlaylistMap:
    """Where playlists lie.

    Attributes:
        places: (S, 2) coordinates.
        names: S ids.
        label: (S,) number of the label, -1 for none.
        labels: C names.
        details: S short texts that a point shows.
    """

    places: NDArray[np.float32]
    names: Sequence[str]
    label: NDArray[np.int64]
    labels: Sequence[str]
    details: Sequence[str]


def laid_out(vectors: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """(S, 2) places of vectors (S, D): PCA to 30 dimensions, then t-SNE.

    Raises:
        InputError: there are fewer than five playlists.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(vectors) < 5:
        raise InputError(f"there are {len(vectors)} playlists; a map needs at least 5")
    components = min(COMPONENTS, *vectors.shape)
    reduced = PCA(components, random_state=seed).fit_transform(vectors)
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 4)
    placed = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)
    return np.asarray(placed, dtype=np.float32)


def screen_places(places: NDArray[np.float32]) -> tuple[list[float], list[float]]:
    """Where places (S, 2) stand on a screen of 1 by 1: from the left, and from the top."""
    low, high = places.min(axis=0), places.max(axis=0)
    scaled = ((places - low) / np.maximum(high - low, 1e-9)).astype(np.float64).round(4)
    return scaled[:, 0].tolist(), (1 - scaled[:, 1]).round(4).tolist()


def write_html(found: PlaylistMap, file: Path, title: str) -> None:
    """Write the interactive map; it appears complete or not at all."""
    environment = Environment(loader=PackageLoader("recsys.playlists", "."), autoescape=True)
    x, y = screen_places(found.places)
    points = {
        "x": x,
        "y": y,
        "label": found.label.tolist(),
        "name": list(found.names),
        "detail": list(found.details),
    }
    # As it is, `</script>` in a name would end the element that the points stand in.
    data = json.dumps(points, ensure_ascii=False).replace("<", "\\u003c")
    legend = [{"name": name, "color": colour(place)} for place, name in enumerate(found.labels)]
    page = environment.get_template("map.html").render(
        title=title, data=data, legend=legend, none=UNLABELLED, count=len(found.names)
    )
    with written_file(file) as draft:
        draft.write_text(page, encoding="utf-8")


def write_png(found: PlaylistMap, file: Path, title: str) -> None:
    """Write the same map as a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place in (-1, *range(len(found.labels))):
        chosen = found.label == place
        if chosen.any():
            name = "no label" if place < 0 else found.labels[place]
            across, up = found.places[chosen].T
            axes.scatter(across, up, s=9, color=colour(place), label=name, linewidths=0)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title.replace("$", r"\$"), loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, markerscale=2)
    with written_file(file) as draft:
        figure.savefig(draft, format="png")


def colour(label: int) -> str:
    """Colour of a label's number; of more labels than colours they come round again."""
    return UNLABELLED if label < 0 else PALETTE[label % len(PALETTE)]
