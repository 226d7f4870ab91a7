"""Text files as published: checked before they are read, decompressed by their extension."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path

from recsys.errors import InputError

COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
"""How gzip and zstd begin, which Polars opens by itself."""

_HEAD = 8_000  # bytes; UTF-16 and binary files have a zero byte among the first, UTF-8 text has none
_LINE = 1 << 20  # bytes of the longest first line


def text_source(file: Path) -> Path | bytes:
    """The source of a file that must be text.

    Raises:
        InputError: it is UTF-16, UTF-32 or binary.
    """
    source = source_of(file)
    if isinstance(source, Path):
        with source.open("rb") as stream:
            head = stream.read(_HEAD)
    else:
        head = source[:_HEAD]
    is_wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # UTF-32 has zero bytes too
    if is_wide or (b"\0" in head and not head.startswith(COMPRESSED)):
        kind = "UTF-16 or UTF-32" if is_wide else "a binary file, UTF-16 or UTF-32 (it has zero bytes)"
        raise InputError(f"{file} is {kind}; expected UTF-8 text: save it as UTF-8, or set its format")
    return source


def source_of(file: Path) -> Path | bytes:
    """The file itself, or its content where it is compressed (a cut archive must not pass for a log)."""
    if file.suffix != ".gz":
        return file
    try:
        content = gzip.decompress(file.read_bytes())
    except EOFError as error:
        raise InputError(f"{file} is a truncated gzip file; copy or download it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{file} is not a sound gzip file ({error}); copy or download it again") from error
    if not content:
        raise InputError(f"{file} is empty once decompressed; expected a log")
    return content


def utf8_source(file: Path) -> Path | bytes:
    """The source of a small text file of either encoding that old data sets have.

    What is not UTF-8 is taken for ISO 8859-1, which every byte is valid in.
    """
    source = text_source(file)
    content = source.read_bytes() if isinstance(source, Path) else source
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("iso-8859-1").encode("utf-8")
    return source


def first_line(file: Path) -> str:
    """The first line of a text file, as far as `_LINE` bytes reach; tells releases of a layout apart."""
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        try:
            head = stream.read(_LINE)
        except (EOFError, OSError, zlib.error):  # whoever reads the file whole says what is wrong with it
            head = b""
    return head.lstrip(b"\xef\xbb\xbf").partition(b"\n")[0].decode("utf-8", errors="replace").strip()
