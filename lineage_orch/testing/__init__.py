"""Test doubles that the library ships, at the seams where it has them, and a copy of a project to build in."""

from __future__ import annotations

from lineage_orch.testing.fake_dbt import FakeDbt
from lineage_orch.testing.project_check import ProjectWarning, check_project
from lineage_orch.testing.triggered import Triggered

__all__ = ["FakeDbt", "ProjectWarning", "Triggered", "check_project"]
