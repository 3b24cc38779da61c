"""The entries of ``__sources.yaml`` that decorated flows imply and a dbt project lacks."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable

from lineage_orch.errors import LineageError, did_you_mean
from lineage_orch.lineage import Lineage
from lineage_orch.loads.declaration import is_template
from lineage_orch.loads.discovery import Producer


def stub_sources(lineage: Lineage, producers: Iterable[Producer]) -> str:
    """Return, as YAML, the sources that producers declare and the project lacks; "" if it lacks none.

    Ready for a file such as ``models/__sources.yaml``. A name that is nearly that of a source of the project says so
    in a comment, since it may be a typo. Names with ``*`` or ``{parameters}`` stand for no single table: left out.
    """
    missing: dict[str, dict[str, list[Producer]]] = {}
    for producer in producers:
        for name in producer.sources:
            parts = name.removeprefix("source.").split(".")
            if is_template(name) or parts[-1] == "*" or _is_known(lineage, name):
                continue
            source_name, table = (parts[-2], parts[-1]) if len(parts) <= 3 else (".".join(parts[1:-1]), parts[-1])
            claiming = missing.setdefault(source_name, {}).setdefault(table, [])
            if producer not in claiming:
                claiming.append(producer)
    if not missing:
        return ""
    tables_of: dict[str, list[str]] = defaultdict(list)
    for each in lineage.sources.values():
        tables_of[each.source_name].append(f"{each.source_name}.{each.table}")
    lines = ["version: 2", "sources:"]
    for source_name, tables in missing.items():
        if source_name in tables_of:
            lines.append(
                f"  # There is a source {source_name} already: put these tables there, under its schema and config."
            )
        lines += [f"  - name: {_scalar(source_name)}", "    tables:"]
        for table, claiming in tables.items():
            near = did_you_mean(f"{source_name}.{table}", (each for of in tables_of.values() for each in of))
            if near:
                lines.append(f"      # A typo? D{near.removeprefix('; d')}")
            by = " and ".join(f"{each} ({each.where})" for each in claiming)
            lines.append(f"      - name: {_scalar(table)}")
            lines.append(f"        description: {json.dumps(f'Loaded by {by}', ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def _is_known(lineage: Lineage, name: str) -> bool:
    try:
        lineage.resolve_sources(name)
    except LineageError as error:
        return "more than one" in str(error)
    return True


_YAML_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


def _scalar(text: str) -> str:
    """Write a name as YAML: as it is where no reader could take it for something else."""
    is_plain = re.fullmatch(r"[A-Za-z_][\w-]*", text) and text.lower() not in _YAML_WORDS
    return text if is_plain else json.dumps(text, ensure_ascii=False)
