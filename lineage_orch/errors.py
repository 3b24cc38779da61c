"""Every error that the library raises on purpose.

Each message names the thing, the place, and the fix.

    LineageOrchError
    ├── SettingsError            a setting cannot be read, or two of them disagree
    ├── ProducerError            @produces_source or mark_updated is used wrongly
    ├── ManifestError            manifest.json is missing, cut off, or not a manifest
    ├── LineageError
    │   ├── UnknownSourceError   no such source in the manifest
    │   └── UnknownNodeError     no such model, snapshot or seed in the manifest
    ├── PolicyError              a freshness or state config cannot be read
    ├── LedgerError
    │   ├── LedgerUnavailableError   the ledger cannot be reached, read or written
    │   └── LedgerSchemaError        the ledger was written by a newer release
    ├── DbtError                 dbt could not be run at all
    │   ├── DbtMissingError      there is no dbt here
    │   ├── DbtCloudUnavailableError     dbt Cloud does not answer, or not now
    │   └── BuildFailedError     dbt ran, and some nodes or tests failed
    └── TriggerError             a finished load could not set off its build
"""

from __future__ import annotations

from collections.abc import Iterable


class LineageOrchError(Exception):
    """The root of every error that lineage_orch raises on purpose."""


class SettingsError(LineageOrchError):
    """A setting cannot be read, or two settings disagree."""


class ProducerError(LineageOrchError, TypeError):
    """``@produces_source`` or ``mark_updated`` is used in a way that cannot work."""


class ManifestError(LineageOrchError):
    """The manifest is missing, empty, cut off, or is no dbt manifest."""


class LineageError(LineageOrchError):
    """A question that the lineage cannot answer."""


class UnknownSourceError(LineageError):
    """No source of that name in the manifest."""


class UnknownNodeError(LineageError):
    """No model, snapshot or seed of that name in the manifest."""


class PolicyError(LineageOrchError):
    """A ``freshness`` or ``state`` config of a node cannot be read."""


class LedgerError(LineageOrchError):
    """The ledger cannot do what was asked."""


class LedgerUnavailableError(LedgerError):
    """The ledger cannot be reached, read or written."""


class LedgerSchemaError(LedgerError):
    """The ledger was written by a newer release than this one."""


class DbtError(LineageOrchError):
    """dbt could not be run at all (no profile, no project, a project that does not parse)."""


class DbtMissingError(DbtError):
    """There is no dbt here, so that what it made before is all that can be used."""


class DbtCloudUnavailableError(DbtError):
    """dbt Cloud does not answer, or cannot do now what was asked; later it may."""


class BuildFailedError(DbtError):
    """dbt ran, and some nodes or tests failed; what they lack is still stale.

    Attributes:
        more: what became stale again while the build ran, and is left to the next.
    """

    more: tuple[str, ...] = ()


class TriggerError(LineageOrchError):
    """A finished load could not set off its build."""


def did_you_mean(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """Return ``"; did you mean 'a' or 'b'?"`` for the known names nearest to ``name``, or ``""``."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(dict.fromkeys(known)), n=limit, cutoff=0.6)
    if not near:
        return ""
    return "; did you mean " + " or ".join(repr(each) for each in near) + "?"
