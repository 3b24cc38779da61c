"""Runs of followers: when each may start, in this process or as a run of a Prefect deployment, and what came of it."""
