"""A browser's login: a random cookie in exchange for a token, kept as a hash, good for one token's runs at its page."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta, timezone

from streaming.server.storage.database import ServerDatabase
from streaming.server.storage.tokens import KnownToken, hash_token

COOKIE = "tracker_stream_session"
LIFETIME = timedelta(days=7)
TICKET_LIFETIME = timedelta(minutes=10)
_TICKET = "ticket of "
_SHARE = "share of "


class SessionStore:
    """Survives a restart of the service; ends with its token.

    A session is found only for the holder it was opened for: a stolen secret is worth nothing to another one.
    """

    def __init__(self, database: ServerDatabase) -> None:
        self._database = database

    def open(self, token: KnownToken, holder: str) -> str:
        """A new session's secret. Sessions whose time is over are removed on the way."""
        return self._keep(token, holder, LIFETIME)

    def ticket(self, token: KnownToken, holder: str) -> str:
        """A secret that opens one session, once, soon: for a link. It is a session by itself to nobody."""
        return self._keep(token, _TICKET + holder, TICKET_LIFETIME)

    def redeem(self, ticket: str, holder: str) -> KnownToken | None:
        """Whose ticket this is, if it is good: it is not any more."""
        token = self.find(ticket, _TICKET + holder)
        return token if token and self.close(ticket, _TICKET + holder) else None

    def share(self, token: KnownToken, run_id: str, lifetime: timedelta) -> str:
        """A secret that shows one run to whoever holds it, until then: for a link. It is a session by itself to nobody."""
        return self._keep(token, _SHARE + run_id, lifetime)

    def find_shared(self, secret: str, run_id: str) -> KnownToken | None:
        """Whose run this is, if the secret shows it."""
        return self.find(secret, _SHARE + run_id)

    def _keep(self, token: KnownToken, holder: str, lifetime: timedelta) -> str:
        secret = secrets.token_urlsafe(32)
        now = datetime.now(timezone.utc)
        with self._database.transaction() as db:
            db.conn.execute("DELETE FROM sessions WHERE expires_at <= ?", (_text(now),))
            db.conn.execute(
                "INSERT INTO sessions (hash, token_id, token_hash, expires_at) "
                "SELECT ?, id, hash, ? FROM tokens WHERE id = ?",
                (_hash(secret, holder), _text(now + lifetime), token.id),
            )
        return secret

    def find(self, secret: str, holder: str) -> KnownToken | None:
        """Whose session this is, if it is valid and its token is not revoked."""
        rows = self._database.rows(
            "SELECT t.id, t.name, t.created_at, t.revoked_at FROM sessions s JOIN tokens t ON t.id = s.token_id "
            "WHERE s.hash = ? AND s.expires_at > ? AND t.revoked_at IS NULL AND s.token_hash = t.hash",
            (_hash(secret, holder), _text(datetime.now(timezone.utc))),
        )
        return KnownToken(**rows[0]) if rows else None

    def close(self, secret: str, holder: str) -> bool:
        """Whether there was such a session: of several who close it at once one is told so."""
        with self._database.transaction() as db:
            deleted = db.conn.execute("DELETE FROM sessions WHERE hash = ?", (_hash(secret, holder),))
        return bool(deleted.rowcount)


def holder_name(uid: int | None) -> str:
    """A holder by their user id; where the kernel tells none, everybody is the same one."""
    return "" if uid is None else f"uid {uid}"


def _hash(secret: str, holder: str) -> str:
    return hash_token(f"{holder}:{secret}")


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")
