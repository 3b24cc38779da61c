"""What people call things -> dbt's unique_ids, and the nearest real names for a wrong one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

from lineage_orch.errors import LineageError, UnknownNodeError, UnknownSourceError, did_you_mean
from lineage_orch.lineage.records import Node, SourceTable
from lineage_orch.text import few


class _Identified(Protocol):
    @property
    def unique_id(self) -> str: ...


@dataclass(eq=False)
class Names:
    """The names under which one kind of thing is known; several things may share a name."""

    _kind: str
    _where: str
    _error: type[LineageError]
    _aliases: Mapping[str, list[str]]
    _groups: Mapping[str, list[str]]
    shown: list[str]
    _qualified: str

    def one(self, name: str) -> str:
        """Return the unique_id that ``name`` stands for; raises this kind's error if none or several."""
        found = self._aliases.get(name)
        if found is None:
            if name in self._groups:
                raise self._error(
                    f"{name!r} means all tables of a source, and one {self._kind} is asked for here; name a table"
                )
            raise self._unknown(name)
        return self._only(name, found)

    def some(self, name: str) -> list[str]:
        """Return the unique_ids that ``name`` stands for; a group such as ``source_name.*`` has several."""
        if name in self._aliases:
            return [self._only(name, self._aliases[name])]
        found = self._groups.get(name)
        if found is None:
            raise self._unknown(name)
        packages = {unique_id.split(".")[1] for unique_id in found}
        if len(packages) > 1:
            raise self._ambiguous(name, [f"{package}.{name}" for package in sorted(packages)])
        return found

    def like(self, pattern: str) -> list[str]:
        """Return the unique_ids of all that go by a name, or by one that matches a pattern of the shell."""
        if pattern in self._aliases:
            return self._aliases[pattern]
        found = (ids for name, ids in self._aliases.items() if fnmatchcase(name, pattern))
        return list(dict.fromkeys(each for ids in found for each in ids))

    def _only(self, name: str, found: list[str]) -> str:
        if name in found:  # a unique_id means itself, whatever else goes by that name
            return name
        if len(found) > 1:
            raise self._ambiguous(name, found)
        return found[0]

    def _ambiguous(self, name: str, found: Iterable[str]) -> LineageError:
        listed = " and ".join(found)
        return self._error(
            f"{self._kind} {name!r} stands for more than one in {self._where}: {listed}; {self._qualified}"
        )

    def _unknown(self, name: str) -> LineageError:
        if not self.shown:
            return self._error(f"no {self._kind} {name!r} in {self._where}, which has no {self._kind}s at all")
        candidates = self.shown
        if name in (short := {shown.rpartition(".")[2]: shown for shown in candidates}):
            hint = f"; did you mean {short[name]!r}?"
        else:
            # A name given in full is compared with full names, a short one with short ones.
            known = self._aliases if name.startswith(f"{self._kind}.") else candidates
            hint = did_you_mean(name, [*known, *self._groups] if name.endswith("*") else known)
        if not hint:
            hint = f"; it has {few(sorted(candidates), most=5)}"
        return self._error(f"no {self._kind} {name!r} in {self._where}{hint}")


def source_names(sources: Iterable[SourceTable], where: str) -> Names:
    """Return the names of sources: ``source_name.table``, ``package.source_name.table``, unique_id."""
    aliases: dict[str, list[str]] = {}
    groups: dict[str, list[str]] = {}
    shown: list[str] = []
    for source in sources:
        short = f"{source.source_name}.{source.table}"
        shown.append(short)
        _add(aliases, source, short, f"{source.package}.{short}", source.unique_id)
        group = f"{source.source_name}.*"
        _add(groups, source, group, f"{source.package}.{group}", f"source.{source.package}.{group}")
    return Names("source", where, UnknownSourceError, aliases, groups, shown, "write package.source_name.table")


def node_names(nodes: Iterable[Node], where: str) -> Names:
    """Return the names of nodes: name, ``package.name``, ``name.v2`` of a versioned model, unique_id."""
    aliases: dict[str, list[str]] = {}
    shown: list[str] = []
    for node in nodes:
        short = node.name if node.version is None else f"{node.name}.v{node.version}"
        shown.append(short)
        also = (node.name, f"{node.package}.{node.name}") if node.version is not None else ()
        _add(aliases, node, short, f"{node.package}.{short}", node.unique_id, *also)
    return Names("node", where, UnknownNodeError, aliases, {}, shown, "write package.name, or the unique_id")


def _add(into: dict[str, list[str]], thing: _Identified, *under: str) -> None:
    for name in dict.fromkeys(under):
        into.setdefault(name, []).append(thing.unique_id)
