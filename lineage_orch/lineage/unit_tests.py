"""What a unit test reads: the inputs that are given to it, as dbt names them in YAML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from lineage_orch.lineage.records import Node, SourceTable

_QUOTED = re.compile(r"""['"]([^'"]+)['"]""")
_VERSION = re.compile(r"""\bv(?:ersion)?\s*=\s*['"]?([^'",)\s]+)""")


def inputs_of(
    given: Iterable[str], tested: str, nodes: Mapping[str, Node], sources: Mapping[str, SourceTable]
) -> Iterator[str]:
    """Yield the unique_ids that the inputs of a unit test can mean.

    What cannot be told is left out: whether an input is there is asked only to spare a test that would fail.

    Args:
        given: the inputs: ``ref('a')``, ``ref('package', 'a', v=2)``, ``source('crm', 'orders')``, ``this``.
        nodes: what dbt builds, by unique_id.
        sources: the source tables, by unique_id.
    """
    for each in map(str.strip, given):
        if each == "this":
            yield tested
            continue
        version = _VERSION.search(each)
        words = _QUOTED.findall(_VERSION.sub("", each))
        if each.startswith("source") and len(words) == 2:
            yield from (source.unique_id for source in sources.values() if [source.source_name, source.table] == words)
        elif each.startswith("ref") and words:
            for node in nodes.values():
                has_name = node.name == words[-1] and (len(words) == 1 or node.package == words[0])
                if has_name and (version is None or node.version == version[1]):
                    yield node.unique_id
