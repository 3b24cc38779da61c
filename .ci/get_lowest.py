"""Set up the lowest versions that pyproject.toml declares in a folder of its own, and print the path of its Python.

That is of what the library itself needs (``make test-lowest``); what comes with these has the version that they allow.
Exits with 3, and says why, where it cannot be had.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = f"{ROOT}[cloud,duckdb,postgres,test]"
FOR_THE_TESTS = ("hypothesis>=6.100", "pytest-cov>=6", "pytest-randomly>=3.15")


def main(folder: Path) -> int:
    """Set it up unless it is there; returns the exit code."""
    python = folder / "venv" / "bin" / "python"
    if not (folder / "ready").exists():
        try:
            venv.create(folder / "uv", with_pip=True)
            _run(f"{folder}/uv/bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check", "uv")
            uv = f"{folder}/uv/bin/uv"
            _run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder / "venv"))
            lowest = ("--resolution", "lowest-direct", "--python", str(python))
            _run(uv, "pip", "install", "--quiet", *lowest, "-e", LIBRARY, *FOR_THE_TESTS)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or ""
            print(f"the lowest versions cannot be had here: {error}\n{said[-500:]}".rstrip(), file=sys.stderr)
            return 3
        (folder / "ready").touch()
    print(python)
    return 0


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute()))
