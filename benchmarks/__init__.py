"""How fast lineage_orch is, beside what one would use without it: ``python -m benchmarks --help``."""
