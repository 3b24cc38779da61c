"""The fingerprint of what a load brings: of files, and of the rows that a query returned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from lineage_orch.errors import ProducerError

# What is told apart by its repr, which is the same in every process.
_PLAIN = (str, int, float, complex, bool, type(None), Decimal, date, time, timedelta, UUID)
_BITS = 256


def fingerprint_of(*parts: object) -> str:
    """Return a fingerprint (hex) for ``mark_updated(..., fingerprint=)``: the same for the same content.

    ::

        mark_updated("crm.orders", fingerprint=fingerprint_of(Path("orders.csv")))
        mark_updated("crm.orders", fingerprint=fingerprint_of(cursor.fetchall()))

    Args:
        parts: Each is a :class:`~pathlib.Path` (the content of the file, or of all files in the folder, with their
            names); rows (a list, a cursor, any iterator), in whatever order they come, each a tuple, a list or a
            mapping of plain values; or a plain value: a text, bytes, a number, a time, None.

    Raises:
        ProducerError: there are no parts; one is of another kind, such as a data frame, whose content is not what it
            yields or prints; or a text is the name of a file, which is the same whatever the file holds.
        OSError: a file cannot be read.
    """
    if not parts:
        raise ProducerError("fingerprint_of() was given nothing; give it a Path, rows, or a value such as an ETag")
    for each in parts:
        if isinstance(each, str) and _is_file(each):
            raise ProducerError(f"fingerprint_of({each!r}) would be of the name of that file; write Path({each!r})")
    return _joined(_rows(each) if isinstance(each, list | Iterator) else _digest(each) for each in parts).hex()


def _is_file(text: str) -> bool:
    with suppress(OSError, ValueError):  # no name of a file at all
        return Path(text).exists()
    return False


def _digest(value: object) -> bytes:
    if isinstance(value, Path):
        return _files(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return _joined([b"bytes", value])
    if isinstance(value, Mapping):
        return _whatever_order(_joined([_digest(key), _digest(each)]) for key, each in value.items())
    if isinstance(value, set | frozenset):
        return _whatever_order(map(_digest, value))
    if isinstance(value, _PLAIN):
        return _joined([type(value).__name__.encode(), repr(value).encode(errors="surrogatepass")])
    if isinstance(value, Sequence):  # a row of a driver need not be a tuple
        return _joined([b"row", *map(_digest, value)])
    raise ProducerError(
        f"fingerprint_of cannot read a {type(value).__module__}.{type(value).__qualname__}; give it a Path, rows as "
        "tuples, lists or mappings of plain values (of a data frame, its itertuples()), or a plain value"
    )


def _rows(rows: Iterable[object]) -> bytes:
    return _whatever_order(map(_digest, rows))


def _files(path: Path) -> bytes:
    if path.is_dir():
        files = {each.relative_to(path).as_posix(): each for each in path.rglob("*") if each.is_file()}
        return _digest({name: _files(file) for name, file in files.items()})
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _joined(parts: Iterable[bytes | bytearray | memoryview]) -> bytes:
    """Return a digest of parts in their order; their lengths keep ("ab", "c") and ("a", "bc") apart."""
    found = hashlib.sha256()
    for part in parts:
        found.update(memoryview(part).nbytes.to_bytes(8, "big"))
        found.update(part)
    return found.digest()


def _whatever_order(digests: Iterable[bytes]) -> bytes:
    # A sum, not xor, for which a doubled row is none.
    total, number = 0, 0
    for each in digests:
        total, number = total + int.from_bytes(each, "big"), number + 1
    return _joined([b"rows", number.to_bytes(8, "big"), (total % 2**_BITS).to_bytes(_BITS // 8, "big")])
