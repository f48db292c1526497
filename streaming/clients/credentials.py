"""STS credentials as a value with an expiry, and the keeper that has fresh ones at hand for every run.

Credentials live in memory only. The keeper refreshes early, keeps working ones in use when the refresh fails, and
never loops: however short a lifetime the service gives, refreshes are apart by a pause.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from streaming.errors import CredentialsRefused, Transient, Unauthorized
from streaming.processes.system import seconds_since_boot

REFRESH_AHEAD_S = 300.0  # refresh when less than this remains ...
REFRESH_AHEAD_SHARE = 1 / 3  # ... or less than this share of the lifetime, whichever is shorter
FORCED_PAUSE_S = 30.0  # at most one forced refresh in this time
MINIMUM_PAUSE_S = 1.0  # and at most one of any kind in this
FAILED_PAUSE_S = 30.0  # after a refresh that failed: each attempt may take as long as its deadline


@dataclass(frozen=True)
class Credentials:
    """Short-lived keys to put objects below one prefix. `lifetime_s` None: the service did not say."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str = field(repr=False)
    lifetime_s: float | None
    region: str | None = None


@dataclass
class _Kept:
    credentials: Credentials
    received_at: float
    refresh_not_before: float
    forced_at: float = float("-inf")


class CredentialKeeper:
    """Fresh credentials per run id. `refresh` asks the service; `clock` counts seconds and never jumps."""

    def __init__(
        self, refresh: Callable[[str], Credentials], *, clock: Callable[[], float] = seconds_since_boot
    ) -> None:
        self._refresh = refresh
        self._clock = clock
        self._kept: dict[str, _Kept] = {}

    def keep(self, run_id: str, credentials: Credentials) -> None:
        """Remember credentials that came with the registration."""
        self._kept[run_id] = self._received(credentials)

    def forget(self, run_id: str) -> None:
        self._kept.pop(run_id, None)

    def fresh(self, run_id: str) -> Credentials:
        """Credentials to use now, refreshed if due. Old ones stay in use while a refresh fails (also for its token).

        Raises what `refresh` raises if there are none to fall back to, and RunUnknown.
        """
        kept = self._kept.get(run_id)
        if kept is None:
            self.keep(run_id, self._refresh(run_id))
            return self._kept[run_id].credentials
        if self._is_due(kept):
            self._try_refresh(run_id, kept)
        return self._kept[run_id].credentials

    def replace_refused(self, run_id: str, cause: CredentialsRefused) -> Credentials:
        """New credentials because S3 refused these, at most every 30 s. Raises Transient in between (an outage then).

        If they have expired, S3 is right and no outage: then only the caller's backoff sets the pace.
        """
        kept = self._kept.get(run_id)
        if kept is None:  # forgotten meanwhile
            return self.fresh(run_id)
        pause_s = kept.forced_at + FORCED_PAUSE_S - self._clock()
        if pause_s > 0 and self._remaining_s(kept) > 0:
            raise Transient(
                f"S3 refuses fresh credentials ({cause.message})", cause="credentials refused", retry_after_s=pause_s
            ) from cause
        kept.forced_at = self._clock()  # counts even if it fails
        self._kept[run_id] = self._received(self._refresh(run_id), forced_at=kept.forced_at)
        return self._kept[run_id].credentials

    def _is_due(self, kept: _Kept) -> bool:
        lifetime_s = kept.credentials.lifetime_s
        if lifetime_s is None:
            return False
        ahead_s = min(REFRESH_AHEAD_S, lifetime_s * REFRESH_AHEAD_SHARE)
        return self._remaining_s(kept) < ahead_s and self._clock() >= kept.refresh_not_before

    def _remaining_s(self, kept: _Kept) -> float:
        lifetime_s = kept.credentials.lifetime_s
        return float("inf") if lifetime_s is None else kept.received_at + lifetime_s - self._clock()

    def _try_refresh(self, run_id: str, kept: _Kept) -> None:
        try:
            self._kept[run_id] = self._received(self._refresh(run_id), forced_at=kept.forced_at)
        except (Transient, Unauthorized):
            # S3 decides whether the old ones still work; if not, `replace_refused` is asked.
            kept.refresh_not_before = self._clock() + FAILED_PAUSE_S

    def _received(self, credentials: Credentials, *, forced_at: float = float("-inf")) -> _Kept:
        now = self._clock()
        return _Kept(credentials, received_at=now, refresh_not_before=now + MINIMUM_PAUSE_S, forced_at=forced_at)
