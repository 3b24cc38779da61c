"""A handle on a copy of the dbt project in ``tests/shop``."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb


@dataclass(frozen=True)
class Shop:
    """One copy of the project, with its raw files and its warehouse."""

    folder: Path

    @property
    def warehouse(self) -> Path:
        return self.folder / "warehouse.duckdb"

    @property
    def manifest(self) -> Path:
        return self.folder / "target" / "manifest.json"

    def write_orders(self, *rows: tuple[int, int, object]) -> None:
        """Load orders, each as (order_id, customer_id, amount)."""
        keys = ("order_id", "customer_id", "amount")
        lines = [json.dumps(dict(zip(keys, row, strict=True))) for row in rows]
        (self.folder / "data" / "orders.json").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def write_customers(self, *rows: tuple[int, str]) -> None:
        """Load customers, each as (customer_id, name)."""
        lines = ["customer_id,name", *(f"{number},{name}" for number, name in rows)]
        (self.folder / "data" / "customers.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the warehouse."""
        with duckdb.connect(str(self.warehouse), read_only=True) as connection:
            return connection.execute(sql).fetchall()

    def tables(self) -> set[str]:
        """The tables that were built."""
        if not self.warehouse.exists():
            return set()
        return {name for (name,) in self.query("select table_name from information_schema.tables")}

    def built_at(self, table: str) -> Any:
        """When the rows of a table were built."""
        return self.query(f"select max(built_at) from {table}")[0][0]

    def edit(self, file: str, old: str, new: str) -> None:
        """Change a file of the project, as its author would."""
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")
        # Later than the manifest, on filesystems with coarse times too.
        later = self.manifest.stat().st_mtime_ns + 1_000_000 if self.manifest.exists() else None
        if later and path.stat().st_mtime_ns < later:
            os.utime(path, ns=(later, later))
