"""Hiding secrets in a command line before it is recorded. Pure, and linear in the length of the text.

A secret is known by the name before it (`--token=`, `PGPASSWORD=`, `accessToken:`, `-Dpassword=`), by its place in a URL or
after an option of a known program (`curl -u`), by its own look (`ghp_`, `AKIA`, a JWT), or because it is given. Every
pattern begins at a place that cannot overlap with another one's middle, so that nothing is scanned again and again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

Hide = Callable[[str], str]

HIDDEN = "***"
SECRET_MIN_CHARACTERS = 8  # shorter values of secret variables would be found by chance

_LAST_WORDS = {
    *("token", "password", "passwords", "passwd", "passphrase", "passwort", "pwd", "pass", "passin", "passout"),
    *("storepass", "keypass", "secret", "secrets", "credential", "credentials", "auth", "authorization", "signature"),
    *("sig", "apikey", "apikeys", "cookie", "cookies", "pat", "bearer", "jwt", "otp", "totp", "pin", "passcode"),
}
# Of a secret: passwordHash, tokenValue.
_FORMS = {*("hash", "hashed", "value", "text", "plain", "plaintext", "string", "base64", "hex")}
_KEY_WORDS = {
    "api",
    "access",
    "private",
    "secret",
    "account",
    "auth",
    "shared",
    "encryption",
    "signing",
    "master",
    "storage",
}
_ENDINGS = ("password", "passwd", "passphrase", "secret", "token", "apikey", "accesskey", "secretkey", "privatekey")
_KEY_ENDINGS = ("accountkey", "authkey", "sharedkey")
_NO_SECRETS = {"PWD", "OLDPWD"}  # directories

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", re.ASCII)
_NAME_BEFORE = re.compile(r"(?<![\w.-])(-*\w[\w.-]*)(\s*=\s*|\\?['\"]?\s*:\s*|\s+(?=[^\s=:]))", re.ASCII)
_ASSIGNED = re.compile(r"(-*\w[\w.-]*)=", re.ASCII)
_QUOTED = r"\\\"[^\"\\]*\\\"|\"[^\"]*\"|'[^']*'"
_VALUE = re.compile(rf"{_QUOTED}|[^\s&;|'\"]+", re.ASCII)
_SCHEMES = "Bearer|Basic|Token|Digest|ApiKey|Negotiate"
_VALUE_IN_TEXT = re.compile(rf"(?:(?:{_SCHEMES})\s+)?(?:{_QUOTED}|[^\s,'\"}}]+)", re.IGNORECASE | re.ASCII)
_LINE = re.compile(r"[^'\"\n]+", re.ASCII)
_SCHEME = re.compile(r"\w+\s+", re.ASCII)
_USER_AND_PASSWORD = re.compile(r"(://[^\s/?#@:'\"]*:)[^\s/'\"]*@", re.ASCII)
_USER_IS_TOKEN = re.compile(r"((?:https?|git|wss?)://)[^\s/?#@:'\"]+@", re.IGNORECASE | re.ASCII)
_AUTHORIZATION = re.compile(r"\b((?:Bearer|Basic|Token)\s+)[A-Za-z0-9._~+/=-]{6,}", re.ASCII)
_BARE = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"gh[pousr]_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?|sk-[\w-]{16,}|[sr]k_live_\w{16,}|xox[a-z]-[\w-]{10,}|hf_[A-Za-z0-9]{16,}"
    r"|npm_\w{20,}|pypi-[\w-]{20,}|AIza[\w-]{20,}|ya29\.[\w-]{16,}|SG\.[\w-]{8,}\.[\w-]{8,})",
    re.ASCII,
)
_WEBHOOK = re.compile(r"(hooks\.slack\.com/services/)[^\s'\"]+", re.ASCII)
_KEY_BLOCK = re.compile(r"(-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----)[^-]*", re.ASCII)

# Options that take a secret, by program: the whole value, or what stands behind the user's name.
_SECRET_OPTIONS = {
    "sshpass": ("-p",),
    "redis-cli": ("-a",),
    "docker": ("-p",),
    "podman": ("-p",),
    "az": ("-p",),
    "mysql": ("-p",),
    "mysqldump": ("-p",),
    "mariadb": ("-p",),
    "mongo": ("-p",),
    "mongosh": ("-p",),
    "ldapsearch": ("-w",),
    "zip": ("-P",),
    "7z": ("-p",),
    "twine": ("-p",),
    "sqlcmd": ("-P",),
    "curl": ("-b",),
    "doctl": ("-t",),
}
_USER_OPTIONS = {
    "curl": ("-u", "--user", "-U", "--proxy-user"),
    "http": ("-a", "--auth"),
    "https": ("-a", "--auth"),
    "smbclient": ("-U", "--user"),
}
# Words of a program after which all that are no options are secrets, but for the first so many.
_SECRET_ARGUMENTS = {
    "vault": (re.compile("login"), 0),
    "wandb": (re.compile("login"), 0),
    "rclone": (re.compile("obscure"), 0),
    "ngrok": (re.compile("(add-)?authtoken"), 0),
    "openssl": (re.compile("passwd"), 0),
    "cloudflared": (re.compile("install"), 0),
    "htpasswd": (re.compile(r"-\w*b\w*"), 1),  # -b, -nb, -Bbc
}
_SETTING = ("set", "--set", "add", "--add")  # aws configure set NAME VALUE
_ENDS_A_COMMAND = ";&|"
_PROGRAMS = {*_SECRET_OPTIONS, *_USER_OPTIONS, *_SECRET_ARGUMENTS}
_MAY_BE_ALONE = ("mysql", "mysqldump", "mariadb")  # `-p` asks for it: then the next word is none


def redact(words: Sequence[str], secrets: Iterable[str] = ()) -> list[str]:
    """The command's words with `***` in place of what looks like a secret, and of each of `secrets` wherever it is."""
    known = [secret for secret in secrets if len(secret) >= SECRET_MIN_CHARACTERS]
    hidden: list[str] = []
    hide: Hide | None = None
    program = ""
    by_place = set(_secret_places(words))
    for place, word in enumerate(words):
        if place in by_place:
            hidden.append(HIDDEN)
            hide = None
            continue
        if hide is not None and not (_is_flag(word) and is_secret_name(word)):
            hidden.append(hide(word))
            hide = None
            continue
        program = os.path.basename(word) if os.path.basename(word) in _PROGRAMS else program
        hide = _hides_next(program, word)
        hidden.append(_redact_word(program, word, known))
    return hidden


def _hides_next(program: str, word: str) -> Hide | None:
    """How the value that follows this word is to be hidden, None if it is no secret."""
    if _is_flag(word) and is_secret_name(word) and "=" not in word:
        return _hide_value_of(word)
    if word in _SECRET_OPTIONS.get(program, ()) and program not in _MAY_BE_ALONE:
        return _hide_all
    if word in _USER_OPTIONS.get(program, ()):
        return _hide_after_user
    return None


def _is_flag(word: str) -> bool:
    return word.startswith("-") and " " not in word


def _secret_places(words: Sequence[str]) -> Iterator[int]:
    """Where words are secrets because of those before them: `vault login X`, `aws configure set NAME X`."""
    program, left = "", -1  # how many words more are none; -1: nobody said that any follows
    for place, word in enumerate(words):
        name = os.path.basename(word.strip("'\"(;&|"))
        if name in _SECRET_ARGUMENTS:
            program, left = name, -1
        elif program and left < 0:
            announces, count = _SECRET_ARGUMENTS[program]
            left = count if announces.fullmatch(word) else -1
        elif left >= 0 and word.strip(_ENDS_A_COMMAND) and not word.startswith("-") and not _is_assignment(word):
            if left == 0:
                yield place
            left = max(0, left - 1)
        if word.endswith(tuple(_ENDS_A_COMMAND)):
            program, left = "", -1
        name = words[place - 1]
        if place > 1 and words[place - 2] in _SETTING and "=" not in name and is_secret_name(name):
            yield place


def _is_assignment(word: str) -> bool:
    return bool(_ASSIGNED.match(word.rstrip("=")))


def _hide_value_of(name: str) -> Hide:
    return _hide_long if _is_bare_key(name) else _hide_all


def _hide_long(value: str) -> str:
    """`--key`: of a cipher, or the one to sort by, which is short."""
    return HIDDEN if len(value.strip("'\"")) >= SECRET_MIN_CHARACTERS else value


def _hide_all(_value: str) -> str:
    return HIDDEN


def _hide_after_user(value: str) -> str:
    """user:password, user%password; a user alone is no secret."""
    at = min((at for at in (value.find(":"), value.find("%")) if at >= 0), default=-1)
    return value if at < 0 else value[: at + 1] + HIDDEN


def _redact_word(program: str, word: str, known: Sequence[str]) -> str:
    """One word of an argument list. A name at its beginning means all that follows, whatever a shell would make of it."""
    assigned = _ASSIGNED.match(word)
    if assigned and is_secret_name(assigned[1]):
        return assigned[0] + _hide_value_of(assigned[1])(word[assigned.end() :])
    return _with_value_hidden(program, word) or redact_text(word, known)


def _with_value_hidden(program: str, word: str) -> str | None:
    """`-psecret`, `-uada:secret`: an option of this program with its value in one word; None if it is none."""
    for option in _SECRET_OPTIONS.get(program, ()):
        if word.startswith(option) and len(word) > len(option):
            return option + HIDDEN
    for option in _USER_OPTIONS.get(program, ()):
        if len(option) == 2 and word.startswith(option) and len(word) > 2:
            return option + _hide_after_user(word[2:])
    return None


def redact_text(text: str, secrets: Iterable[str] = ()) -> str:
    """A command given as one text, or a word that may hold one (`sh -c`)."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    text = _redact_programs(text)
    text = _KEY_BLOCK.sub(rf"\1{HIDDEN}", text)
    text = _USER_AND_PASSWORD.sub(rf"\1{HIDDEN}@", text)
    text = _USER_IS_TOKEN.sub(rf"\1{HIDDEN}@", text)
    text = _redact_named(text)
    text = _AUTHORIZATION.sub(rf"\1{HIDDEN}", text)
    text = _WEBHOOK.sub(rf"\1{HIDDEN}", text)
    return _BARE.sub(HIDDEN, text)


def _redact_programs(text: str) -> str:
    """`curl -u ada:secret` within a text."""
    if not any(word in text for word in (*_PROGRAMS, *_SETTING)):
        return text
    pieces = re.split(r"(\s+)", text)
    for place in _secret_places(pieces[::2]):
        pieces[2 * place] = HIDDEN
    program = ""
    for number in range(0, len(pieces), 2):
        name = os.path.basename(pieces[number].strip("'\"(;&|"))
        program = name if name in _PROGRAMS else program
        pieces[number] = _with_value_hidden(program, pieces[number]) or pieces[number]
        hide = _hides_next(program, pieces[number])
        if hide is not None and program and number + 2 < len(pieces):
            pieces[number + 2] = hide(pieces[number + 2])
    return "".join(pieces)


def _redact_named(text: str) -> str:
    """What follows a secret's name and `=`, `:` or, for a flag, a blank."""
    parts: list[str] = []
    done = position = 0
    while found := _NAME_BEFORE.search(text, position):
        position = found.end()
        name, separator = found[1], found[2]
        is_flag_alone = not separator.strip()
        if not is_secret_name(name) or (is_flag_alone and not name.startswith("--")):
            continue
        value = _value_at(text, found.end(), name, separator)
        if value is not None and not (is_flag_alone and value[1].startswith("-")):
            begin, shown = value
            if _hide_value_of(name)(shown) == shown:
                continue
            scheme = _SCHEME.match(shown) if ":" in separator and name.lower() != "cookie" else None
            parts += [text[done : begin + (len(scheme[0]) if scheme else 0)], HIDDEN]
            done = position = begin + len(shown)
    return "".join([*parts, text[done:]])


def _value_at(text: str, position: int, name: str, separator: str) -> tuple[int, str] | None:
    pattern = _VALUE
    if ":" in separator:
        pattern = _LINE if name.lower().endswith(("cookie", "authorization")) else _VALUE_IN_TEXT
    found = pattern.match(text, position) or _VALUE_IN_TEXT.match(text, position)
    return (found.start(), found[0]) if found else None


def is_secret_name(name: str) -> bool:
    """Whether the words of a name, however they are joined, say that its value is a secret."""
    plain = name.partition("=")[0].lstrip("-")
    if plain in _NO_SECRETS:
        return False
    if name.startswith("-D") and not name.startswith("-D="):  # java -Dpassword=...
        plain = plain[1:]
    words = [word.lower() for word in _WORD.findall(plain)]
    if len(words) > 1 and words[-1] in _FORMS:
        words.pop()
    if not words:
        return False
    if words[-1] == "id" and words[-2:-1] == ["key"]:
        words.pop()
    is_key = words[-1] in ("key", "keys") and len(words) > 1 and words[-2] in _KEY_WORDS
    return is_key or _is_bare_key(name) or words[-1] in _LAST_WORDS or words[-1].endswith((*_ENDINGS, *_KEY_ENDINGS))


def _is_bare_key(name: str) -> bool:
    return name.rstrip("=").lstrip("-").lower() == "key"
