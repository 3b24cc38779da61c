"""``python -m lineage_orch.cli``."""

from __future__ import annotations

import sys

from lineage_orch.cli.app import main

sys.exit(main())
