"""The settings by name: flag, environment variable, default, unit; and the TOML file that may hold them.

What counts is, in this order: flag, environment, TOML file, default. This table is the only place where they are
listed: the flags, the file's check and the README's table are made from it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from streaming import config
from streaming.errors import BadArgument

DEFAULT_FILE = "tracker-stream.toml"


class Mode(str, Enum):
    """What `run` and `attach` do: deliver if there is a token, only record, or nothing but run the command."""

    AUTO = "auto"
    OFFLINE = "offline"
    DISABLED = "disabled"


class Kind(str, Enum):
    """What a setting holds."""

    TEXT = "text"
    SECONDS = "a number of seconds"
    SWITCH = "true or false"
    TAGS = "a table of texts"
    MODE = "auto, offline or disabled"


@dataclass(frozen=True)
class Setting:
    """One setting. `name` is its key in the TOML file; its flag is the same word unless `flags` says otherwise."""

    name: str
    variable: str
    help: str
    kind: Kind = Kind.TEXT
    default: str | float | bool | None = None
    flags: tuple[str, ...] = ()
    least: float = 0.0

    @property
    def flag(self) -> str:
        return self.flags[0] if self.flags else "--" + self.name.replace("_", "-")


METADATA = (
    Setting("job_name", "TRACKER_JOB_NAME", "Name of the job.", flags=("--job-name", "-n")),
    Setting("project_name", "TRACKER_PROJECT_NAME", "Project that the run belongs to."),
    Setting("stage_name", "TRACKER_STAGE_NAME", "Stage of the pipeline."),
    Setting("task_name", "TRACKER_TASK_NAME", "Task within the stage."),
    Setting("team", "TRACKER_TEAM", "Team that runs it."),
    Setting("env", "TRACKER_ENV", "Environment, e.g. dev or prod."),
    Setting("language", "TRACKER_LANGUAGE", "Programming language of the job."),
    Setting("orchestrator", "TRACKER_ORCHESTRATOR", "What started it; found by itself, e.g. slurm."),
    Setting("executor", "TRACKER_EXECUTOR", "What executes it, e.g. kubernetes."),
    Setting("external_run_id", "TRACKER_EXTERNAL_RUN_ID", "The scheduler's id of it; found by itself."),
    Setting("container_image", "TRACKER_CONTAINER_IMAGE", "Image that it runs in."),
)
TAGS = Setting("tags", "TRACKER_TAGS", "A tag; may be repeated.", Kind.TAGS, flags=("--tag",))
SAMPLING = (
    Setting("interval", "TRACKER_INTERVAL", "Between two samples.", Kind.SECONDS, 1.0, ("--interval", "-i"), 0.01),
    Setting(
        "upload_interval", "TRACKER_UPLOAD_INTERVAL", "Between two uploads.", Kind.SECONDS, config.UPLOAD_INTERVAL_S
    ),
    Setting(
        "exit_wait",
        "TRACKER_STREAM_EXIT_WAIT",
        "Wait for the delivery after the command's end.",
        Kind.SECONDS,
        config.STOP_TIMEOUT_S,
    ),
    Setting("mode", "TRACKER_STREAM_MODE", "auto, offline (only record) or disabled.", Kind.MODE, Mode.AUTO.value),
    Setting("quiet", "TRACKER_QUIET", "No lines of our own.", Kind.SWITCH, False, ("--quiet", "-q")),
)
SPOOL_DIR = Setting("spool_dir", "TRACKER_STREAM_DIR", "Where runs are kept.")
DELIVERY = (
    Setting("token_file", config.TOKEN_FILE, "File that holds the token."),
    Setting("api_url", config.API_URL, "The service.", default=config.DEFAULT_API_URL),
    Setting("s3_endpoint_url", config.S3_ENDPOINT_URL, "Another S3 than AWS."),
)
ALL = (*METADATA, TAGS, *SAMPLING, SPOOL_DIR, *DELIVERY)
BY_NAME = {setting.name: setting for setting in ALL}


def read_file(path: Path | None) -> dict[str, Any]:
    """The settings of a TOML file; of the default one, if it is there, when `path` is None.

    Raises BadArgument for a file that cannot be read, is not TOML, or holds what is no setting.
    """
    if path is None and not Path(DEFAULT_FILE).exists():
        return {}
    path = path or Path(DEFAULT_FILE)
    try:
        content = _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadArgument(
            f"the settings file {path} cannot be read ({error.strerror})", hint="give another --config"
        ) from error
    except ValueError as error:
        raise BadArgument(f"the settings file {path} is not TOML ({error})", hint="correct it") from error
    return {name: _checked(path, name, value) for name, value in content.items()}


def _parse(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    content: dict[str, Any] = tomllib.loads(text)
    return content


def _checked(path: Path, name: str, value: Any) -> Any:
    """A value as its setting wants it. Raises BadArgument."""
    if name == "token":
        raise BadArgument(
            f"{path} holds a token",
            hint='tokens do not belong there: put it into a file of its own, and token_file = "..."',
        )
    setting = BY_NAME.get(name)
    if setting is None:
        import difflib

        close = difflib.get_close_matches(name, BY_NAME, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are: {', '.join(BY_NAME)}"
        raise BadArgument(f"{path}: {name!r} is not a setting", hint=hint)
    if not _fits(setting, value):
        raise BadArgument(f"{path}: {name} = {value!r} cannot be used", hint=f"it takes {setting.kind.value}")
    if setting.kind is Kind.TAGS:
        return {str(key): str(text) for key, text in value.items()}
    return str(value) if setting.kind is Kind.TEXT else value


def _fits(setting: Setting, value: Any) -> bool:
    if setting.kind is Kind.SWITCH:
        return isinstance(value, bool)
    if setting.kind is Kind.TAGS:
        return isinstance(value, dict) and all(isinstance(text, str | int | float) for text in value.values())
    if setting.kind is Kind.MODE:
        return value in [mode.value for mode in Mode]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if setting.kind is Kind.SECONDS:
        return is_number and setting.least <= value < float("inf")
    return isinstance(value, str) or is_number


def parse_tags(text: str, source: str) -> dict[str, str]:
    """`k=v,k=v` as a mapping. Raises BadArgument naming `source`."""
    tags = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise BadArgument(f"{source}: {part!r} is not KEY=VALUE", hint="e.g. fold=3,seed=7")
        tags[key.strip()] = value.strip()
    return tags


def merge_tags(flags: tuple[str, ...], environment: str, file: Mapping[str, str]) -> dict[str, str]:
    """All tags; of the same key, the flag's counts, then the environment's, then the file's. Raises BadArgument."""
    given = {}
    for flag in flags:
        key, equals, value = flag.partition("=")
        if not equals or not key:
            raise BadArgument(f"{TAGS.flag} {flag!r} is not KEY=VALUE", hint="e.g. --tag fold=3")
        given[key] = value
    return {**file, **parse_tags(environment, TAGS.variable), **given}


def table() -> str:
    """All settings as a Markdown table: the README's."""
    rows = ["| flag | environment | key in the file | default | what it is |", "|---|---|---|---|---|"]
    for setting in ALL:
        default = (
            ""
            if setting.default in (None, False)
            else f"{setting.default:g}"
            if _is_number(setting)
            else str(setting.default)
        )
        unit = " s" if setting.kind is Kind.SECONDS else ""
        flag = " `, ` ".join(reversed(setting.flags)).replace(" ", "") if setting.flags else setting.flag
        name = f"{setting.flag} K=V" if setting.kind is Kind.TAGS else flag.replace("`,`", "`, `")
        text = f"{setting.help[:-1]} ({setting.kind.value})" if setting.kind is Kind.TAGS else setting.help
        variable = f"{setting.variable}=K=V,K=V" if setting.kind is Kind.TAGS else setting.variable
        rows.append(f"| `{name}` | `{variable}` | `{setting.name}` | {default + unit if default else ''} | {text} |")
    return "\n".join(rows) + "\n"


def _is_number(setting: Setting) -> bool:
    return setting.kind is Kind.SECONDS
