"""The plan, pure: lineage, snapshot of the ledger and the time go in, what to build comes out."""

from __future__ import annotations

from lineage_orch.plan.again import below, not_again
from lineage_orch.plan.build_plan import BuildPlan, Held
from lineage_orch.plan.estimate import Estimate, estimate, finish_times
from lineage_orch.plan.failures import failure_digest, failure_identity
from lineage_orch.plan.graph import PlanGraph, plan_graph
from lineage_orch.plan.history import history_of, longest_lag
from lineage_orch.plan.loading import nodes_below, timed_nodes
from lineage_orch.plan.planner import plan_builds
from lineage_orch.plan.producing import producing_sources
from lineage_orch.plan.promises import Promises, not_taken_in, read_promises
from lineage_orch.plan.reasons import Reason

__all__ = [
    "BuildPlan",
    "Estimate",
    "Held",
    "PlanGraph",
    "Promises",
    "Reason",
    "below",
    "estimate",
    "failure_digest",
    "failure_identity",
    "finish_times",
    "history_of",
    "longest_lag",
    "nodes_below",
    "not_again",
    "not_taken_in",
    "plan_builds",
    "plan_graph",
    "producing_sources",
    "read_promises",
    "timed_nodes",
]
