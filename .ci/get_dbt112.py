"""Set up dbt-core 1.12 with dbt-duckdb in a folder of its own, and print the path of its dbt: ``make test-dbt112``.

dbt-core 1.12 requires ``dbt-core-experimental-parser``, of which some package indexes have a source package alone, that
downloads a binary. dbt runs without it, so it is left out: uv takes such an override, pip has none. Exits with 3, and
says why, where it cannot be had.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

PACKAGES = ("dbt-core~=1.12.0", "dbt-duckdb>=1.9")
LEFT_OUT = 'dbt-core-experimental-parser ; python_version < "0"\n'


def main(folder: Path) -> int:
    """Set it up unless it is there; returns the exit code."""
    dbt = folder / "venv" / "bin" / "dbt"
    if not dbt.exists():
        try:
            _set_up(folder)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or ""
            print(f"dbt-core 1.12 cannot be had here: {error}\n{said[-500:]}".rstrip(), file=sys.stderr)
            return 3
    print(dbt)
    return 0


def _set_up(folder: Path) -> None:
    venv.create(folder / "uv", with_pip=True)
    venv.create(folder / "venv")
    (folder / "overrides.txt").write_text(LEFT_OUT, encoding="utf-8")
    _run([f"{folder}/uv/bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check", "uv"], folder)
    uv = [f"{folder}/uv/bin/uv", "pip", "install", "--quiet", "--python", f"{folder}/venv/bin/python"]
    _run([*uv, "--override", "overrides.txt", *PACKAGES], folder)
    _run([f"{folder}/venv/bin/dbt", "--version"], folder)


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute()))
