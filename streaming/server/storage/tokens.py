"""Bearer tokens: made here, shown once, kept as a hash, each with a name."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timezone

from streaming.server.errors import ServerError, UnknownName
from streaming.server.storage.database import ServerDatabase

DEFAULT_TOKEN_NAME = "default"
_PREFIX = "tst_"
_MAX_NAME_LENGTH = 100


@dataclass(frozen=True)
class KnownToken:
    """A known token, without the token itself."""

    id: int
    name: str
    created_at: str
    revoked_at: str | None


class TokenStore:
    """The tokens of one server."""

    def __init__(self, database: ServerDatabase) -> None:
        self._database = database

    def add(self, name: str) -> str:
        """Make a token and return it: the only time it can be seen. Durable on return. A revoked name can be given again."""
        if not name.isprintable() or not 0 < len(name.strip()) <= _MAX_NAME_LENGTH:
            raise ServerError(f"A token's name has 1 to {_MAX_NAME_LENGTH} printable characters.")
        token = _PREFIX + secrets.token_urlsafe(32)
        with self._database.transaction() as db:
            if db.conn.execute("SELECT 1 FROM tokens WHERE name = ? AND revoked_at IS NULL", (name,)).fetchone():
                raise ServerError(
                    f"There is a token named {name!r} already.", hint="Revoke it first, or choose another name."
                )
            db.conn.execute(
                "INSERT INTO tokens (name, hash, created_at) VALUES (?, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET hash = excluded.hash, revoked_at = NULL",
                (name, hash_token(token), _now_text()),
            )
        return token

    def list(self) -> list[KnownToken]:
        rows = self._database.rows("SELECT id, name, created_at, revoked_at FROM tokens ORDER BY id")
        return [KnownToken(**row) for row in rows]

    def revoke(self, name: str) -> None:
        """From now on the token is answered with 401; its runs stay. Raises UnknownName."""
        with self._database.transaction() as db:
            changed = db.conn.execute(
                "UPDATE tokens SET revoked_at = ? WHERE name = ? AND revoked_at IS NULL", (_now_text(), name)
            )
            if changed.rowcount == 0:
                raise UnknownName(
                    f"There is no valid token named {name!r}.", hint="See `tracker-stream server token list`."
                )

    def find(self, token: str) -> KnownToken | None:
        """The valid token that this is, if it is one."""
        rows = self._database.rows(
            "SELECT id, name, created_at, revoked_at FROM tokens WHERE hash = ? AND revoked_at IS NULL",
            (hash_token(token),),
        )
        return KnownToken(**rows[0]) if rows else None


def hash_token(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", errors="surrogateescape")).hexdigest()


def _now_text() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
