"""Pictures of a training: curves that a person reads at a glance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = tuple[int, float]


def plot_curves(
    history: Sequence[Mapping[str, float]],
    file: Path,
    *,
    loss: str = "loss",
    score: str = "ndcg@10",
    title: str = "",
) -> Path:
    """Draw the training loss and the validation score against the epoch, one above the other.

    The last loss and the best score are written next to their points. A quantity that was never recorded
    gets no panel; an epoch without it (validation every few epochs) is skipped.

    Args:
        history: one row an epoch, with key `epoch` and the recorded quantities.
        file: the PNG to write.
        loss: key of the loss, lower is better.
        score: key of the score, higher is better.
        title: what stands above the picture.

    Raises:
        ValueError: no row holds any of the two quantities.
    """
    # Here and not above: matplotlib takes a while to import, and most commands draw nothing.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    drawn = {
        key: [(int(row["epoch"]), float(row[key])) for row in history if key in row]
        for key in (loss, score)
        if any(key in row for row in history)
    }
    if not drawn:
        raise ValueError(f"none of {len(history)} epochs holds `{loss}` or `{score}`: nothing to draw")
    figure = Figure(figsize=(7, 3 * len(drawn)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(drawn), sharex=True, squeeze=False)[:, 0]
    for panel, (key, points) in zip(axes, drawn.items(), strict=True):
        if key == loss:
            _draw(
                panel, f"training {key}", points, marked=points[-1], word="last", color="tab:blue", below=True
            )
        else:
            best = max(points, key=lambda point: point[1])
            _draw(panel, f"validation {key}", points, marked=best, word="best", color="tab:orange")
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(title)
    figure.savefig(file, format="png")
    return file


def _draw(
    panel: Axes,
    label: str,
    points: list[Point],
    *,
    marked: Point,
    word: str,
    color: str,
    below: bool = False,
) -> None:
    """One curve, with one of its points marked and its value written there."""
    epochs, values = zip(*points, strict=True)
    panel.plot(epochs, values, color=color, marker="." if len(points) < 40 else None)
    panel.plot(*marked, marker="o", color=color)
    left = marked[0] <= (epochs[0] + epochs[-1]) / 2
    panel.annotate(
        f"{word} {marked[1]:.4g} (epoch {marked[0]})",
        marked,
        xytext=(6 if left else -6, -16 if below else 8),
        textcoords="offset points",
        ha="left" if left else "right",
    )
    panel.margins(y=0.2)  # room for the words
    panel.set_ylabel(label)
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
