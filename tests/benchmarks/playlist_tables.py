"""The README's tables about playlists, from playlists.jsonl; the newest row of each encoder counts."""

from __future__ import annotations

from typing import Any

from recsys.bootstrap import Interval
from tests.benchmarks import playlist_oracle, playlists

Row = dict[str, Any]
MEASURES = {
    "r-precision": "R-precision",
    "ndcg": "NDCG",
    "clicks": "clicks",
    "distinct artists": "artists",
    "artist repetition": "artist repeated",
}


def newest(data: str) -> list[Row]:
    """Rows of a data set, in the order in which encoders were first measured.

    Raises:
        SystemExit: there is none.
    """
    rows = {row["encoder"]: row for row in playlists.read() if row["data"] == data}
    if not rows:
        raise SystemExit(f"playlists.jsonl has no row of {data}")
    return list(rows.values())


def probes(data: str) -> str:
    """Accuracy of every probe and precision of neighbours: a row an encoder, the best of each column bold."""
    rows = [row for row in newest(data) if "probes" in row]
    # An oracle is the bar, not one that is compared.
    rows.sort(key=lambda row: bool(row["settings"] != playlist_oracle.SETTINGS))
    compared = [row for row in rows if row["settings"] != playlist_oracle.SETTINGS]
    names = [found["name"] for found in rows[0]["probes"]]
    near = list(rows[0]["neighbours"])
    best = {name: max(_accuracy(row, name)["accuracy"] for row in compared) for name in names}
    best |= {f"near {name}": max(row["neighbours"][name] for row in compared) for name in near}
    head = ["encoder", *names, *(f"neighbours: {name}" for name in near), "CPU"]
    lines = [_line(head), "|---" * len(head) + "|"]
    chances = [f"{_accuracy(rows[0], name)['chance']:.2f}" for name in names]
    lines.append(_line(["chance", *chances, *("" for _ in near), ""]))
    for row in rows:
        cells = [row["encoder"]]
        for name in names:
            found = _accuracy(row, name)
            text = f"{found['accuracy']:.3f} ± {found['spread']:.3f}"
            cells.append(_bold(text, row in compared and found["accuracy"] == best[name]))
        for name in near:
            value = row["neighbours"][name]
            cells.append(_bold(f"{value:.3f}", row in compared and value == best[f"near {name}"]))
        lines.append(_line([*cells, f"{row['cpu_seconds']:.0f} s" if row in compared else ""]))
    return "\n".join(lines)


def continuations(data: str) -> str:
    """R-precision, NDCG and clicks of every task: a row a model."""
    rows = [row for row in newest(data) if "continuation" in row]
    tasks = list(rows[0]["continuation"])
    shown = ("r-precision", "ndcg", "clicks")
    head = ["model", *(f"{MEASURES[name]}, {task}" for task in tasks for name in shown)]
    lines = [_line(head), "|---" * len(head) + "|"]
    for row in rows:
        cells = [row["encoder"]]
        for task in tasks:
            found = row["continuation"][task]
            cells += [f"{found['r-precision']:.4f}", f"{found['ndcg']:.4f}", f"{found['clicks']:.2f}"]
        lines.append(_line(cells))
    return "\n".join(lines)


def diverse(data: str) -> str:
    """What diverse beam search costs and gives: a row a decoder, beside what one-shot gives."""
    row = next(row for row in newest(data) if "diverse" in row)
    measures = ("r-precision", "distinct artists", "artist repetition", "intra-list diversity")
    lines = [_line(["decoder", *(MEASURES.get(name, name) for name in measures)]), "|---|---|---|---|---|"]
    plain = row["diverse"]["one-shot"]
    for name, found in row["diverse"].items():
        cells = [name]
        for measure in measures:
            change = found[measure] / plain[measure] - 1
            cells.append(f"{found[measure]:.4f}" + (f" ({change:+.0%})" if name != "one-shot" else ""))
        lines.append(_line(cells))
    return "\n".join(lines)


def orders() -> str:
    """Which order each data set prefers: a row a data set and task."""
    lines = [_line(["data", "task", "NDCG, set", "NDCG, sequence", "sequence - set"]), "|---" * 5 + "|"]
    rows = {row["data"]: row for row in playlists.read() if "preference" in row}
    for data, row in rows.items():
        found = row["preference"]
        for task, (of_set, of_sequence) in found["means"].items():
            difference = Interval(**found["differences"][task]).text("+")
            lines.append(_line([data, task, f"{of_set:.4f}", f"{of_sequence:.4f}", difference]))
        alike = Interval(**found["alike"]).text("+")
        lines.append(_line([data, "likeness of neighbouring tracks", "", "", alike]))
    return "\n".join(lines)


def scale() -> str:
    """How long many playlists take."""
    row = newest_scale()
    head = ["playlists of 50 tracks", "tracks", "embedded", "indexed", "query, median", "slowest 1% from"]
    head.append("recall@10")
    cells = [f"{row[name]:,}" for name in ("playlists", "catalogue")]
    cells += [f"{row[name]:.0f} s" for name in ("embed_s", "index_s")]
    cells += [f"{row[name]:.2f} ms" for name in ("query_ms", "query_ms_99")]
    return "\n".join([_line(head), "|---" * len(head) + "|", _line([*cells, f"{row['recall']:.3f}"])])


def newest_scale() -> Row:
    """The last measurement of time.

    Raises:
        SystemExit: there is none.
    """
    rows = [row for row in playlists.read() if row["data"] == "scale"]
    if not rows:
        raise SystemExit("playlists.jsonl has no measurement of scale")
    return rows[-1]


def _accuracy(row: Row, name: str) -> dict[str, float]:
    return next(found for found in row["probes"] if found["name"] == name)


def _bold(text: str, is_best: bool) -> str:
    return f"**{text}**" if is_best else text


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
