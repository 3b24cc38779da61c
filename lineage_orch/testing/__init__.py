"""Test doubles that the library ships, at the seams where it has them."""

from __future__ import annotations

from lineage_orch.testing.doubles import FakeDbt, ProjectWarning, Triggered, check_project

__all__ = ["FakeDbt", "ProjectWarning", "Triggered", "check_project"]
