"""Builds: plan, run dbt, record, and plan again, under one lock."""
