"""The page of a data quality report: one HTML file without scripts and without requests to any host."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

_WIDTH, _HEIGHT = 600, 120  # of a picture, in its own units


def render_quality(report: dict[str, Any]) -> str:
    """The whole page, from what `measure_quality` gave; everything that comes from data is escaped."""
    page = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters |= {
        "count": lambda value: f"{value:,}",
        "percent": lambda value: f"{value:.2%}",
        "plain": lambda value: f"{value:,.4g}",
        "words": lambda name: str(name).replace("_", " "),
        "bars": bars,
    }
    style = Markup((files("recsys") / "report/style.css").read_text(encoding="utf-8"))
    return page.get_template("quality.html").render(report=report, style=style)


def bars(counts: Sequence[int], labels: Sequence[str]) -> Markup:
    """A bar chart as SVG: a count and a label (shown as the bar's title) each; heights begin at 0."""
    top, width = max(counts, default=0) or 1, _WIDTH / max(len(counts), 1)
    drawn = []
    for place, (count, label) in enumerate(zip(counts, labels, strict=True)):
        height = _HEIGHT * count / top
        drawn.append(
            Markup(
                '<rect class="fill" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">'
                "<title>{}: {}</title></rect>"
            ).format(place * width, _HEIGHT - height, width * 0.9, height, label, f"{count:,}")
        )
    return Markup('<svg viewBox="0 0 {} {}" role="img" width="100%">{}</svg>').format(
        _WIDTH, _HEIGHT, Markup("").join(drawn)
    )
