"""Hiding secrets in a command line before it is recorded: passwords in URLs, `--token=`, `API_KEY=`, `Bearer`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

HIDDEN = "***"
SECRET_MIN_CHARACTERS = 8  # shorter values of secret variables would be found by chance

_NAME = (
    r"(?:[\w.-]*[_.-])?"
    r"(?:token|passwords?|passwd|passphrase|pwd|pass|secrets?|api[_-]?keys?|access[_-]?keys?(?:[_-]?id)?|private[_-]?keys?"
    r"|secret[_-]?(?:access[_-]?)?keys?|credentials?|auth|authorization|signature|sig)"
)
_IS_SECRET_FLAG = re.compile(rf"--?{_NAME}", re.IGNORECASE)
_PATTERNS = (
    # scheme://user:password@host, and scheme://token@host
    (re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^\s/?#@:'\"]*):([^\s/?#@'\"]*)@"), rf"\1\2:{HIDDEN}@"),
    (re.compile(r"((?:https?|git|wss?)://)([^\s/?#@:'\"]+)@", re.IGNORECASE), rf"\1{HIDDEN}@"),
    # --token=..., API_KEY=..., ?X-Amz-Signature=...; and "--password ..." inside a shell's -c "..."
    (re.compile(rf"((?<![\w-])(?:--?)?{_NAME}=)([^\s&;|'\"]+|\"[^\"]*\"|'[^']*')", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(rf"((?<![\w-])--{_NAME}\s+)([^\s'\"-][^\s'\"]*|\"[^\"]*\"|'[^']*')", re.IGNORECASE), rf"\1{HIDDEN}"),
    # Authorization: Bearer ..., "password": "..."
    (re.compile(r"\b((?:Bearer|Basic|Token)\s+)([A-Za-z0-9._~+/=-]{6,})"), rf"\1{HIDDEN}"),
    (
        re.compile(
            rf"(\b{_NAME}['\"]?\s*:\s*)(?!(?:Bearer|Basic|Token)\b)([^\s,'\"}}]+|\"[^\"]*\"|'[^']*')", re.IGNORECASE
        ),
        rf"\1{HIDDEN}",
    ),
)


def redact(words: Sequence[str], secrets: Iterable[str] = ()) -> list[str]:
    """The command's words with `***` in place of what looks like a secret, and of each of `secrets` wherever it is."""
    known = [secret for secret in secrets if len(secret) >= SECRET_MIN_CHARACTERS]
    hidden: list[str] = []
    hides_next = False
    for word in words:
        is_value = hides_next and not _IS_SECRET_FLAG.fullmatch(word)
        hidden.append(HIDDEN if is_value else redact_text(word, known))
        hides_next = bool(_IS_SECRET_FLAG.fullmatch(word))
    return hidden


def redact_text(text: str, secrets: Iterable[str] = ()) -> str:
    """One word, or a command given as one text."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text
