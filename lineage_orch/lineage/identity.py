"""What a node is made of, by parts: a node whose parts differ from those of its last good build is stale.

The rule, with what dbt 1.11 writes for each (a part is there only where the node has such a thing):

``file``
    its code, or dbt's checksum where it has none, as a seed. dbt's checksum of code is not taken: up to dbt 1.11 it is
    of the file as it is, since then (dbt 2 too) of the file with its white space made one; and of a snapshot it is of
    the whole file, in which other snapshots may stand. Of a seed above 1 MiB dbt knows the path alone, and says so
    with each parse: what changes in such a file is not seen.
``macro <unique_id>``
    the code of each macro that it uses: those that dbt saw it call, those that its code and its hooks call by name,
    what its materialization and its incremental or snapshot strategy are made of, and all that these call. What dbt
    saw is not enough: dbt 1 parses no branch that runs only as the node is built (``{% if execute %}``), and of dbt 2
    `parse` writes no call of a macro by a macro, while `build` writes those that it came by. dbt's own macros and the
    adapter's are left out, for a release of dbt is no change of the project; but they are looked through, since they
    lead to what a project puts in their place (``create_table_as``, ``default__current_timestamp``). What is called
    by a name that is made while dbt runs (``context['a' ~ 'b']``) is not seen. Macros that name schemas and relations
    show in ``relation``. Tests are no part of the node that they test.
``ephemeral <unique_id>``, ``function <unique_id>``
    the code and config of what dbt pastes into it, or what it calls, of any depth.
``config <key>``
    what alters the relation or its rows; every key that is not in ``NOT_OF_THE_RELATION``, since adapters have many
    keys of their own. A key that is not set, or has dbt's default, is no part: so a release of dbt with a new key
    changes nothing. What the releases of dbt write in more than one way is brought into one: ``begin``, which dbt 1.9
    to 1.12 complete with a time, and ``materialized`` of a seed, which dbt 2 leaves out. ``contract`` holds the
    columns and constraints, if it is enforced. ``meta`` counts where the code asks for it.
``relation``
    database, schema and identifier.
``parents``
    what it reads, ephemeral models seen through, and the relations of these: so a ``ref`` of another
    ``latest_version``, or a source that moved, is a change of exactly the readers.
``var <name>``, ``env_var <name>``
    the value of each variable that the code names, if it is set.

Values that may be secret are kept as fingerprints: the first 16 hex digits of a SHA-256. Only ``relation`` and
``config materialized`` are kept as they are. Nothing here depends on the order of the manifest, on the time or on the
folder that the project lies in.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from lineage_orch.lineage.details import Macro, NodeDetails
from lineage_orch.lineage.records import BuiltGraph, SourceTable, package_of

NOT_OF_THE_RELATION = frozenset(
    {
        # Who may know of it, and what is said of it.
        *("enabled", "tags", "meta", "group", "docs", "access", "description", "persist_docs", "classifiers"),
        # When and how it is built, and what is checked before.
        *("freshness", "state", "full_refresh", "concurrent_batches", "on_configuration_change", "on_error"),
        *("static_analysis", "loaded_at_field", "loaded_at_query", "config_keys_used", "config_keys_defaults"),
        # These show in `relation`, with what the project's own macros made of them.
        *("alias", "schema", "database", "target_schema", "target_database", "quoting"),
        # Its columns are looked at if it is enforced.
        "contract",
    }
)
"""The keys of a config that change no relation and no row."""

_DEFAULTS: Mapping[str, Any] = {"lookback": 1, "on_schema_change": "ignore", "delimiter": ","}

# What dbt fills in anew at each parse, such as `query_tag=invocation_id`: an id, or a time to the microsecond.
_OF_THE_RUN = re.compile(
    r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b"
    r"|\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\.\d{6}(?:\+00:00|Z)?"
)
_JINJA_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
_VARIABLE = re.compile(r"""\b(env_var|var(?:\.has_var)?)\s*\(\s*(?:name\s*=\s*)?(['"])([^'"\n]+)\2""")
_JINJA = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)
# Of code that is read backwards, which is 20 times faster: from each parenthesis on, not from each word.
_CALL_BACKWARDS = re.compile(r"\(\s*(\w+)(?:\s*\.\s*(\w+))?")
_DISPATCH = re.compile(r"""\bdispatch\s*\(\s*(?:macro_name\s*=\s*)?['"](\w+)['"]""")
_SNAPSHOT_TAG = re.compile(r"\{%-?\s*(?:snapshot\s+\w+|endsnapshot)\s*-?%\}")
_QUOTES = re.compile(r"[\"`\[\]]")
_META = re.compile(r"""\bmeta_(?:get|require)\s*\(|\bget\(\s*['"]meta['"]|\b(?:config|model)\.meta\b""")


class Relation(NamedTuple):
    """Where a node or source is in the warehouse; a part is None where the manifest has none."""

    database: str | None
    schema: str | None
    identifier: str | None

    def __str__(self) -> str:
        return ".".join(part for part in self if part)


class _Reads(NamedTuple):
    """What a piece of code asks for by name: ``("var", "start_date")``, and whether it asks for ``meta``."""

    names: frozenset[tuple[str, str]] = frozenset()
    meta: bool = False


_READS_NOTHING = _Reads()

Call = tuple[str, str]
"""What code calls by name: ``("dbt_utils", "star")``, ``("", "cents")``, ``("adapter.dispatch", "type_string")``."""


def changed_parts(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the parts that differ, or that only one of the two has, sorted."""
    return tuple(sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)))


def overlay_vars(of_project: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``vars`` of dbt_project.yml with those of the command line over them, as dbt reads them.

    A var that is given wins over those of a package, too (dbt docs, "Project variables": precedence).
    """
    below = {
        name: {key: each for key, each in value.items() if key not in given} if isinstance(value, Mapping) else value
        for name, value in of_project.items()
    }
    return {**below, **given}


def digest(parts: Mapping[str, str]) -> str:
    """Return one fingerprint of all parts: 32 hex digits."""
    lines = "\0".join(f"{name}\0{value}" for name, value in sorted(parts.items()))
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Microbatch(NamedTuple):
    """The batches of a microbatch model, as its config has them.

    Attributes:
        batch_size: hour, day, month or year.
        begin: the time (UTC) of the first batch; None where it cannot be read, and dbt cannot build the model.
        lookback: how many batches before that of now dbt builds again.
        is_refreshed: its config says ``full_refresh: true``: each build makes all its batches.
    """

    batch_size: str
    begin: datetime | None
    lookback: int
    is_refreshed: bool


class Identity(NamedTuple):
    """What a node is made of, where it is in the warehouse, and in which batches it is built, if in any."""

    parts: Mapping[str, str]
    relation: Relation
    microbatch: Microbatch | None = None


class _Config(NamedTuple):
    """A config, its parts, and what the Jinja in it (that of hooks) asks for."""

    values: Mapping[str, Any]
    parts: Mapping[str, str]
    reads: _Reads


class NodeFacts(NamedTuple):
    """What an identity needs of a node, made of its entry in the manifest.

    Attributes:
        relation: where it is in the warehouse.
        file: a fingerprint of its file, or None where dbt keeps no checksum.
        config: its config.
        parts: the parts of its own that are not of its config.
        macros: the unique_ids of the macros that dbt saw it call.
        calls: what its code calls by name.
        reads: what its code asks for.
    """

    relation: Relation = Relation(None, None, None)
    file: str | None = None
    config: _Config = _Config({}, {}, _READS_NOTHING)
    parts: Mapping[str, str] = {}
    macros: tuple[str, ...] = ()
    calls: frozenset[Call] = frozenset()
    reads: _Reads = _READS_NOTHING


class FactsReader:
    """Makes the facts of nodes; what many of them share is made once."""

    def __init__(self) -> None:
        self._configs: dict[bytes, _Config] = {}

    def __call__(self, unique_id: str, node: NodeDetails) -> NodeFacts:
        """Return the facts of a node."""
        # Most nodes of a project have the config of many others, byte by byte.
        raw = bytes(node.config)
        config = self._configs.get(raw)
        if config is None:
            config = self._configs[raw] = _read_config(raw)
        relation = Relation(_text(node.database), _text(node.schema), _text(node.alias) or node.name)
        parts: dict[str, str] = {}
        if contract := _contract(config.values, node):
            parts["config contract"] = contract
        if unique_id.startswith("seed."):
            parts["config materialized"] = "seed"
        if quotes := "".join(_QUOTES.findall(node.relation_name or "")):
            parts["config quoting"] = fingerprint(quotes)
        if file := _file(node):
            parts["file"] = file
        if place := str(relation):
            parts["relation"] = place
        macros = node.depends_on.macros if node.depends_on else None
        return NodeFacts(relation, file, config, parts, macros or (), _calls(node.code), _reads(node.code))


def _read_config(raw: bytes) -> _Config:
    values = msgspec.json.decode(raw) if raw else None
    values = values if isinstance(values, dict) else {}
    parts: dict[str, str] = {}
    for key, value in values.items():
        if key not in NOT_OF_THE_RELATION and value != _DEFAULTS.get(key):
            kept = _pruned(value)
            if key == "begin":
                kept = at.isoformat() if (at := _utc(kept)) else kept
            if kept is not None:
                parts[f"config {key}"] = str(kept) if key == "materialized" else fingerprint(_stable(kept))
    return _Config(values, parts, _reads(*_texts(values)))


def _file(node: NodeDetails) -> str | None:
    if code := node.code or node.file_checksum:
        return fingerprint(code)
    return None


def read_identities(
    facts: Mapping[str, NodeFacts],
    macros: Mapping[str, Macro],
    built: BuiltGraph,
    sources: Mapping[str, SourceTable],
    seen_through: Callable[[str], Iterable[str]],
    variables: Mapping[str, Any],
    adapter_type: str | None,
    project_name: str | None,
) -> dict[str, Identity]:
    """Return the identity of each node.

    Args:
        facts: of the models (ephemeral ones too), snapshots, seeds and functions, by unique_id.
        macros: the macros of the manifest, by unique_id.
        built: the sources and nodes, with what each reads.
        sources: the source tables, by unique_id.
        seen_through: for a node, what dbt pastes into it or it calls (ephemeral models, functions), of any depth.
        variables: the values of vars; those of one package as a mapping under its name.
        project_name: the dbt project itself, if the manifest has it: its macros take the place of dbt's own.
    """
    reader = _Reader(facts, _Macros(macros, adapter_type, project_name), built, sources, seen_through, variables)
    return {
        unique_id: Identity(
            reader.parts(unique_id),
            reader.facts(unique_id).relation,
            _microbatch(reader.facts(unique_id).config.values),
        )
        for unique_id in built.ids[built.source_count :]
    }


def read_test_macros(
    called: Mapping[str, Iterable[str]], macros: Mapping[str, Macro], adapter_type: str | None, project_name: str | None
) -> dict[str, str]:
    """Return, for each data test that is made of macros of the project or its packages, a fingerprint of these.

    Args:
        called: the macros that each test calls, by unique_id.
        macros, adapter_type, project_name: as for :func:`read_identities`.
    """
    known = _Macros(macros, adapter_type, project_name)
    return {
        test: fingerprint(*(f"{macro} {known.fingerprint(macro)}" for macro in sorted(used)))
        for test, starts in called.items()
        if (used := known.used_by(starts, {}))
    }


@dataclass(eq=False)
class _Reader:
    """Finds the parts of nodes; what many of them share is looked at once."""

    _facts: Mapping[str, NodeFacts]
    _macros: _Macros
    _built: BuiltGraph
    _sources: Mapping[str, SourceTable]
    _seen_through: Callable[[str], Iterable[str]]
    _variables: Mapping[str, Any]
    _values: dict[tuple[str, str, str], str | None] = field(default_factory=dict)
    _as_parents: dict[str, str] = field(default_factory=dict)

    def facts(self, unique_id: str) -> NodeFacts:
        """Return the facts of a node; none are known where the manifest has none."""
        return self._facts.get(unique_id, _NO_FACTS)

    def parts(self, unique_id: str) -> dict[str, str]:
        """Return the parts of a node and their values, sorted by name."""
        own = self.facts(unique_id)
        parts = {**own.config.parts, **own.parts}
        if parents := self._parents(unique_id, own.config.values):
            parts["parents"] = fingerprint(*parents)

        made_of = {unique_id: own}
        macros = self._macros.used_by(self._called(unique_id, own), own.config.values)
        if blocks := [each for each in macros if each.startswith("snapshot.")]:
            macros -= {*blocks}
            parts["file"] = self._macros.snapshot_code(blocks[0])
        for each in self._seen_through(unique_id):
            made_of[each] = other = self.facts(each)
            macros |= self._macros.used_by(self._called(each, other), {})
            kind = "function" if each.startswith("function.") else "ephemeral"
            inner = (f"{key}={value}" for key, value in sorted(other.config.parts.items()))
            parts[f"{kind} {each}"] = fingerprint(other.file or "", *inner)
        for macro in macros:
            parts[f"macro {macro}"] = self._macros.fingerprint(macro)

        reads = [
            *(each.reads for each in made_of.values()),
            *(each.config.reads for each in made_of.values()),
            *(self._macros.reads(macro) for macro in macros),
        ]
        if any(each is not _READS_NOTHING for each in reads):
            parts.update(self._variable_parts(reads, {package_of(each) for each in made_of}))
            if (meta := own.config.values.get("meta")) and any(each.meta for each in reads):
                parts["config meta"] = fingerprint(_stable(meta))
        return dict(sorted(parts.items()))

    def _called(self, unique_id: str, facts: NodeFacts) -> tuple[str, ...]:
        if not facts.calls:
            return facts.macros
        return (*facts.macros, *self._macros.named(facts.calls, package_of(unique_id)))

    def _parents(self, unique_id: str, config: Mapping[str, Any]) -> list[str]:
        ids = self._built.ids
        parents = [ids[each] for each in self._built.parents[self._built.index[unique_id]]]
        seen = [*map(self._as_parent, parents)]
        if _is_microbatch(config):
            # It reads of each parent the rows of one batch, by the parent's own event_time.
            seen += [f"{each} by {self.facts(each).config.values.get('event_time')}" for each in parents]
        return sorted(seen)

    def _as_parent(self, unique_id: str) -> str:
        """Return what a reader sees of a node or source: its name and where it is."""
        found = self._as_parents.get(unique_id)
        if found is None:
            source = self._sources.get(unique_id)
            place = (
                str(self.facts(unique_id).relation) if source is None else _without_folder(source.relation_name or "")
            )
            found = self._as_parents[unique_id] = f"{unique_id} {place}"
        return found

    def _variable_parts(self, reads: Iterable[_Reads], packages: Collection[str]) -> Iterator[tuple[str, str]]:
        for kind, name in frozenset().union(*(each.names for each in reads)):
            values = {self._value(package, kind, name) for package in packages}
            if known := sorted(value for value in values if value is not None):
                yield f"{kind} {name}", fingerprint(*known)

    def _value(self, package: str, kind: str, name: str) -> str | None:
        key = (package, kind, name)
        if key not in self._values:
            self._values[key] = self._read_value(package, kind, name)
        return self._values[key]

    def _read_value(self, package: str, kind: str, name: str) -> str | None:
        if kind == "env_var":
            value = os.environ.get(name)
            return None if value is None else fingerprint(value)
        of_package = self._variables.get(package)
        for scope in (of_package, self._variables):
            if isinstance(scope, Mapping) and name in scope:
                return fingerprint(_stable(scope[name]))
        return None


class _Macros:
    """The macros of a manifest: which of them a node uses, and what they ask for."""

    def __init__(self, macros: Mapping[str, Macro], adapter_type: str | None, project_name: str | None) -> None:
        self._macros = macros
        self._project = project_name
        self._own = _dbts_own(macros, adapter_type, project_name)
        self._closures: dict[str, frozenset[str]] = {}
        self._unions: dict[tuple[str, ...], frozenset[str]] = {}
        self._named: dict[tuple[frozenset[Call], str], list[str]] = {}
        self._fingerprints: dict[str, str] = {}
        self._reads: dict[str, _Reads] = {}

    def used_by(self, called: Iterable[str], config: Mapping[str, Any]) -> frozenset[str]:
        """Return the macros that a node uses, without dbt's own: from what it calls, and what its config names."""
        starts = (*called, *self._of_config(config))
        found = self._unions.get(starts)
        if found is None:
            found = self._unions[starts] = frozenset().union(*map(self._closure, starts))
        return found

    def _of_config(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """What a config names: the materialization, the strategy of an incremental model or a snapshot, in hooks."""
        materialized, strategy = str(config.get("materialized") or ""), config.get("incremental_strategy")
        names = [f"materialization {materialized}"]
        if materialized == "incremental":
            names.append(f"get_incremental_{str(strategy or 'default').replace('+', '_')}_sql")
        if materialized == "snapshot":
            names.append(f"snapshot_{str(config.get('strategy')).rpartition('.')[2]}_strategy")
        for hook in _texts([config.get("pre-hook"), config.get("post-hook")]):
            names += [name for _, name in _called(hook)]
        return tuple(macro for name in names for macro in self._by_name.get(name, ()))

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """The macros of each name; a materialization ``m`` of any adapter as ``materialization m``."""
        found: dict[str, list[str]] = {}
        for unique_id in sorted(self._macros):
            name = _name(unique_id)
            if name.startswith("materialization_"):
                name = "materialization " + name.removeprefix("materialization_").rpartition("_")[0]
            found.setdefault(name, []).append(unique_id)
        return found

    def _closure(self, start: str) -> frozenset[str]:
        found = self._closures.get(start)
        if found is None:
            seen = {start}
            walk = [start]
            for each in walk:  # grows while it is walked
                for called in self._calls(each):
                    if called not in seen:
                        seen.add(called)
                        walk.append(called)
            found = self._closures[start] = frozenset(
                each for each in seen if each in self._macros and package_of(each) not in self._own
            )
        return found

    def _calls(self, unique_id: str) -> Iterable[str]:
        macro = self._macros.get(unique_id)
        if macro is None:
            return ()
        package = package_of(unique_id)
        called = {*((macro.depends_on.macros if macro.depends_on else None) or ())}
        called.update(self.named(_calls(macro.macro_sql or ""), package))
        if self._project is not None and package in self._own:
            # A macro of the project with the name of one of dbt's takes its place, also where dbt's own macros call it.
            called.add(f"macro.{self._project}.{_name(unique_id)}")
        return called

    def named(self, calls: frozenset[Call], package: str) -> list[str]:
        """Return the macros that are meant by names in the code of a package, as dbt looks them up.

        A name alone is that of a macro of the package itself, else of the project, else of dbt. What is dispatched may
        be any of ``<adapter>__<name>``.
        """
        found = self._named.get((calls, package))
        if found is None:
            found = self._named[calls, package] = self._look_up(calls, package)
        return found

    def _look_up(self, calls: Iterable[Call], package: str) -> list[str]:
        found: list[str] = []
        for qualifier, name in sorted(calls):
            if qualifier == "adapter.dispatch":
                found += self._dispatched.get(name, ())
                continue
            packages = [qualifier] if qualifier else [package, self._project or package, *sorted(self._own)]
            meant = [f"macro.{each}.{name}" for each in packages]
            found += [each for each in meant if each in self._macros][:1]
        return found

    @cached_property
    def _dispatched(self) -> dict[str, list[str]]:
        """The macros that stand for a name in an adapter each, or in all others (``default__<name>``)."""
        found: dict[str, list[str]] = {}
        for unique_id in sorted(self._macros):
            adapter, _, name = _name(unique_id).partition("__")
            if adapter and name:
                found.setdefault(name, []).append(unique_id)
        return found

    def fingerprint(self, unique_id: str) -> str:
        found = self._fingerprints.get(unique_id)
        if found is None:
            found = self._fingerprints[unique_id] = fingerprint(self._macros[unique_id].macro_sql or "")
        return found

    def snapshot_code(self, unique_id: str) -> str:
        """Return a fingerprint of the code in a ``{% snapshot %}`` block.

        dbt 2 has a macro of each, and as the code of the node all that its file holds.
        """
        return fingerprint(_SNAPSHOT_TAG.sub("", self._macros[unique_id].macro_sql or ""))

    def reads(self, unique_id: str) -> _Reads:
        found = self._reads.get(unique_id)
        if found is None:
            found = self._reads[unique_id] = _reads(self._macros[unique_id].macro_sql or "")
        return found


_NO_FACTS = NodeFacts()


def fingerprint(*texts: str) -> str:
    """Return the first 16 hex digits of the SHA-256 of some texts."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _dbts_own(macros: Mapping[str, Macro], adapter_type: str | None, project_name: str | None) -> frozenset[str]:
    """Return the packages of macros that come with dbt and its adapter.

    They are ``dbt`` and ``dbt_<adapter>``, and what an adapter is built on (``dbt_postgres`` below ``dbt_redshift``).
    Packages of users have such names too (``dbt_utils``); an adapter's holds implementations ``<adapter>__...``.
    """
    own = {"dbt", f"dbt_{adapter_type}"}
    for unique_id in macros:
        package = package_of(unique_id)
        if package.startswith("dbt_") and _name(unique_id).startswith(f"{package.removeprefix('dbt_')}__"):
            own.add(package)
    return frozenset(own - {project_name})


def _calls(code: str) -> frozenset[Call]:
    """Return what the Jinja of some code calls by name; that of code without branches dbt has all seen by itself."""
    if "{%" not in code and " if " not in code:
        return _CALLS_NOTHING
    jinja = "\n".join(_JINJA.findall(code))
    calls = {*_called(jinja)}
    if "dispatch" in jinja:
        calls.update(("adapter.dispatch", name) for name in _DISPATCH.findall(jinja))
    return frozenset(calls)


def _called(jinja: str) -> Iterator[Call]:
    for name, qualifier in set(_CALL_BACKWARDS.findall(jinja[::-1])):
        yield qualifier[::-1], name[::-1]


_CALLS_NOTHING: frozenset[Call] = frozenset()


def _reads(*codes: str) -> _Reads:
    names: set[tuple[str, str]] = set()
    meta = False
    for code in codes:
        # Most code has neither: a search for three letters is a hundred times faster than an expression.
        if "var" in code or "meta" in code:
            code = _JINJA_COMMENT.sub("", code)
            names.update(
                ("env_var" if match[1] == "env_var" else "var", match[3]) for match in _VARIABLE.finditer(code)
            )
            meta = meta or _META.search(code) is not None
    return _Reads(frozenset(names), meta) if names or meta else _READS_NOTHING


def _contract(config: Mapping[str, Any], node: NodeDetails) -> str | None:
    contract = config.get("contract")
    if not (isinstance(contract, Mapping) and contract.get("enforced")):
        return None
    columns = msgspec.json.decode(node.columns) if bytes(node.columns) else None
    constraints = msgspec.json.decode(node.constraints) if bytes(node.constraints) else None
    kept = [
        [name, _pruned(column.get("data_type")), _constraints(column.get("constraints")), _pruned(column.get("quote"))]
        for name, column in (columns if isinstance(columns, dict) else {}).items()
        if isinstance(column, dict)
    ]
    return fingerprint(_stable([contract.get("alias_types"), kept, _constraints(constraints)]))


def _constraints(found: Any) -> Any:
    """Return constraints without what only says whether dbt warns; its default is ``true``, or nothing in dbt 2."""
    each = found if isinstance(found, list) else []
    kept = [
        _pruned({k: v for k, v in one.items() if not k.startswith("warn_")}) for one in each if isinstance(one, dict)
    ]
    return kept or None


def _is_microbatch(config: Mapping[str, Any]) -> bool:
    return config.get("incremental_strategy") == "microbatch"


def _microbatch(config: Mapping[str, Any]) -> Microbatch | None:
    size, lookback = config.get("batch_size"), config.get("lookback")
    if not _is_microbatch(config) or not isinstance(size, str):
        return None
    return Microbatch(
        size,
        _utc(config.get("begin")),
        lookback if isinstance(lookback, int) else 1,
        config.get("full_refresh") is True,
    )


def _utc(value: Any) -> datetime | None:
    """Return a time of ISO 8601, which is UTC if it does not say; None if it is none."""
    try:
        at = datetime.fromisoformat(str(value))
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):  # or before the first time of UTC, or after the last
        return None


def _without_folder(relation_name: str) -> str:
    """Return a relation that is a file, without the folder that the project lies in on this machine.

    dbt-duckdb reads a source straight from ``'/data/project/raw/orders.json'``.
    """
    path = relation_name.replace("\\", "/").lstrip("'\"")
    if path.startswith("/") or path[1:3] == ":/":
        return path.rpartition("/")[2]
    return relation_name


def _pruned(value: Any) -> Any:
    """Return a value without what is None or empty in it, at any depth; None if nothing is left."""
    if isinstance(value, Mapping):
        kept = {key: each for key, inner in value.items() if (each := _pruned(inner)) is not None}
        return kept or None
    if isinstance(value, list | tuple):
        return [_pruned(each) for each in value] or None
    return None if value == "" else value


def _stable(value: Any) -> str:
    """Return a value as text that is the same for each parse."""
    return _OF_THE_RUN.sub("(of the run)", _json(value).decode())


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str, separators=(",", ":")).encode()


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a value that may hold Jinja: hooks are kept as they were written."""
    if isinstance(value, str):
        if "{" in value:
            yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def _name(macro_id: str) -> str:
    return macro_id.split(".", 2)[-1]


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
