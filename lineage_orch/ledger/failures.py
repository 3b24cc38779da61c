"""What to do about a failure of the ledger's database, in words that people can act on."""

from __future__ import annotations

import os
from pathlib import Path

BUSY_SECONDS = 30.0
"""How long a write waits for another process's write before it gives up."""

_SQLITE_MENDS = {
    **dict.fromkeys(
        ("SQLITE_NOTADB", "SQLITE_CORRUPT"),
        "the file is damaged: restore it from a backup, or move it and its -wal and -shm files away to start "
        "an empty ledger",
    ),
    **dict.fromkeys(
        ("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH"),
        "it can be read only: give this user the right to write the file and its folder, and leave mode=ro out",
    ),
    "SQLITE_CANTOPEN": "check that its folder exists and that this user may write there",
    "SQLITE_FULL": "its disk is full: free some space",
    **dict.fromkeys(
        ("SQLITE_BUSY", "SQLITE_LOCKED"),
        f"another process has held it for more than {BUSY_SECONDS:.0f} s: end that one, or try again",
    ),
    **dict.fromkeys(
        ("SQLITE_IOERR", "SQLITE_PROTOCOL"),
        "keep the file on a healthy local disk, not on a network share; for several machines use PostgreSQL",
    ),
}

_POSTGRES_MENDS = {
    ("28", "password", "authentication", "role "): "check the user and the password in the url",
    ("3D", 'database "'): "create the database, or correct its name in the url",
    ("42501", "permission denied"): "grant this user USAGE and CREATE on the schema, and its tables to write",
    ("55P03", "40P01"): f"another process has held it for more than {BUSY_SECONDS:.0f} s: end it, or try again",
    ("53100",): "the server's disk is full: free some space there",
    ("53300",): "the server has no connection left: raise max_connections, or run fewer processes at once",
    ("25006",): "the server can be read only: name the primary, not a replica",
    ("42P01", "42703"): "its tables were dropped or changed by hand: restore them; run again to create missing ones",
}


def mend_sqlite(cause: BaseException, path: Path | None) -> str:
    """Return what mends a failure of SQLite on this file; None is a database in memory."""
    if path is not None and os.path.isdir(path):
        return f"{path} is a folder: name a file in it"
    name = getattr(cause, "sqlite_errorname", "")
    for prefix, mend in _SQLITE_MENDS.items():
        if name.startswith(prefix):
            return mend
    if path is None:
        return "it lives in memory: use it from fewer threads, or use a file"
    return f"check the folder {path.parent}, the rights on it, and that its disk is not full"


def mend_postgres(cause: BaseException) -> str:
    """Return what mends a failure of PostgreSQL."""
    # libpq gives no code when the connection itself failed, so read its text; the lists go from sure to vague.
    code, words = getattr(cause, "sqlstate", None) or "", str(cause)
    for signs, mend in _POSTGRES_MENDS.items():
        if any(code.startswith(sign) if code else sign.islower() and sign in words for sign in signs):
            return mend
    return "check that the server runs, that this machine reaches it, and that the url is right; then try again"
