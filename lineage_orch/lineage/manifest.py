"""``manifest.json`` -> typed records: only the fields that lineage needs.

Manifests are read by shape, not by schema version: v4 to v12 and v20 are met in the wild, sections come and
go between them, and dumps made by other tools leave out maps that dbt itself always writes. So every field
has a default, and whatever is absent is empty.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from lineage_orch.errors import ManifestError


class Record(msgspec.Struct, gc=False):
    """A record of the manifest.

    ``gc=False``: the records hold no cycles, and letting the collector track some hundred thousand of them
    is half of the cost of reading a large manifest. For the same reason they hold tuples: a tuple of strings is
    tracked only until the collector has seen it once.
    """


class DependsOn(Record):
    """``depends_on`` of a resource: the unique_ids of its parents."""

    nodes: tuple[str, ...] | None = None


class Meta(Record):
    """What a ``meta`` says to this library; the rest of it is for others."""

    lineage_orch: Any = None


# dbt takes a mapping alone; a manifest of another tool may hold anything there, which means nothing.
AnyMeta = Meta | list[Any] | str | float | int | bool | None


class Config(Record):
    """The resolved config of a resource; ``freshness`` and ``state`` are kept as plain values."""

    enabled: Any = True
    materialized: Any = None
    freshness: Any = None
    state: Any = None
    meta: AnyMeta = None
    # Of tests alone.
    severity: Any = None
    error_if: Any = None
    where: Any = None


class Checksum(Record):
    """The checksum that dbt keeps of a node's file."""

    checksum: str | None = None


class Node(Record):
    """An entry of ``nodes`` (model, seed, snapshot, test, analysis, operation).

    Its type and package are in its unique_id, which dbt makes of them: two strings less for each of so many.
    """

    name: str | None = None
    fqn: tuple[str, ...] | None = None
    version: Any = None
    original_file_path: str | None = None
    checksum: Checksum | None = None
    config: Config | None = None
    depends_on: DependsOn | None = None
    # Where dbt before 1.10 also writes it.
    meta: AnyMeta = None
    relation_name: str | None = None


class SourceConfig(Record):
    """The config of a source table, or of what nothing builds; ``freshness`` is kept as a plain value."""

    enabled: Any = True
    freshness: Any = None


class Source(Record):
    """An entry of ``sources``: one source table."""

    name: str = ""
    source_name: str = ""
    package_name: str = ""
    relation_name: str | None = None
    config: SourceConfig | None = None
    # Where dbt before 1.10 writes it.
    freshness: Any = None


class Leaf(Record):
    """An exposure, metric, semantic model, saved query, unit test or function."""

    config: SourceConfig | None = None
    depends_on: DependsOn | None = None


class ExposureConfig(SourceConfig):
    """The config of an exposure."""

    meta: AnyMeta = None


class Exposure(Leaf):
    """An entry of ``exposures``; dbt 2 writes its ``meta`` in the config alone."""

    name: str | None = None
    config: ExposureConfig | None = None
    meta: AnyMeta = None


class Given(Record):
    """An input of a unit test; ``input`` as written: ``ref('a')``, ``source('b', 'c')`` or ``this``."""

    input: str = ""


def block_of(record: Node | Exposure) -> Any:
    """Return ``meta.lineage_orch`` of a record, as dbt wrote it; None where there is none."""
    for meta in (record.config and record.config.meta, record.meta):
        if isinstance(meta, Meta) and meta.lineage_orch is not None:
            return meta.lineage_orch
    return None


class UnitTest(Leaf):
    """An entry of ``unit_tests``."""

    fqn: tuple[str, ...] | None = None
    given: tuple[Given, ...] | None = None
    checksum: Any = None


class Metadata(Record):
    """The header of the manifest."""

    dbt_schema_version: str | None = None
    dbt_version: str | None = None
    project_name: str | None = None
    adapter_type: str | None = None


Leaves = dict[str, Leaf] | None
Edges = dict[str, tuple[str, ...] | None] | None


class Manifest(msgspec.Struct):
    """What lineage reads of a manifest.

    ``nodes``, ``sources`` and the leaf sections are keyed by unique_id; ``child_map`` maps a unique_id to
    those of its children, as dbt computed them. ``path`` is the file, or None for one that was passed in.
    """

    nodes: dict[str, Node]
    sources: dict[str, Source] | None = None
    metadata: Metadata | None = None
    exposures: dict[str, Exposure] | None = None
    metrics: Leaves = None
    semantic_models: Leaves = None
    saved_queries: Leaves = None
    unit_tests: dict[str, UnitTest] | None = None
    functions: Leaves = None
    child_map: Edges = None
    path: str | None = None

    @property
    def where(self) -> str:
        """How error messages name this manifest."""
        return f"manifest {self.path}" if self.path else "the manifest that was passed in"

    def leaf_sections(self) -> Iterator[tuple[str, Mapping[str, Leaf]]]:
        """Yield ``(resource_type, {unique_id: leaf})`` for the sections whose members nothing builds."""
        for resource_type, section in (
            ("exposure", self.exposures),
            ("metric", self.metrics),
            ("semantic_model", self.semantic_models),
            ("saved_query", self.saved_queries),
            ("unit_test", self.unit_tests),
            ("function", self.functions),
        ):
            if section:
                yield resource_type, section


_decoder = msgspec.json.Decoder(Manifest)

# Other artifacts of dbt lie in the same folder; pointing at one of them happens easily.
_OTHER_ARTIFACTS = ("catalog", "run-results", "sources", "semantic_manifest")


def read_manifest(source: str | os.PathLike[str] | Mapping[str, Any]) -> Manifest:
    """Read a manifest from a file, or from the dict that ``json.load`` made of one.

    Raises:
        ManifestError: the file is missing, empty, cut off, not JSON, or not a dbt manifest; the message names
            the file and says what is wrong with it.
    """
    if isinstance(source, Mapping):
        return _from_mapping(source)
    path = Path(source)
    try:
        with collector_off():
            manifest = _manifest_in_pieces(path)
        # Not mapped into memory: dbt rewrites the file in place, and a page of a mapped file that was cut
        # away under a reader kills the process, which may be a load.
        data = path.read_bytes() if manifest is None else b""
    except FileNotFoundError:
        raise ManifestError(
            f"no manifest at {path}; run `dbt parse` in the dbt project, or point to the right file"
        ) from None
    except IsADirectoryError:
        raise ManifestError(f"the manifest path {path} is a folder; point to the manifest.json in it") from None
    except OSError as error:
        raise ManifestError(f"manifest {path} cannot be read: {error.strerror or error}") from error
    if manifest is not None:
        _check(manifest, f"manifest {path}")
    elif not data:
        raise ManifestError(f"manifest {path} is empty; run `dbt parse` to write it anew")
    else:
        with collector_off():
            manifest = _decode(data, f"manifest {path}")
    manifest.path = str(path)
    return manifest


# Pieces ---------------------------------------------------------------------------------------------------

# Below this many bytes pieces bring nothing.
_LARGE = 4 << 20
_PIECE = 1 << 20
# Where an entry of `nodes` ends and the next begins, in the JSON that dbt writes.
_CUTS = (b'}, "model.', b'}, "test.')
_node_decoder = msgspec.json.Decoder(dict[str, Node])


def _manifest_in_pieces(path: Path) -> Manifest | None:
    nodes: dict[str, Node] = {}
    found = decode_in_pieces(path, _decoder, _node_decoder, nodes.update)
    if found is None:
        return None
    manifest, tail = found
    for each in (manifest, tail):
        nodes.update(each.nodes)
    manifest.nodes = nodes
    for name in manifest.__struct_fields__:
        if name != "nodes" and (value := getattr(tail, name)) is not None:
            setattr(manifest, name, value)
    return manifest


M = TypeVar("M")
N = TypeVar("N")


def decode_in_pieces(
    path: Path,
    decoder: msgspec.json.Decoder[M],
    node_decoder: msgspec.json.Decoder[dict[str, N]],
    take: Callable[[dict[str, N]], object],
) -> tuple[M, M] | None:
    """Decode a large manifest while it is read, ``nodes`` in pieces; None where that cannot be done.

    Most of a manifest is code and texts of ``nodes`` that lineage never looks at, and memory for all of it at once
    costs more time than to read it. So the file passes through one small buffer, which is cut at places that look
    like the end of an entry. A wrong guess does no harm: what stands before the cut is decoded as an object of its
    own, and that works only if it is whole entries. What comes after ``nodes`` is decoded in one.

    What it saves, beside reading the whole file at once (medians of nine runs each, side by side, of the benchmark's
    manifests of 22 MB and 214 MB): at 1,000 models an eighth of the time (0.029 s of CPU for 0.033 s) and a third of
    the memory (29 MB at the peak of the process for 46 MB); at 10,000 a fifth (0.29 s for 0.36 s) and two thirds (85 MB
    for 274 MB).

    The answer is the same as for the whole file at once; None means to find out that way, also what is wrong with it.

    Args:
        node_decoder: of some entries of ``nodes``.
        take: is given entries of ``nodes`` as they come. What is ``Raw`` in them holds until it returns.

    Returns:
        What stands before ``nodes``, and what comes behind the last entries that were given to ``take``, those included
        that are left; both as the decoder of the whole makes them.
    """
    with path.open("rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        if before.st_size < _LARGE:
            return None
        buffer = bytearray(_PIECE)
        end = file.readinto(buffer)
        start = buffer.find(b'"nodes": {"', 0, end)
        if start < 0:
            return None
        start += len(b'"nodes": {')
        try:
            head = decoder.decode(buffer[:start] + b"}}")
            with memoryview(buffer) as view:
                while (cut := _last_cut(buffer, start, end)) >= 0:
                    # The "{" before it and a "}" for the "," behind it make it an object.
                    buffer[start - 1] = ord("{")
                    buffer[cut + 1] = ord("}")
                    take(node_decoder.decode(view[start - 1 : cut + 2]))
                    # Keep what is left, behind the place for the next "{".
                    rest = end - (cut + 3)
                    view[1 : rest + 1] = bytes(view[cut + 3 : end])
                    start = 1
                    end = rest + 1 + (file.readinto(view[rest + 1 :]) or 0)
                tail = decoder.decode(_joined(b'{"nodes": {' + bytes(view[start:end]), file))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        return None  # dbt writes it now: half of what was read is perhaps of before
    return head, tail


def _joined(begin: bytes, file: RawIOBase) -> bytearray:
    """Return ``begin`` and the rest of the file, which is large: in memory once, and not once more to join them."""
    rest = os.fstat(file.fileno()).st_size - file.tell()
    whole = bytearray(len(begin) + rest)
    whole[: len(begin)] = begin
    with memoryview(whole) as view:
        at = len(begin)
        while at < len(whole) and (count := file.readinto(view[at:])):
            at += count
    return whole


def _last_cut(buffer: bytearray, start: int, end: int) -> int:
    """Return where the last whole entry seems to end, or -1."""
    # Almost always near the end.
    for low in (max(start, end - (1 << 15)), start):
        cut = -1
        for each in _CUTS:
            cut = max(cut, buffer.rfind(each, max(low, cut), end))
        if cut >= 0:
            return cut
    return -1


@contextmanager
def collector_off() -> Iterator[None]:
    """Keep the cyclic collector still while many small objects are made at once, none of them garbage."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _decode(data: bytes, where: str) -> Manifest:
    try:
        return _check(_decoder.decode(data), where)
    except msgspec.ValidationError as error:
        raise not_a_manifest(where, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _decode_leniently(data, where, error)
    except RecursionError:
        raise _too_deep(where) from None


def _decode_leniently(data: bytes, where: str, error: Exception) -> Manifest:
    """Read what strict JSON refuses but Python's own reader, which wrote the file, takes (NaN, a BOM)."""
    try:
        return _from_mapping(json.loads(data.decode("utf-8-sig", "surrogatepass")), where)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ManifestError(f"{where} is not JSON: {_diagnose(data, error)}") from None
    except RecursionError:
        raise _too_deep(where) from None


def _diagnose(data: bytes, error: Exception) -> str:
    start = data[:64].lstrip()
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; run `git lfs pull` to get the file itself"
    if data[:2] == b"\x1f\x8b":
        return "it is gzip-compressed; unpack it first"
    if "truncated" in str(error) or (start.startswith(b"{") and not data.rstrip().endswith(b"}")):
        return f"it is cut off after {len(data):,} bytes; run `dbt parse` to write it anew"
    return f"{error}; it starts with {start[:24].decode('utf-8', 'replace')!r}; run `dbt parse` to write it anew"


def _from_mapping(data: Any, where: str = "the manifest that was passed in") -> Manifest:
    if not isinstance(data, Mapping):
        raise not_a_manifest(where, f"it holds a JSON {type(data).__name__}, not an object")
    try:
        return _check(msgspec.convert(data, Manifest), where)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:  # half of a surrogate pair is no text
        raise not_a_manifest(where, str(error)) from None
    except RecursionError:
        raise _too_deep(where) from None


def _too_deep(where: str) -> ManifestError:
    return not_a_manifest(where, "its values are nested deeper than any that dbt writes")


def _check(manifest: Manifest, where: str) -> Manifest:
    schema = (manifest.metadata and manifest.metadata.dbt_schema_version) or ""
    for artifact in _OTHER_ARTIFACTS:
        if f"/{artifact}/" in schema:
            raise not_a_manifest(where, f"its schema is {schema}")
    if manifest.sources is None and not manifest.metadata:
        raise not_a_manifest(where, "it has neither `metadata` nor `sources`")
    return manifest


def not_a_manifest(where: str, why: str) -> ManifestError:
    """Return the error for what is JSON and no manifest."""
    return ManifestError(f"{where} is no dbt manifest: {why}; point to target/manifest.json of the dbt project")
