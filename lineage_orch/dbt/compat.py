"""Where this library leans on parts of other packages that they do not promise to keep.

Tried on prefect-dbt 0.7.25 and dbt-duckdb 1.11.1. A test fails when a part is gone (``tests/dbt/test_compat.py``); at
run time its loss is said in the log, with what it costs.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import pprint
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from lineage_orch.dbt.profile import profiles_for_dbt

if TYPE_CHECKING:
    from prefect_dbt import PrefectDbtRunner, PrefectDbtSettings

PARTIAL_PARSE = "partial_parse.msgpack"
"""Where dbt 1 keeps, beside a manifest, what it was parsed from."""

LOG = logging.getLogger("lineage_orch.dbt")

CALLBACK = "_create_unified_callback"
"""The method of PrefectDbtRunner that makes the callback which it hands to dbt."""


def listening_runner(runner: type[PrefectDbtRunner], listen: Callable[[Any], None]) -> type[PrefectDbtRunner]:
    """Return a PrefectDbtRunner that also tells us of dbt's events, at once and in dbt's own thread.

    PrefectDbtRunner takes no callbacks, and its hooks (``post_model``) tell only of models, and later, from a queue.
    """
    if not hasattr(runner, CALLBACK):
        LOG.warning(
            "This release of prefect-dbt has no %s: nodes are recorded when the whole dbt command has ended, so a "
            "build that is killed begins anew",
            CALLBACK,
        )
        return runner

    class Listening(runner):  # type: ignore[misc]
        def _create_unified_callback(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
            show = super()._create_unified_callback(*args, **kwargs)

            def both(event: Any) -> None:
                listen(event)
                show(event)

            return both

    return Listening


def settings_in_place(settings: type[PrefectDbtSettings]) -> type[PrefectDbtSettings]:
    """Return PrefectDbtSettings that copy profiles.yml only where there is something of Prefect's to fill in.

    Their own ``resolve_profiles_yml`` always copies it; ``profiles_for_dbt`` says what that breaks.
    """

    class InPlace(settings):  # type: ignore[misc]
        @contextmanager
        def resolve_profiles_yml(self) -> Iterator[str]:
            with profiles_for_dbt(self.profiles_dir, self.project_dir) as folder:
                yield str(folder)

    return InPlace


class _Checksum(msgspec.Struct):
    checksum: str


class _StateCheck(msgspec.Struct):
    vars_hash: _Checksum


class _PartialParse(msgspec.Struct):
    state_check: _StateCheck
    env_vars: dict[str, str]


def parsed_by_same_call(
    manifest: Path, *, vars: Mapping[str, Any], profile: str | None, target: str | None, version: str
) -> bool:
    """Return whether dbt made this manifest when called with these vars, profile and target.

    It is told by what dbt itself looks at before it takes up a partial parse (dbt 1.11,
    ``ManifestLoader.build_manifest_state_check``). If that is ever kept in another way, no manifest of another dbt
    command is used any more: the project is parsed anew, which is said.

    Args:
        manifest: a manifest.json, with dbt's partial parse beside it.
        vars: dbt's ``--vars``.
        profile: dbt's ``--profile``, or DBT_PROFILE; None if it was not given.
        target: dbt's ``--target``, or DBT_TARGET; None if it was not given.
    """
    path = manifest.with_name(PARTIAL_PARSE)
    try:
        if path.stat().st_mtime_ns > manifest.stat().st_mtime_ns:
            return False  # by a later command that wrote no manifest
        known = msgspec.msgpack.decode(path.read_bytes(), type=_PartialParse)
    except (OSError, msgspec.MsgspecError):
        return False
    call = "\x00".join([pprint.pformat(dict(vars)), profile or "", target or "", version])
    if known.state_check.vars_hash.checksum != hashlib.sha256(call.encode()).hexdigest():
        return False
    # A variable that was not set is kept as a placeholder, so here as one that differs: dbt is asked.
    return all(os.environ.get(name) == value for name, value in known.env_vars.items())


def close_duckdb() -> None:
    """Close a DuckDB file that dbt-duckdb keeps open until the process ends.

    DuckDB lets one process in at a time. A load that builds in its own process may live long after the build, and
    the next load's build is another process.
    """
    connections = sys.modules.get("dbt.adapters.duckdb.connections")
    if connections is None:
        return
    manager = connections.DuckDBConnectionManager
    try:
        environment = manager.env()
    except AttributeError:
        LOG.warning("This release of dbt-duckdb cannot be told to close its file: it stays locked for other processes")
        return
    except Exception:  # noqa: BLE001 - env() raises no narrower kind where no connection was ever made
        environment = None
    if environment is not None and not str(environment.creds.path).startswith(":memory:"):
        manager.close_all_connections()
        environment.close()
    _forget_duckdb_at_exit()


@cache
def _forget_duckdb_at_exit() -> None:
    """Let nothing hold DuckDB's types when the interpreter ends, else its binding prints a page of "leaked".

    Prefect's threads outlive the interpreter, and through Prefect's registry of blocks they hold prefect_dbt's,
    which hold dbt and its adapters: the only ones here that hold DuckDB. Without this nothing breaks but the output.
    """

    def forget() -> None:
        LOG.debug("dbt-duckdb's modules are emptied, for the interpreter ends")
        for name, module in list(sys.modules.items()):
            if name.startswith("dbt.adapters.duckdb"):
                for each in [each for each in vars(module) if not each.startswith("__")]:
                    setattr(module, each, None)

    atexit.register(forget)
