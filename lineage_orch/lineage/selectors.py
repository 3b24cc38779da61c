"""dbt selectors that match exactly one source or one node.

dbt's grammar has no quoting: a space, a comma, a dot, a plus or a colon inside a name splits it, and ``*``,
``?`` and ``[`` are globs. And ``fqn:pkg.a`` means the model ``a`` *and* everything in a folder ``a``. So a
selector is written, then checked against all names of the project as dbt would match it, and narrowed until
it matches one thing only. (dbt docs: "Node selector methods"; the matching is that of dbt-core's
``QualifiedNameSelectorMethod`` and ``SourceSelectorMethod``.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import PurePosixPath

from lineage_orch.errors import LineageError
from lineage_orch.lineage import manifest as raw
from lineage_orch.lineage.records import Named, Node, SourceTable, fqn_of, selectable

# Globs and marks, written so that they match themselves.
_MARKS = {char: f"[{char}]" for char in "*?[+:@"}
# What splits a selector cannot stand in it at all: it is written as any one character ...
_LOOSE = {**_MARKS, **dict.fromkeys(" \t\n.,", "?")}
# ... and, where that matches too much, as none of all the others: "[!\x1f-+--\U0010ffff]" is the comma.
_TIGHT = {
    **_LOOSE,
    " ": "[!\x1f!-\U0010ffff]",
    ",": "[!\x1f-+--\U0010ffff]",
    ".": "[!\x1f--/-\U0010ffff]",
}


def _escape(text: str, table: dict[str, str]) -> str:
    return "".join(table.get(char, char) for char in text)


def _is_plain(text: str) -> bool:
    return bool(text) and not any(char in _LOOSE for char in text)


def _is_plain_path(text: str) -> bool:
    return all(map(_is_plain, text.split(".")))


def fqn_matches(selector: str, fqn: tuple[str, ...], is_versioned: bool) -> bool:
    """Whether dbt's ``fqn:`` method with this value matches a node."""
    return _fqn_matches(selector, fqn, is_versioned) or _fqn_matches(selector, fqn[1:], is_versioned)


def _fqn_matches(selector: str, fqn: tuple[str, ...], is_versioned: bool) -> bool:
    parts = selector.split(".")
    if is_versioned and len(fqn) > 1:
        if fqn[-2] == selector or "_".join(fqn[-2:]) == "_".join(parts[-2:]):
            return True
    elif fqn and fqn[-1] == selector:
        return True
    flat = [each for segment in fqn for each in segment.split(".")]
    if len(flat) < len(parts):
        return False
    for position, part in enumerate(parts):
        if any(glob in part for glob in "*?[]"):
            if fnmatchcase(".".join(flat[position:]), ".".join(parts[position:])):
                return True
            leaf = fqn[-2] if is_versioned and len(fqn) > 1 else fqn[-1]
            return len(parts) == 1 and fnmatchcase(leaf, selector)
        if flat[position] != part:
            return False
    return True


def _anchor(fqn: tuple[str, ...], table: dict[str, str] = _LOOSE) -> str:
    """Write an fqn with a glob in its last part.

    A glob makes dbt compare the whole of the rest, so that "pkg.[a]" is the model and not the folder.
    """
    head, _, last = ".".join(_escape(part, table) for part in ".".join(fqn).split(".")).rpartition(".")
    if last[:1] not in ("", "[", "?"):
        last = ("?" if last[0] == "!" else f"[{last[0]}]") + last[1:]
    return f"{head}.{last}"


@dataclass(eq=False)
class SelectorWriter:
    """Writes selectors for the sources and nodes of one project.

    Args:
        sources: the source tables, by unique_id.
        nodes: what dbt builds, by unique_id.
        records: the manifest's ``nodes``: these too, and ephemeral models and tests.
        unit_tests: the manifest's ``unit_tests``.
    """

    _where: str
    _sources: Mapping[str, SourceTable]
    _nodes: Mapping[str, Node]
    _records: Mapping[str, raw.Node]
    _unit_tests: Mapping[str, raw.UnitTest]

    def source(self, unique_id: str) -> str:
        """Return a selector of this source alone, without its children: ``source:package.source.table``.

        Raises:
            LineageError: every way to write it would match another source too.
        """
        source = self._sources[unique_id]
        if unique_id in self._records:  # a model of another project, of which dbt builds nothing
            return f"fqn:{_anchor(fqn_of(unique_id, self._records[unique_id]))}"
        parts = (source.package, source.source_name, source.table)
        if all(map(_is_plain, parts)):
            return "source:" + ".".join(parts)
        for table in (_LOOSE, _TIGHT):
            written = [_escape(part, table) for part in parts]
            if sum(self._source_matches(written)) == 1:
                return "source:" + ".".join(written)
        raise LineageError(
            f"dbt's selectors cannot tell {unique_id} in {self._where} from a source with nearly the "
            "same name; rename the table (its `identifier` can keep the real name)"
        )

    def _source_matches(self, written: list[str]) -> Iterator[bool]:
        package, source_name, table = written
        for source in self._sources.values():
            yield source.unique_id not in self._records and (
                fnmatchcase(source.package, package)
                and fnmatchcase(source.source_name, source_name)
                and fnmatchcase(source.table, table)
            )

    def node(self, unique_id: str) -> str:
        """Return a selector of this node alone, without its children.

        Raises:
            LineageError: every way to write it would match another node too.
        """
        node = self._nodes[unique_id]
        dotted = ".".join(node.fqn)
        if _is_plain_path(dotted) and node.version is None and not self._is_ambiguous(dotted):
            return f"fqn:{dotted}"
        file = PurePosixPath(node.original_file_path.replace("\\", "/")).name
        for table in (_LOOSE, _TIGHT):
            fqn = _anchor(node.fqn, table)
            narrowing = (
                ("package", _escape(node.package, table)),
                ("resource_type", node.resource_type),
                ("file", _escape(file, table)),
            )
            for count in range(len(narrowing) + 1):
                if self._selects_only(unique_id, fqn, narrowing[:count]):
                    return ",".join([f"fqn:{fqn}", *map(":".join, narrowing[:count])])
        raise LineageError(
            f"dbt's selectors cannot tell {unique_id} in {self._where} from another node with nearly "
            "the same name in the same folder; rename one of them"
        )

    def test(self, unique_id: str) -> str:
        """Return a selector of this data test or unit test, and of nothing that is built."""
        if unique_id in self._unit_tests:
            # package, folders, model and test: "unit_test.package.model.test" where the manifest has none.
            fqn = self._unit_tests[unique_id].fqn or tuple(unique_id.split(".", 3)[1:])
            return f"fqn:{_anchor(fqn)},resource_type:unit_test"
        return f"fqn:{_anchor(fqn_of(unique_id, self._records[unique_id]))},resource_type:test"

    def test_bearer(self, unique_id: str) -> str:
        """Return a selector of this ephemeral model: it builds nothing, and brings its tests."""
        return f"fqn:{_anchor(fqn_of(unique_id, self._records[unique_id]))},config.materialized:ephemeral"

    @cached_property
    def _selectable(self) -> list[Named]:
        return list(selectable(self._records))

    def _test_folders(self) -> Iterable[tuple[str, ...]]:
        for unique_id, record in self._records.items():
            if unique_id.startswith("test.") and record.fqn:
                yield record.fqn[:-1]

    def _selects_only(self, unique_id: str, fqn: str, narrowing: tuple[tuple[str, str], ...]) -> bool:
        head = fqn.rpartition(".")[0]
        near = self._below_prefix.get(head, ()) if _is_plain_path(head) else self._selectable
        found = [each for each, parts, is_versioned in near if fqn_matches(fqn, parts, is_versioned)]
        for method, value in narrowing:
            found = [each for each in found if self._narrow(each, method, value)]
        return found == [unique_id]

    @cached_property
    def _below_prefix(self) -> dict[str, list[Named]]:
        """What a selector can match at all, by the part of it before its last dot, if there is no glob in that."""
        found: dict[str, list[Named]] = {}
        for each in self._selectable:
            for fqn in (each.fqn, each.fqn[1:]):
                flat = ".".join(fqn).split(".")
                for end in range(1, len(flat)):
                    found.setdefault(".".join(flat[:end]), []).append(each)
        return {head: list(dict.fromkeys(group)) for head, group in found.items()}

    def _narrow(self, unique_id: str, method: str, value: str) -> bool:
        node = self._nodes.get(unique_id)
        if node is None:
            # An ephemeral model: dbt builds nothing for it, so selecting it too does no harm.
            return False
        if method == "package":
            return fnmatchcase(node.package, value)
        if method == "resource_type":
            return node.resource_type == value
        path = PurePosixPath(node.original_file_path.replace("\\", "/"))
        return fnmatchcase(path.name, value) or fnmatchcase(path.stem, value)

    def _is_ambiguous(self, dotted: str) -> bool:
        folders, names, versioned = self._fqn_index
        last_two = "_".join(dotted.split(".")[-2:])
        return dotted in folders or names.get(dotted, 0) > 1 or last_two in versioned

    @cached_property
    def _fqn_index(self) -> tuple[frozenset[str], dict[str, int], frozenset[str]]:
        """What a plain ``fqn:`` value could mean beside the node of that name.

        The folders (with and without the package), how many nodes answer to each full name, and the
        ``name_v2`` forms under which dbt also finds versioned models.
        """
        folders: set[tuple[str, ...]] = set(self._test_folders())
        names: dict[str, int] = {}
        versioned: set[str] = set()
        for _, fqn, is_versioned in self._selectable:
            folders.add(fqn[:-1])
            for name in {".".join(fqn), ".".join(fqn[1:]), fqn[-1]}:
                names[name] = names.get(name, 0) + 1
            if is_versioned:
                versioned.add("_".join(fqn[-2:]))
            # A dot in a name splits it like a folder.
            if "." in fqn[-1]:
                flat = ".".join(fqn).split(".")
                folders.update(tuple(flat[:end]) for end in range(len(fqn), len(flat)))
        prefixes: set[str] = set()
        for folder in folders:
            flat = ".".join(folder).split(".")
            prefixes.update(".".join(flat[:end]) for end in range(1, len(flat) + 1))
            prefixes.update(".".join(flat[1:end]) for end in range(2, len(flat) + 1))
        return frozenset(prefixes), names, frozenset(versioned)
