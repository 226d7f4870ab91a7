"""A report of a bundle: one self-contained HTML page, for people who were not there.

    write_report("runs/sample/bert4rec/bundle", "report.html")

`content` measures, `charts` draws, `words` puts into words, `page` lays out.
"""

from __future__ import annotations

from pathlib import Path

from recsys.bundle import Bundle
from recsys.files import check_writable, written_file
from recsys.report.content import Say, gather
from recsys.report.page import render

__all__ = ["write_report"]


def write_report(
    bundle_folder: Path | str,
    out: Path | str,
    *,
    data: Path | str | None = None,
    split: str = "test",
    exclude_seen: bool = True,
    baselines: bool = True,
    seed: int = 0,
    say: Say = lambda line: None,
) -> Path:
    """Measure a bundle and write the page about it.

    Args:
        bundle_folder: the bundle; the curves are read from the run folder that it lies in, if it does.
        out: the HTML file; its folder is made, an older file replaced.
        data: prepared data; default: what the bundle was trained on.
        split: valid or test.
        exclude_seen: take the items of the history out of the ranking; a repeated target is then a miss.
        baselines: put every counting model beside it, each fitted to the training part.
        seed: of the bootstrap and of the choice of example users.
        say: called with a line for each stage.

    Returns:
        The file.

    Raises:
        InputError: bundle or data are missing or do not fit each other, the split is unknown or has no
            target, the model has nothing to say under `exclude_seen`, or `out` cannot be written.
    """
    file = Path(out)
    file.parent.mkdir(parents=True, exist_ok=True)
    check_writable(file)
    bundle = Bundle.load(bundle_folder)
    report = gather(
        bundle,
        bundle.prepared_data(data),
        split=split,
        exclude_seen=exclude_seen,
        baselines=baselines,
        seed=seed,
        say=say,
    )
    with written_file(file) as draft:
        draft.write_text(render(report), encoding="utf-8")
    return file
