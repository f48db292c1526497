"""Numbers as people read them: counts, bytes, durations, moments."""

from __future__ import annotations

import time

_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB")
_DAY_S = 86_400


def count(number: int) -> str:
    """1,234,567"""
    return f"{number:,}"


def rows(number: int) -> str:
    """ "1 row", "2,000 rows" """
    return f"{number:,} row" if number == 1 else f"{number:,} rows"


def size(number: float) -> str:
    """Bytes with three digits or so: 999 B, 1.2 kB, 34 MB."""
    for unit in _BYTE_UNITS:
        if number < 1000 or unit == _BYTE_UNITS[-1]:
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" or number >= 10 else f"{number:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """8.2 s, 3 min 20 s, 2 h 05 min, 3 d 4 h; "-" if unknown."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s" if whole % 60 else f"{whole // 60} min"
    if whole < _DAY_S:
        minutes = whole % 3600 // 60
        return f"{whole // 3600} h {minutes:02d} min" if minutes else f"{whole // 3600} h"
    hours = whole % _DAY_S // 3600
    return f"{whole // _DAY_S} d {hours} h" if hours else f"{whole // _DAY_S} d"


def moment(at: float | None) -> str:
    """Local time without seconds, e.g. 2026-11-24 03:47; "-" if unknown."""
    return "-" if at is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def short_moment(at: float | None, now: float) -> str:
    """Within the last day 03:47:20, else Nov 24 03:47, a year ago 2025-11-24."""
    if at is None:
        return "-"
    age_s = now - at
    layout = "%H:%M:%S" if abs(age_s) < _DAY_S else "%b %d %H:%M" if abs(age_s) < 300 * _DAY_S else "%Y-%m-%d"
    return time.strftime(layout, time.localtime(at))


def parse_duration(text: str) -> float:
    """Seconds of "90", "90s", "15m", "12h", "7d" or "2w". Raises ValueError."""
    units = {"s": 1, "m": 60, "h": 3600, "d": _DAY_S, "w": 7 * _DAY_S}
    text = text.strip().lower()
    unit = units.get(text[-1:], 0)
    value = float(text[:-1] if unit else text) * (unit or 1)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value
