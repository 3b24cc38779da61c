"""``lineage-orch``: the command line."""

from __future__ import annotations

from lineage_orch.cli.app import main

__all__ = ["main"]
