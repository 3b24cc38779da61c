"""Let each file that is named end in one newline, and no line in blanks; exits with 1 if it changed any."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def main(names: list[str]) -> int:
    """Correct the files; returns the exit code."""
    changed = False
    for path in map(Path, names):
        old = path.read_bytes()
        new = re.sub(rb"[ \t]+(?=\r?\n)", b"", old).rstrip(b"\r\n \t") + b"\n" if old.strip() else b""
        if new != old:
            path.write_bytes(new)
            print(f"corrected {path}")
            changed = True
    return int(changed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
