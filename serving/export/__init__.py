"""Batch export: lists and vectors of a bundle, in files, SQL tables or Redis, complete or not at all.

wanted.py    what is exported, of which rows, in which parts
tables.py    parts as Arrow tables
run.py       the work, part by part, and its report
spark.py     lists for the histories of a Spark DataFrame
sinks.py     where to: files.py (with formats.py), sql.py, redis_hash.py
"""

from serving.export.run import ExportReport, export
from serving.export.wanted import Shard, Wanted

__all__ = ["ExportReport", "Shard", "Wanted", "export"]
