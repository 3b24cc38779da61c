"""A warehouse that is simulated: what is in a table is made of what was in its parents when it was built."""

from __future__ import annotations

import hashlib
from typing import Any

from lineage_orch.lineage import Lineage
from lineage_orch.testing import FakeDbt


class Killed(BaseException):
    """The process is gone, as after ``kill -9``."""


class Warehouse(FakeDbt):
    """A dbt whose nodes hold data: few different ones, so that much comes out as it was.

    ``tables`` holds what is in each source and table.
    """

    def __init__(self, lineage: Lineage, *, kinds: int = 3) -> None:
        super().__init__(lambda: self.lineage)
        self.lineage = lineage
        self.kinds = kinds
        self.tables: dict[str, str] = {}
        self.wobble: set[str] = set()
        self.unknown: set[str] = set()
        self.life: int | None = None
        self.before_node = self.make

    def make(self, node: str) -> None:
        self.end_of_life()
        if node in self.failing:
            # A part of it may have been written.
            if node in self.wobble:
                self.tables[node] = "half written"
            return
        self.tables[node] = self.made(node, self.tables)

    def end_of_life(self) -> None:
        if self.life is not None:
            self.life -= 1
            if self.life < 0:
                raise Killed

    def made(self, node: str, tables: dict[str, str]) -> str:
        """What a build of a node makes of what is there: one of ``kinds`` contents."""
        graph = self.lineage.built_graph
        ids = [graph.ids[parent] for parent in graph.parents[graph.index[node]]]
        whole = " ".join([node, self.lineage.identity(node), *(f"{each} {self.shown(each, tables)}" for each in ids)])
        return f"{node} {int(hashlib.sha256(whole.encode()).hexdigest(), 16) % self.kinds}"

    def shown(self, each: str, tables: dict[str, str]) -> str:
        """What who reads it sees: of a view, what it is made of now."""
        if each in self.lineage.nodes and self.lineage.nodes[each].materialized == "view" and each in tables:
            return self.made(each, tables)
        return tables.get(each, "nothing")

    def contents(self, lineage: Lineage, nodes: Any) -> dict[str, str]:
        self.end_of_life()
        return {each: self.tables[each] for each in nodes if each not in self.unknown}

    def full_build(self) -> dict[str, str]:
        """The tables of a build of everything, from the sources as they are."""
        graph = self.lineage.built_graph
        tables = {each: rows for each, rows in self.tables.items() if each.startswith("source.")}
        for each in graph.ids[graph.source_count :]:
            tables[each] = self.made(each, tables)
        return tables
