"""What the manifest says of nodes and macros beyond their edges: read when the identity of a node is first asked for.

Most questions never ask for it, and code, configs and columns are most of a manifest. So the file is read a second
time, and of each node only what an identity needs is kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from lineage_orch.errors import ManifestError
from lineage_orch.lineage.manifest import Checksum, Record, collector_off, decode_in_pieces, not_a_manifest


class CalledMacros(Record):
    """``depends_on`` of a resource: the unique_ids of the macros that it calls."""

    macros: tuple[str, ...] | None = None


class NodeDetails(Record):
    """An entry of ``nodes`` or ``functions``; what is rarely looked at is kept as bytes of JSON."""

    name: str | None = None
    database: Any = None
    schema: Any = None
    alias: Any = None
    relation_name: str | None = None
    checksum: Checksum | None = None
    raw_code: str | None = None
    raw_sql: str | None = None
    """The same, up to dbt 1.2."""
    config: msgspec.Raw = msgspec.Raw()
    columns: msgspec.Raw = msgspec.Raw()
    constraints: msgspec.Raw = msgspec.Raw()
    depends_on: CalledMacros | None = None

    @property
    def file_checksum(self) -> str | None:
        """dbt's checksum of its file."""
        return self.checksum.checksum if self.checksum else None

    @property
    def code(self) -> str:
        """Its code, as it was written."""
        return self.raw_code or self.raw_sql or ""


class Tagged(Record):
    """The tags of a config, as dbt wrote them."""

    tags: Any = None


class Macro(Record):
    """An entry of ``macros``."""

    macro_sql: str | None = None
    depends_on: CalledMacros | None = None


class _Details(msgspec.Struct):
    nodes: dict[str, NodeDetails] = {}
    functions: dict[str, NodeDetails] | None = None
    macros: dict[str, Macro] | None = None


def read_tags(unique_id: str, node: NodeDetails) -> tuple[str, ...]:
    """Return the tags of a node."""
    tags = msgspec.json.decode(node.config, type=Tagged).tags if node.config else None
    if isinstance(tags, str):
        return (tags,)
    return tuple(map(str, tags)) if isinstance(tags, list | dict) else ()


_decoder = msgspec.json.Decoder(_Details)
_node_decoder = msgspec.json.Decoder(dict[str, NodeDetails])
_KINDS = ("model.", "snapshot.", "seed.", "function.")

T = TypeVar("T")


def read_details(
    source: str | os.PathLike[str] | Mapping[str, Any],
    where: str,
    checksums: Mapping[str, str | None],
    digest: Callable[[str, NodeDetails], T],
) -> tuple[dict[str, T], dict[str, Macro], dict[str, tuple[str, ...]]]:
    """Return the details of models, snapshots, seeds and functions, digested, the macros, and what each test calls.

    All by unique_id; of a data test the macros that it calls.

    Args:
        source: the file, or the dict that ``json.load`` made of one.
        checksums: of the nodes, as they were read before. dbt rewrites the file with each command; what it says now
            is taken only if it is of the same code.
        digest: makes of an entry what is to be kept of it. Code and configs are most of a manifest, and pass by.

    Raises:
        ManifestError: the file cannot be read any more, or is of other code by now.
    """
    found: dict[str, T] = {}
    called: dict[str, tuple[str, ...]] = {}

    def take(nodes: Mapping[str, NodeDetails]) -> None:
        for unique_id, node in nodes.items():
            if unique_id.startswith("test."):
                called[unique_id] = (node.depends_on.macros if node.depends_on else None) or ()
            if not unique_id.startswith(_KINDS):
                continue
            if unique_id in checksums and node.file_checksum != checksums[unique_id]:
                raise _changed(where, unique_id)
            try:
                found[unique_id] = digest(unique_id, node)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # of what is raw until here
                raise not_a_manifest(where, f"{error} - in `{unique_id}`") from None

    with collector_off():
        if isinstance(source, Mapping):
            last = _of_mapping(source, where)
        else:
            try:
                pieces = decode_in_pieces(Path(source), _decoder, _node_decoder, take)
                if pieces is None:
                    found.clear()
                    called.clear()
                    last = _of_bytes(Path(source).read_bytes(), where)
                else:
                    last = pieces[1]
            except OSError as error:
                raise ManifestError(f"{where} cannot be read again: {error.strerror or error}") from error
        take(last.nodes)
        take(last.functions or {})
    for unique_id in checksums:
        if unique_id not in found:
            raise _changed(where, unique_id)
    return found, last.macros or {}, called


def _changed(where: str, unique_id: str) -> ManifestError:
    return ManifestError(f"{where} was written anew since it was read, and {unique_id} changed; read it again")


def _of_bytes(data: bytes, where: str) -> _Details:
    try:
        return _decoder.decode(data)
    except msgspec.ValidationError as error:
        raise not_a_manifest(where, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        # What strict JSON refuses but Python's own reader takes (NaN, a BOM).
        try:
            return _of_mapping(json.loads(data.decode("utf-8-sig", "surrogatepass")), where)
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ManifestError(f"{where} cannot be read again: {error}") from None


def _of_mapping(data: Mapping[str, Any], where: str) -> _Details:
    # Written and read as JSON, so that there is one way to read it.
    sections = {name: data.get(name) for name in ("nodes", "functions", "macros")}
    try:
        return _decoder.decode(msgspec.json.encode(sections, enc_hook=str))
    except (msgspec.ValidationError, msgspec.EncodeError, UnicodeEncodeError) as error:
        raise not_a_manifest(where, str(error)) from None
