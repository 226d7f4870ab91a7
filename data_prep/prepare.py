"""The job: a log in, a prepared data set out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data_prep.assemble import MARKS, Tables, assemble
from data_prep.cleaning import Removal, clean, is_timed, positions
from data_prep.cold_items import withhold
from data_prep.context import carried, with_context
from data_prep.digest import files_digest, tables_digest
from data_prep.engines import engine_named
from data_prep.expected import check_counts
from data_prep.folder import KIND, LOG, existing_manifest, is_intact, manifest_in, stated_input, write_folder
from data_prep.frame_types import Frame
from data_prep.frames import frame_items, frame_log
from data_prep.items import TITLE, items_file, read_items
from data_prep.leakage import check_leakage
from data_prep.log_store import check_appended
from data_prep.logs import Log, event_files, read_log
from data_prep.sources import is_remote, read_remote
from data_prep.splits import Cuts, check_targets, global_cuts, split_marks, training_counts
from data_prep.stable import Former
from recsys import schema
from recsys.config import Columns, DataConfig, ExperimentConfig, ItemCold, ItemColumns, WholeSequences
from recsys.errors import InputError
from recsys.vocabulary import Vocabulary


@dataclass(frozen=True)
class PrepareReport:
    """What a preparation gave.

    Attributes:
        path: folder of the prepared data set.
        manifest: the content of its manifest.json.
        removals: what each cleaning step removed.
        notices: what a person should know of the input.
        reused: whether the very same data set was there already and was left alone.
        appended: log files that are new in it, in words; empty where nothing is appended.
    """

    path: Path
    manifest: dict[str, Any]
    removals: tuple[Removal, ...]
    notices: tuple[str, ...]
    reused: bool
    appended: str = ""

    def lines(self) -> list[str]:
        """A summary in plain text."""
        counts = self.manifest["counts"]
        lines = [
            f"{self.path}: {counts['sequences']:,} sequences, {counts['items']:,} items, "
            f"{counts['events']:,} events"
        ]
        if self.reused:
            lines.append("  the same input with the same settings was prepared before; left as it is")
        if self.appended:
            lines.append(f"  {self.appended}")
        lines += [f"  {removal.words()}" for removal in self.removals]
        lines.append(
            f"  split {self.manifest['split']['kind']}: {counts['training_events']:,} training events, "
            f"{counts['validation_targets']:,} validation and {counts['test_targets']:,} test targets"
        )
        lines.append(
            f"  no leakage ({len(self.manifest['leakage_check'])} rules checked); "
            f"content {self.manifest['content_digest'][:12]}"
        )
        return lines + [f"  note: {notice}" for notice in self.notices]


@dataclass(frozen=True)
class Input:
    """What is to be prepared; its digest is known before anything is computed.

    Attributes:
        log: the events.
        items: the item table, or None.
        digest: of both.
        former: what keeps its index, where the data set has grown.
        stated: what the manifest says besides.
        write_more: see `write_folder`.
        stands: the manifest of the version that it has grown from.
    """

    log: Log
    items: pl.DataFrame | None
    digest: str
    former: Former | None = None
    stated: dict[str, Any] = field(default_factory=dict)
    write_more: Callable[[Path], None] = lambda fresh: None
    stands: dict[str, Any] | None = None


def prepare(config: ExperimentConfig) -> PrepareReport:
    """Prepare the log that the configuration names, in `config.prepared_path`.

    The same input with the same settings gives the same content and is not written again.

    Raises:
        InputError: the input is missing or bad, or the folder holds another data set.
    """
    if is_remote(config.data):
        log_rows, item_rows = read_remote(config)
        return prepare_frame(log_rows, config, item_rows)
    is_sample = config.data.format == "sample"
    in_passing = is_sample and not config.data.path
    with tempfile.TemporaryDirectory() if in_passing else nullcontext(config.data.path) as folder:
        data = _sample_data(Path(folder), config.data) if is_sample else config.data
        files, table = event_files(data), items_file(data)
        digest = files_digest([*files, *([table] if table else [])])
        report = reuse(config, digest)
        if report:
            return report
        log = read_log(data, with_rating=config.clean.min_rating is not None)
        items = read_items(data, table)
    return build(config, Input(log, items, digest))


def prepare_frame(frame: object, config: ExperimentConfig, items: object = None) -> PrepareReport:
    """Prepare a log that is a pandas, Polars or Arrow table already.

    Args:
        frame: the events; `config.data.columns` names its columns, `config.data.path` is not read.
        config: the configuration.
        items: the item table, or None; `config.data.item_columns` names its columns.

    Raises:
        InputError: a column is missing, a value is bad, or the folder holds another data set.
    """
    log = frame_log(frame, config.data, with_rating=config.clean.min_rating is not None)
    table = None if items is None else frame_items(items, config.data)
    tables = [log.events.to_arrow(), *([] if table is None else [table.to_arrow()])]
    digest = tables_digest(tables)
    return reuse(config, digest) or build(config, Input(log, table, digest))


def check_input(config: ExperimentConfig) -> list[str]:
    """Refuse prepared data whose log or item table has changed since, by the digest of the files.

    Returns:
        What a person should know, where the files are not there to compare.

    Raises:
        InputError: the files have changed.
    """
    folder, data = config.prepared_path, config.data
    stated = stated_input(folder)
    if stated and is_remote(data):
        return [
            f"the data that was prepared on {stated[1]} in {folder} is used; {data.path} is not read again"
        ]
    if stated is None or not data.path or data.format == "sample":
        return []
    made_from, day, appended = stated
    try:
        files, table = event_files(data), items_file(data)
    except InputError as error:
        return [f"the data that was prepared on {day} in {folder} is used: {error}"]
    if appended is not None:
        check_appended(files, table, appended, made_from, folder)
    elif files_digest([*files, *([table] if table else [])]) != made_from:
        raise InputError(
            f"{folder} was prepared on {day} from other input than {data.path} now holds; delete {folder} "
            "and run `recsys prepare` again, or choose another folder with prepared=..."
        )
    return []


def _sample_data(folder: Path, data: DataConfig) -> DataConfig:
    """Write the built-in sample's files, where they are not there yet, and say how they are read."""
    from data_prep.sample import write_sample

    if not (folder / "plays.csv").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_sample(folder)
    columns = Columns(sequence="user", item="item", time="time")
    if data.events == "playlists.csv":
        columns = Columns(sequence="playlist", item="track")
    return DataConfig(
        path=str(folder),
        format="csv",
        events=data.events or "plays.csv",
        items="items.csv",
        columns=columns,
        item_columns=ItemColumns(id="item", title=TITLE, attributes=data.item_columns.attributes),
    )


def settings_of(config: ExperimentConfig) -> dict[str, Any]:
    """The sections that shape a prepared data set, as its manifest states them."""
    sections = {name: getattr(config, name).model_dump(mode="json") for name in ("data", "clean", "split")}
    if not isinstance(config.sessions, WholeSequences):
        sections["sessions"] = config.sessions.model_dump(mode="json")
    return sections


def reuse(config: ExperimentConfig, digest: str) -> PrepareReport | None:
    """The report of the same data set, if it is there already and sound.

    Raises:
        InputError: the folder holds another data set, or its counts are not the expected ones.
    """
    manifest = existing_manifest(config.prepared_path, digest, settings_of(config))
    if manifest is None or not is_intact(config.prepared_path, manifest):
        return None
    check_counts(config.expect, manifest["counts"], config.data.path)
    removals = tuple(Removal(**removal) for removal in manifest["removals"])
    return PrepareReport(config.prepared_path, manifest, removals, tuple(manifest["notices"]), reused=True)


def build(config: ExperimentConfig, source: Input) -> PrepareReport:
    """Clean, split, check and write the data set, in place of what stood in its folder.

    Raises:
        InputError: a step left nothing, the counts are not the expected ones, or the folder keeps log files
            that this would lose.
    """
    stands = manifest_in(config.prepared_path)
    if stands and LOG in stands and LOG not in source.stated:
        raise InputError(
            f"{config.prepared_path} keeps log files that were appended, and is damaged; restore it, or "
            "delete it and prepare the whole log with --append"
        )
    made = _made(config, source)
    tables, cuts = made.tables, made.cuts
    passed = check_leakage(tables, config.split.kind, cuts, config.split.targets)
    removed = sum(removal.events for removal in made.removals)
    counts = {"events_read": tables.offsets[-1].item() + removed, **_counts(tables)}
    check_counts(config.expect, counts, config.data.path)
    notices = [*source.log.notices, *made.notices, *_missing_targets(counts)]
    manifest = {
        "format_version": schema.FORMAT_VERSION,
        "kind": KIND,
        "name": config.name,
        "counts": counts,
        "id_types": {
            "sequence": str(tables.sequences[schema.SEQUENCE_ID].type),
            "item": str(tables.items[schema.ITEM_ID].type),
        },
        **({"event_types": list(tables.event_types)} if tables.event_types else {}),
        "split": {**config.split.model_dump(mode="json"), **_dates(cuts)},
        "settings": settings_of(config),
        "input_digest": source.digest,
        "content_digest": tables_digest((tables.sequences, tables.items)),
        "vocabulary_hash": Vocabulary(tables.items[schema.ITEM_ID]).hash,
        "removals": [asdict(removal) for removal in made.removals],
        "leakage_check": passed,
        "notices": notices,
    }
    stands = source.stands if LOG in source.stated else stands
    manifest |= source.stated
    manifest = write_folder(config.prepared_path, tables, manifest, stands, source.write_more)
    return PrepareReport(config.prepared_path, manifest, made.removals, tuple(notices), reused=False)


@dataclass(frozen=True)
class _Made:
    """The finished tables, where the cuts in time lie, and what happened on the way."""

    tables: Tables
    cuts: Cuts | None
    removals: tuple[Removal, ...]
    notices: tuple[str, ...]


def _made(config: ExperimentConfig, source: Input) -> _Made:
    """Clean and split the events; no frame of them outlives this."""
    engine, log = engine_named(config.engine), source.log.events
    canonical = engine.take(carried(log, config.sessions))
    events, removals = clean(canonical, config.clean, engine, config.sessions)
    check_targets(events, config.split)
    if isinstance(config.split, ItemCold):
        events, removal = withhold(engine.checkpoint(events), config.split)
        removals.append(removal)
    cuts = global_cuts(events, config.split)
    events = engine.by_sequence(positions, events)
    marks = engine.by_sequence(lambda placed: split_marks(placed, config.split, cuts), events)
    marked, counts = _collected(marks), _collected(training_counts(events, marks))
    if source.former:
        marked, counts = source.former.with_gone(marked, counts)
    tables, notices = assemble(_collected(events), marked, counts, items=source.items, timed=is_timed(events))
    tables = replace(tables, sequences=with_context(tables.sequences, events, log))
    if source.former:
        tables = source.former.ordered(tables)
    return _Made(tables, cuts, tuple(removals), tuple(notices))


def _collected(frame: Frame) -> pl.DataFrame:
    return frame.collect("polars").to_polars()


def _counts(tables: Tables) -> dict[str, int]:
    """Sizes of the data set, of the parts of its split, and how many targets each asks for.

    Sequences and items that are gone (see `Former.with_gone`) are counted apart, where there are any.
    """
    lengths = np.diff(tables.offsets)
    sequences, items = int((lengths > 0).sum()), int((np.bincount(tables.values) > 0).sum())
    gone = {"gone_sequences": len(lengths) - sequences, "gone_items": tables.items.num_rows - items}
    train_end, valid_start, test_start = (tables.mark(mark) for mark in MARKS)
    return {
        "sequences": sequences,
        "items": items,
        "events": int(lengths.sum()),
        "training_events": int(train_end.sum()),
        "history_events": int((valid_start - train_end).sum()),
        "validation_events": int((test_start - valid_start).sum()),
        "test_events": int((lengths - test_start).sum()),
        "validation_targets": int(((valid_start < test_start) & (valid_start > 0)).sum()),
        "test_targets": int(((test_start < lengths) & (test_start > 0)).sum()),
        **{name: count for name, count in gone.items() if count},
    }


def _missing_targets(counts: dict[str, int]) -> list[str]:
    return [
        f"no sequence has a {part} target, so that {part} measures nothing; check the split"
        for part in ("validation", "test")
        if not counts[f"{part}_targets"]
    ]


def _dates(cuts: Cuts | None) -> dict[str, str | int]:
    """The cuts in time, in microseconds since 1970 UTC and as dates."""
    if cuts is None:
        return {}
    moments = {"valid_cut": cuts.valid_from, "test_cut": cuts.test_from}
    start = datetime(1970, 1, 1, tzinfo=UTC)
    dates = {f"{key}_date": (start + timedelta(microseconds=at)).isoformat() for key, at in moments.items()}
    return {**{f"{key}_microseconds": at for key, at in moments.items()}, **dates}
