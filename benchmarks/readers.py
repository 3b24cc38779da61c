"""The contenders of rows 1 to 4. They import little: what a process imports counts in its peak memory.

Each imports what it needs, and then its clock runs, from the closed file to a set of unique_ids for each source. So
import times (4 s for prefect-dbt, 0.1 s for ours) are not in the ratios.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import wraps
from pathlib import Path

Closure = Mapping[str, Collection[str]]


def digest(closure: Closure) -> list[int]:
    """What all contenders must agree on: the sources, and how many nodes are downstream of them.

    Without the exposures: prefect-dbt does not read them.
    """
    return [len(closure), sum(not each.startswith("exposure.") for below in closure.values() for each in below)]


def _contender(make: Callable[[str], Callable[[], Closure]]) -> Callable[[str], Callable[[], Closure]]:
    @wraps(make)
    def made(path: str) -> Callable[[], Closure]:
        work = make(path)
        work.digest = digest  # type: ignore[attr-defined]
        return work

    return made


@_contender
def ours(path: str) -> Callable[[], Closure]:
    from lineage_orch.lineage import Lineage

    def work() -> Closure:
        lineage = Lineage.from_manifest(path)
        return {source: lineage.downstream(source) for source in lineage.sources}

    return work


@_contender
def bare_msgspec(path: str) -> Callable[[], Closure]:
    """What anyone would write with msgspec: the same fields, read(), and a breadth-first closure."""
    from benchmarks.bare import decoder

    def work() -> Closure:
        with open(path, "rb") as file:
            data = file.read()
        decoded = decoder.decode(data)
        return breadth_first(decoded.sources, decoded.child_map)

    return work


@_contender
def prefect_dbt(path: str) -> Callable[[], Closure]:
    from prefect_dbt.core._manifest import ManifestParser

    def work() -> Closure:
        parser = ManifestParser(Path(path))
        children: dict[str, list[str]] = {}
        for unique_id, node in parser.all_nodes.items():
            for parent in node.depends_on:
                children.setdefault(parent, []).append(unique_id)
        sources = [unique_id for unique_id in parser.all_nodes if unique_id.startswith("source.")]
        return breadth_first(sources, children)

    return work


@_contender
def dbt_itself(path: str) -> Callable[[], Closure]:
    import json

    from dbt.compilation import Linker
    from dbt.contracts.graph.manifest import Manifest, WritableManifest
    from dbt.graph import Graph

    def work() -> Closure:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        loaded = Manifest.from_writable_manifest(WritableManifest.from_dict(data))
        linker = Linker()
        linker.link_graph(loaded)
        graph = Graph(linker.graph)
        return {source: graph.select_children({source}) for source in loaded.sources}

    return work


def breadth_first(sources: Iterable[str], children: Mapping[str, list[str]]) -> Closure:
    out = {}
    for source in sources:
        seen = set()
        queue = list(children.get(source, ()))
        for each in queue:  # grows while it is walked
            if each not in seen:
                seen.add(each)
                queue += children.get(each, ())
        out[source] = seen
    return out


@_contender
def nothing(path: str) -> Callable[[], Closure]:
    """An interpreter with our imports, that reads nothing."""
    from lineage_orch.lineage import Lineage

    assert Lineage
    return lambda: {}
