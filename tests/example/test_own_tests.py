"""The tests that the example has of its own, run as its users run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.integration
def test_example_passes_its_own_tests() -> None:
    # In a process of its own: the fixtures of a session have one dbt project, and this session has another.
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTEST_"))}
    command = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider", "--no-cov"]
    done = subprocess.run(
        [*command, "example_project/tests"],
        cwd=ROOT,
        env=outside | {"PREFECT_SERVER_ANALYTICS_ENABLED": "false"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^=+ \d+ passed", done.stdout, flags=re.M), done.stdout
