"""What depends on what: dbt's manifest as records, names, a graph, identities, selectors and policies."""

from __future__ import annotations

from lineage_orch.lineage.graph import Lineage
from lineage_orch.lineage.identity import Microbatch, Relation, changed_parts, overlay_vars
from lineage_orch.lineage.policy import Policy
from lineage_orch.lineage.records import BuiltGraph, ManifestWarning, Node, SourceTable

__all__ = [
    "BuiltGraph",
    "Lineage",
    "ManifestWarning",
    "Microbatch",
    "Node",
    "Policy",
    "Relation",
    "SourceTable",
    "changed_parts",
    "overlay_vars",
]
