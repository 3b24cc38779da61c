"""Which source a flow seems to load, by the names of both: suggestions, for a person to look at."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from lineage_orch.lineage.records import SourceTable
from lineage_orch.loads.written import WrittenFlow

# Words that say what is done with a table, and not which it is.
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "api data dbt dim el elt etl export ext external extract fetch file flow get import ingest int job land "
        "landing load main prod pull raw run source src stage staging stg sync table task tbl the to",
    )
)


def suggest(
    flows: Iterable[WrittenFlow], sources: Iterable[SourceTable], folder: Path
) -> Mapping[WrittenFlow, tuple[str, ...]]:
    """Return the sources that each flow seems to load: ``source_name.table``, or ``source_name.*`` for all of one.

    A flow loads a table whose name is a text in it, or whose words are all in the flow's name or its path. Of several
    flows it is the one whose name says the least else; where that is no single one, none is suggested.

    Args:
        flows: without a ``@produces_source``.
        sources: without a producer.
        folder: from which the paths of the flows count.
    """
    written, tables = list(flows), list(sources)
    scores: dict[WrittenFlow, dict[str, _Score]] = {}
    for flow in written:
        scored = _Scored(flow, folder)
        scores[flow] = {each.unique_id: scored.of(each) for each in tables}
    found: dict[WrittenFlow, list[SourceTable]] = defaultdict(list)
    for source in tables:
        best = max((scores[flow][source.unique_id] for flow in written), default=_NONE)
        first = [flow for flow in written if scores[flow][source.unique_id] == best]
        if best > _NONE and len(first) == 1:
            found[first[0]].append(source)
    suggested = {flow: _nearest(each, scores[flow]) for flow, each in found.items()}
    of_source: dict[str, list[SourceTable]] = defaultdict(list)
    for source in tables:
        of_source[source.source_name].append(source)
    taken = {source.source_name for each in suggested.values() for source in each}
    out = {flow: list(_named(each, of_source)) for flow, each in suggested.items()}
    for source_name in of_source.keys() - taken:
        words = _words(source_name) - _COMMON
        loading = [each for each in written if words and words <= _words(each.function) | _words(each.name)]
        if len(loading) == 1 and loading[0] not in out:
            out[loading[0]] = [f"{source_name}.*"]
    return {flow: tuple(out[flow]) for flow in written if flow in out}


# How sure it is, whether the source's own name is there too, and how many other words the flow's name has, negative.
_Score = tuple[int, bool, int]
_NONE: _Score = (0, False, 0)


class _Scored:
    def __init__(self, flow: WrittenFlow, folder: Path) -> None:
        path = flow.file.relative_to(folder) if flow.file.is_relative_to(folder) else flow.file
        self._named = _words(flow.function) | _words(flow.name)
        self._words = self._named | _words(str(path.with_suffix("")))
        self._texts = flow.texts

    def of(self, source: SourceTable) -> _Score:
        """Return how well a source fits the flow."""
        key = _words(source.table) - _COMMON
        sure = (
            3
            if source.table in self._texts or f"{source.source_name}.{source.table}" in self._texts
            else 2
            if key and key <= self._named
            else 1
            if key and key <= self._words
            else 0
        )
        if not sure:
            return _NONE
        named = _words(source.source_name) - _COMMON
        return sure, bool(named) and named <= self._words, -len(self._named - _COMMON - key)


def _nearest(sources: Sequence[SourceTable], scores: Mapping[str, _Score]) -> list[SourceTable]:
    """Of tables of one name in several sources, return those that fit best."""
    by_table: dict[str, list[SourceTable]] = defaultdict(list)
    for each in sources:
        by_table[each.table].append(each)
    out: list[SourceTable] = []
    for same in by_table.values():
        best = max(scores[each.unique_id] for each in same)
        out += [each for each in same if scores[each.unique_id] == best]
    return out


def _named(sources: Sequence[SourceTable], of_source: Mapping[str, Sequence[SourceTable]]) -> Iterator[str]:
    by_name: dict[str, list[SourceTable]] = defaultdict(list)
    for each in sources:
        by_name[each.source_name].append(each)
    for name, tables in by_name.items():
        if len(tables) > 3 and len(tables) == len(of_source[name]):
            yield f"{name}.*"
        else:
            yield from (f"{name}.{each.table}" for each in tables)


@cache
def _words(name: str) -> frozenset[str]:
    """Return the words of a name, in lower case and of one number: ``rawOrder_items`` -> raw, order, item."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    return frozenset(each[:-1] if len(each) > 3 and each.endswith("s") else each for each in map(str.lower, parts))
