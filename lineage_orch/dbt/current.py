"""The lineage of a project as of now: its manifest is made anew when it is stale, and read when it changed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lineage_orch.dbt.project import DbtProject
from lineage_orch.errors import ManifestError
from lineage_orch.lineage import Lineage


class CurrentLineage:
    """Reads a project's lineage, each state of its manifest once.

    Args:
        project: the dbt project.
        manifest: a manifest to use as it is, in place of the project's own.
        parse: has dbt write the project's manifest.
    """

    def __init__(self, project: DbtProject, manifest: Path | None, parse: Callable[[], Any]) -> None:
        self.path = manifest or project.manifest_path
        """The manifest that is used."""
        self._project = project
        self._is_given = manifest is not None
        self._parse = parse
        self._read: tuple[int, Lineage] | None = None

    def now(self) -> Lineage:
        """Return the lineage as of now; a manifest that is missing, or older than a file of the project, is made anew.

        Raises:
            ManifestError: the manifest cannot be read.
            DbtError: the project does not parse.
        """
        if not self._is_given and self._project.manifest_is_stale():
            self._parse_once()
        return self.as_read()

    def for_names(self) -> Lineage:
        """Return the lineage as it was last parsed: a load that only reports what it loaded need not parse anew."""
        if not self._is_given and not self.path.exists():
            return self.now()
        return self.as_read()

    def as_read(self) -> Lineage:
        """Read the manifest unless this very file was read before; a reader may meet dbt while it writes it."""
        for patience in (0.1, 0.3, 0.6, 1.0, 0.0):
            try:
                version = self.path.stat().st_mtime_ns
                if self._read is None or self._read[0] != version:
                    self._read = (version, Lineage.from_manifest(self.path))
            except (ManifestError, FileNotFoundError):
                if patience and not self._is_given and self._is_being_written():
                    time.sleep(patience)
                    continue
                self._read = (0, Lineage.from_manifest(self.path))
            return self._read[1]
        raise AssertionError("unreachable")

    def _parse_once(self) -> None:
        from filelock import FileLock

        # Processes that find it stale at the same time parse one after the other, and all but the first find
        # that there is nothing left to do.
        self._project.state_dir.mkdir(exist_ok=True)
        with FileLock(self._project.state_dir / "parse.lock"):
            if self._project.manifest_is_stale():
                self._parse()

    def _is_being_written(self) -> bool:
        try:
            return time.time() - self.path.stat().st_mtime < 5  # seconds
        except FileNotFoundError:
            return False
