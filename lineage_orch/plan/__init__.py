"""The plan, pure: lineage, snapshot of the ledger and the time go in, what to build comes out."""

from __future__ import annotations

from lineage_orch.plan.graph import PlanGraph, plan_graph
from lineage_orch.plan.planner import BuildPlan, Held, plan_builds

__all__ = ["BuildPlan", "Held", "PlanGraph", "plan_builds", "plan_graph"]
