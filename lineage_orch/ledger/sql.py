"""What is written to a ledger: the statements, with ``:named`` values. Those that read are in ``ledger_reading``."""

from __future__ import annotations

from lineage_orch.ledger.reading import CLOCK

# The row lock is the order of the ledger: it is held until the commit, so ticks are given in commit order.
LOCK_CLOCK = CLOCK + " FOR UPDATE"
NEW_CLOCK = (
    "INSERT INTO lineage_orch_clocks (project, target, tick) VALUES (:project, :target, 0) ON CONFLICT DO NOTHING"
)
ADVANCE_CLOCK = (
    "UPDATE lineage_orch_clocks SET tick = tick + :count "
    "WHERE project = :project AND target = :target RETURNING id, tick"
)
SET_CLOCK = "UPDATE lineage_orch_clocks SET tick = :tick WHERE id = :clock"
ADD_UPDATE = (
    "INSERT INTO lineage_orch_updates "
    "(clock_id, tick, source, update_id, loaded_at, recorded_at, flow_run_id, producer) "
    "VALUES (:clock, :tick, :source, :update_id, :loaded_at, :recorded_at, :flow_run_id, :producer) "
    "ON CONFLICT (clock_id, source, update_id) DO NOTHING"
)
TICK_OF_UPDATE = (
    "SELECT tick FROM lineage_orch_updates WHERE clock_id = :clock AND source = :source AND update_id = :update_id"
)
SET_SOURCE = (
    "INSERT INTO lineage_orch_sources (clock_id, source, tick) VALUES (:clock, :source, :tick) "
    "ON CONFLICT (clock_id, source) DO UPDATE SET tick = excluded.tick"
)
ADD_BUILD = (
    "INSERT INTO lineage_orch_builds (clock_id, node, tick, built_at) "
    "VALUES (:clock, :node, :tick, :built_at) "
    "ON CONFLICT (clock_id, node, tick) DO UPDATE SET built_at = excluded.built_at"
)
SET_NODE = (
    "INSERT INTO lineage_orch_nodes (clock_id, node, tick, built_at, checksum) "
    "VALUES (:clock, :node, :tick, :built_at, :checksum) "
    "ON CONFLICT (clock_id, node) DO UPDATE "
    "SET tick = excluded.tick, built_at = excluded.built_at, checksum = excluded.checksum "
    "WHERE excluded.tick >= lineage_orch_nodes.tick"
)
ADD_PRODUCER = "INSERT INTO lineage_orch_producers (clock_id, source) VALUES (:clock, :source) ON CONFLICT DO NOTHING"
PRUNE_UPDATES = (
    "DELETE FROM lineage_orch_updates WHERE clock_id = :clock AND recorded_at < :before "
    "AND tick NOT IN (SELECT tick FROM lineage_orch_sources WHERE clock_id = :clock)"
)
PRUNE_BUILDS = (
    "DELETE FROM lineage_orch_builds WHERE clock_id = :clock AND built_at < :before AND NOT EXISTS ("
    "SELECT 1 FROM lineage_orch_nodes AS newest WHERE newest.clock_id = lineage_orch_builds.clock_id "
    "AND newest.node = lineage_orch_builds.node AND newest.tick = lineage_orch_builds.tick)"
)
SET_MARK = (
    "INSERT INTO lineage_orch_marks (clock_id, name, value) VALUES (:clock, :name, :value) "
    "ON CONFLICT (clock_id, name) DO UPDATE SET value = excluded.value"
)
SET_HOLDER = (
    "INSERT INTO lineage_orch_holders (clock_id, who, since) VALUES (:clock, :who, :since) "
    "ON CONFLICT (clock_id) DO UPDATE SET who = excluded.who, since = excluded.since"
)
DROP_HOLDER = "DELETE FROM lineage_orch_holders WHERE clock_id = :clock"
