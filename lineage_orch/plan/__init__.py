"""The plan, pure: lineage, snapshot of the ledger and the time go in, what to build comes out."""

from __future__ import annotations

from lineage_orch.plan.planner import BuildPlan, Held, plan_builds

__all__ = ["BuildPlan", "Held", "plan_builds"]
