"""What is told about a run when it is registered: the wire's names, checked and cleaned. Pure."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from typing import Any

from spool import Run
from streaming.config import METADATA_NAMES, SEND_HOST_IDENTITY
from streaming.errors import BadArgument

IDENTIFYING = ("host_id", "host_hostname", "host_ip")
_FORMER_NAMES = {  # the service's own, until its schema was corrected; the Python client documents them still
    "host_name": "host_hostname",
    "host_allocation": "host_server_allocation",
    "host_gpu_vram_mib": "host_gpu_memory_mib",
}


NAME_TAG = "run"  # the run's name in our own commands, by which it is found on the service's pages, too


def payload(run: Run, *, name: str) -> dict[str, Any]:
    """The flat body of POST /runs: metadata, host_* and cloud_*; keys with value None are left out.

    `name`: what the run is called here. It goes along as a tag, unless the user has one of that name.
    """
    host_info = {_FORMER_NAMES.get(key, key): value for key, value in (run.host_info or {}).items()}
    if not os.environ.get(SEND_HOST_IDENTITY):
        host_info = {key: value for key, value in host_info.items() if key not in IDENTIFYING}
    has_own_tag = NAME_TAG in (run.metadata.get("tags") or {})
    described = dict(run.metadata) if has_own_tag else tagged(run.metadata, NAME_TAG, name)
    merged = {**described, **host_info, **(run.cloud_info or {})}
    known = {key: value for key, value in merged.items() if value is not None}
    known.update(_numbers_as_texts(known))
    if "command" in known:
        known["command"] = command_text(known["command"])
    return known


def _numbers_as_texts(known: Mapping[str, Any]) -> dict[str, str]:
    """Where the service takes texts only, e.g. a scheduler's number as `external_run_id`."""
    return {name: str(known[name]) for name in METADATA_NAMES if isinstance(known.get(name), (int, float))}


def command_text(command: object) -> str:
    """A command as the wire wants it: a string that holds a JSON array of words."""
    words = [str(word) for word in command] if isinstance(command, (list, tuple)) else _words(str(command))
    return json.dumps(words)


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # an unbalanced quote: keep the text whole
        return [command]


def recorded(metadata: Mapping[str, Any] | None, *, hidden: str | None = None) -> dict[str, Any]:
    """A run's metadata as it goes to disk: JSON can hold it, passwords and tokens in the command are hidden.

    `hidden`: the run's own token, which is hidden wherever it stands.
    """
    found = jsonable(metadata) or {}
    if hidden:
        found = json.loads(json.dumps(found).replace(json.dumps(hidden)[1:-1], "***"))
    command = found.get("command")
    if command:
        from streaming.collect.redaction import redact, redact_text

        words = [str(word) for word in command] if isinstance(command, list) else None
        found["command"] = redact(words) if words is not None else redact_text(str(command))
    return found


def tagged(metadata: Mapping[str, Any], name: str, value: str) -> dict[str, Any]:
    """Metadata with one more tag, whichever of the two shapes its tags have; unchanged if they have neither."""
    tags = metadata.get("tags") or {}
    if isinstance(tags, Mapping):
        return {**metadata, "tags": {**tags, name: value}}
    if isinstance(tags, list):
        return {**metadata, "tags": [*tags, f"{name}={value}"]}
    return dict(metadata)


def require_sendable(metadata: Mapping[str, Any]) -> None:
    """Raises BadArgument for a name that no service knows, and for a value that none can take."""
    for name, value in metadata.items():
        if name not in (*METADATA_NAMES, "command", "tags"):
            import difflib

            close = difflib.get_close_matches(name, METADATA_NAMES, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are: {', '.join(METADATA_NAMES)}, command, tags"
            raise BadArgument(f"{name!r} is not a metadata field", hint=hint)
        if name == "tags":
            _require_tags(value)
        elif isinstance(value, Mapping) or (name != "command" and isinstance(value, (list, tuple, set))):
            raise BadArgument(f"{name}={value!r} cannot be sent", hint="give a text or a number")


def _require_tags(tags: object) -> None:
    if tags is None:
        return
    if not isinstance(tags, Mapping):
        raise BadArgument(f"tags={tags!r} cannot be used", hint='give a dict, e.g. tags={"fold": 3}')
    for key, value in tags.items():
        if not isinstance(key, str) or isinstance(value, (Mapping, list, tuple, set)):
            raise BadArgument(
                f"the tag {key!r}: {value!r} cannot be sent", hint="a tag is a text with a text or a number"
            )


def jsonable(mapping: Mapping[str, Any] | None, what: str = "metadata") -> dict[str, Any] | None:
    """A copy that JSON can hold: what it cannot hold (also NaN, which no service takes) becomes its text; bytes of an
    argument that are no UTF-8 become question marks.

    Raises BadArgument for what has no text form either: a mapping that holds itself, keys that are no texts.
    """
    try:
        if mapping is None:
            return None
        text = json.dumps(dict(mapping), default=str, ensure_ascii=False).encode("utf-8", "replace")
        found: dict[str, Any] = json.loads(text, parse_constant=str)
        return found
    except (TypeError, ValueError, RecursionError) as error:
        raise BadArgument(
            f"{what} cannot be sent as JSON ({error})", hint="give texts, numbers, lists and dicts"
        ) from error
