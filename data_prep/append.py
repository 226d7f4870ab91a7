"""The nightly job's preparation: new log files join a data set, and every index stays what it was.

The events of a file are kept as they were read (`data_prep.log_store`), so that a night reads new files
alone. The tables are then made by the same steps as ever, from all events: a k-core, a cut in time or a late
event may change any sequence, and the result is that of a preparation of the whole log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from data_prep.digest import tables_digest
from data_prep.folder import LOG, check_same_settings, is_intact, manifest_in
from data_prep.items import FROM_LOG, items_file, read_items
from data_prep.log_store import LogFile, log_digest, new_files
from data_prep.logs import Log, Part, canonical_log, read_part
from data_prep.prepare import Input, PrepareReport, build, reuse, settings_of
from data_prep.readers import TEXT_FORMATS
from data_prep.sources import is_remote
from data_prep.stable import Former
from recsys import schema
from recsys.config import DataConfig, ExperimentConfig
from recsys.errors import InputError

GROWN_FROM = "grown_from"
"""In the manifest: content digests of the versions that this one has grown from, the oldest first."""


@dataclass(frozen=True)
class _New:
    """A log file that joins: its events, and what a person should know of them."""

    file: LogFile
    part: Part
    notices: tuple[str, ...]


def append(config: ExperimentConfig) -> PrepareReport:
    """Add the log files that are new to the data set in `config.prepared_path`, or begin it.

    Files that were appended before need not be there any more, and change nothing if they are. Nothing is
    changed where a new file is bad.

    Raises:
        InputError: the input is missing or bad, a known file has other content now, or the folder holds
            another data set, or one that was prepared without keeping its events.
    """
    folder, data = config.prepared_path, config.data
    _check_source(data)
    manifest = manifest_in(folder)
    if manifest is not None:
        _check_folder(folder, manifest, config)
    known = [LogFile(**each) for each in manifest[LOG]] if manifest else []
    found, notices = new_files(data, known, folder)
    table = items_file(data)
    digest = log_digest([*known, *found.values()], table)
    same = reuse(config, digest) if manifest and manifest["input_digest"] == digest else None
    if same:
        told = tuple(dict.fromkeys([*same.notices, *notices]))
        return replace(same, notices=told, appended=_words([], known))
    kept = [each.read(folder) for each in known if each.rows]
    new = _aligned([_read(file, one, config) for file, one in found.items()], kept, data)
    log = sorted([*known, *(each.file for each in new)], key=lambda each: each.order)
    settled = _settled(log, [*kept, *(each.part for each in new)], data)
    stated: dict[str, Any] = {LOG: [asdict(each) for each in log]}
    if manifest:
        stated[GROWN_FROM] = [*manifest.get(GROWN_FROM, []), manifest["content_digest"]]
    source = Input(
        replace(settled, notices=(*notices, *(words for each in new for words in each.notices))),
        read_items(data, table),
        digest,
        former=_former(folder) if manifest else None,
        stated=stated,
        write_more=partial(_write_log, folder, known, new),
        stands=manifest,
    )
    return replace(build(config, source), appended=_words([each.file for each in new], known))


def _settled(log: Sequence[LogFile], parts: Sequence[Part], data: DataConfig) -> Log:
    """The events of all files in their order; an error names a file where none has events."""
    by_name = {part.where: part for part in parts}
    in_order = [by_name[each.name] for each in log if each.rows] or parts
    settled = data.model_copy(update={"time_unit": "us", "time_format": None})
    return canonical_log(in_order, settled, is_text=False)


def _write_log(folder: Path, known: Sequence[LogFile], new: Sequence[_New], fresh: Path) -> None:
    """Keep the events of all files in the new version of the folder, `fresh`."""
    (fresh / LOG).mkdir()
    for each in known:
        if each.rows:
            each.link(folder, fresh)
    for one in new:
        if one.file.rows:
            one.part.frame.write_parquet(one.file.place(fresh), compression="zstd")


def _check_source(data: DataConfig) -> None:
    if is_remote(data) or data.format == "sample":
        raise InputError(
            f"--append adds log files, and data.path {data.path} (format {data.format}) has none; prepare it "
            "without --append"
        )
    if data.items == FROM_LOG:
        raise InputError(
            "--append keeps no item columns of a log (data.items=log); name an item table in data.items, or "
            "prepare without --append"
        )


def _check_folder(folder: Path, manifest: dict[str, Any], config: ExperimentConfig) -> None:
    if LOG not in manifest:
        raise InputError(
            f"{folder} was prepared without --append and keeps no events to add to; delete it and run "
            "`recsys prepare` with --append on the whole log, or choose another folder with prepared=..."
        )
    check_same_settings(folder, manifest, settings_of(config))
    if not is_intact(folder, manifest):
        if manifest_in(folder) != manifest:
            raise InputError(f"another run has changed {folder} meanwhile; run the command again")
        raise InputError(
            f"{folder} is not what its manifest states, so that its indices are lost; restore it, or delete "
            "it and prepare the whole log with --append"
        )


def _read(file: Path, one: LogFile, config: ExperimentConfig) -> _New:
    """The events of a new file, settled as far as it alone can tell."""
    data = config.data
    raw = read_part(file, data, with_rating=config.clean.min_rating is not None)
    if not len(raw.frame):
        return _New(one, Part(one.name, raw.frame), ())
    log = canonical_log([raw], data, is_text=data.format in TEXT_FORMATS, is_whole=False)
    untimed = [] if schema.TIME in raw.frame.columns else [schema.TIME]
    return _New(one, Part(one.name, log.events.drop(schema.ROW, *untimed)), log.notices)


def _aligned(new: Sequence[_New], kept: Sequence[Part], data: DataConfig) -> list[_New]:
    """New events with ids of the type that the log has so far; their rows and their digest are stated.

    A file of digits beside others of text holds text: without types, the whole log decides.

    Raises:
        InputError: ids of the log so far are integers, and a new file has others.
    """
    frames = {each.file.name: each.part.frame for each in new if len(each.part.frame)}
    for role in (schema.SEQUENCE, schema.ITEM) if data.format in TEXT_FORMATS else ():
        before = {part.frame[role].dtype for part in kept if part.frame[role].count()}
        odd = next((name for name, frame in frames.items() if frame[role].dtype == pl.String), None)
        if odd and before == {pl.Int64()}:
            ids = frames[odd][role]
            first = ids.filter(ids.cast(pl.Int64, strict=False).is_null() & ids.is_not_null())
            raise InputError(
                f"{odd} has {role} ids that are no whole numbers, such as `{[*first, *ids][0]}`, and all "
                "before are; correct the file, or prepare the whole log in another folder"
            )
        if odd or pl.String() in before:
            frames = {name: frame.cast({role: pl.String}) for name, frame in frames.items()}
    aligned = []
    for each in new:
        frame = frames.get(each.file.name, each.part.frame)
        content = tables_digest([frame.to_arrow()])
        file = replace(each.file, rows=len(frame), content=content)
        aligned.append(replace(each, file=file, part=Part(each.part.where, frame)))
    return aligned


def _former(folder: Path) -> Former:
    """The ids of the version that stands in the folder, in its order."""

    def ids(name: str, column: str) -> pl.Series:
        return pl.Series(column, pq.read_table(folder / name, columns=[column])[column])

    return Former(
        items=ids(schema.ITEMS_FILE, schema.ITEM_ID),
        sequences=ids(schema.SEQUENCES_FILE, schema.SEQUENCE_ID),
    )


def _words(new: Sequence[LogFile], known: Sequence[LogFile]) -> str:
    if not new:
        return f"no new log file; {len(known):,} are known"
    events = sum(each.rows for each in new)
    return f"appended {len(new):,} log files with {events:,} events; {len(known):,} were known"
