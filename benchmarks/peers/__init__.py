"""The same loads and models under three orchestrators: ours, a hand-written trigger per pair, and Dagster's."""
