"""The settings of `run` and `attach` as a plan of what is recorded, and where it goes."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streaming import config
from streaming.collect.redaction import redact
from streaming.collect.scheduler import Placement, placement
from streaming.config import Mode, Target
from streaming.errors import BadArgument
from streaming.record.plan import Delivery, Plan

_SAYS_WHERE_TO = {"mode", *(setting.name for setting in config.DELIVERY)}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOptions:
    """What the user wants recorded, and how."""

    plan: Plan
    exit_wait_s: float
    quiet: bool
    why_local: str  # why nothing is delivered; "" if it is


def run_options(
    given: Mapping[str, Any], command: list[str] | None, where: Placement, unusable: Mapping[str, str]
) -> RunOptions:
    """The settings as a plan. What is `unusable` is told; if it says where to deliver, the run is recorded only."""
    for text in unusable.values():
        config.warn_once(text)
    target = _target(given, unusable)
    plan = Plan(
        spool_dir=given["spool_dir"],
        delivery=Delivery.to(
            target, upload_interval_s=config.wait_s(given["upload_interval"], "upload_interval", least=1.0)
        ),
        interval_s=config.wait_s(given["interval"], "interval"),
        metadata=_metadata(given, command, where, target.token),
    )
    exit_wait_s = config.wait_s(given["exit_wait"], "exit_wait")
    is_quiet = given["quiet"] or not where.is_first_rank  # one rank tells for all of its step
    return RunOptions(plan, exit_wait_s, is_quiet, target.why_local)


def _target(given: Mapping[str, Any], unusable: Mapping[str, str]) -> Target:
    """Where rows go; nowhere in offline mode, and where a setting leaves that open: a guess might be a stranger."""
    addresses = given["api_url"], given["s3_endpoint_url"]
    if doubtful := [text for name, text in unusable.items() if name in _SAYS_WHERE_TO]:
        return Target(None, *addresses, why_local=doubtful[0])
    if Mode(given["mode"]) is Mode.OFFLINE:
        return Target(None, *addresses, why_local="offline mode")
    try:
        token = config.find_token(given["token_file"])
    except BadArgument as error:
        return config.local_target(str(error))
    if token is None:
        return Target(None, *addresses, why_local=f"no {config.TOKEN}")
    if token.source == config.TOKEN_FALLBACK and not given["quiet"]:
        log.warning("%s is used as the token; its present name is %s", config.TOKEN_FALLBACK, config.TOKEN)
    return Target(token.text, *addresses)


def _metadata(
    given: Mapping[str, Any], command: list[str] | None, where: Placement, token: str | None
) -> dict[str, Any]:
    """What the user gave, filled up with what the scheduler tells; secrets in the command hidden."""
    named: dict[str, Any] = {name: given[name] or None for name in config.METADATA_NAMES}
    if command is not None:
        named["command"] = redact(command, [token] if token else [])
    found = where.filling({**named, "tags": given["tags"] or {}})
    if command and found.get("orchestrator") == "slurm":
        found.setdefault(
            "job_name", os.path.basename(command[0])
        )  # `srun tracker-stream run ...` names the job after us
    return found


def detect_placement() -> Placement:
    """The scheduler's and the control groups' word on this process."""
    return placement(os.environ)
