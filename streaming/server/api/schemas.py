"""The closed request bodies of the Sentinel API: a key that is not here is answered with 422 and its name."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    StringConstraints,
)

MAX_URIS = 100_000
MAX_CSV = 2**26  # the limit of the whole body is lower
_MAX_TEXT = 16_384
_MAX_TAGS = 200

Text = Annotated[str, StringConstraints(max_length=_MAX_TEXT)]
Number = Annotated[int, Field(ge=-(2**53), le=2**53)] | FiniteFloat
TagValue = Text | bool | Number | None
Tags = (
    Annotated[dict[Text, TagValue], Field(max_length=_MAX_TAGS)]
    | Annotated[list[Text | dict[Text, TagValue]], Field(max_length=_MAX_TAGS)]
)


def _is_json_array(text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError('a string holding a JSON array of strings is expected, as in ["python", "train.py"]')
    return text


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(timezone.utc)
    except OverflowError:
        raise ValueError("a time from year 1 to year 9999 in UTC is expected") from None


Command = Annotated[str, StringConstraints(max_length=262_144), AfterValidator(_is_json_array)]


def _renamed(name: str, former: str) -> Any:
    """A key that the Python client documents by a former name: both are taken, and kept under the present one."""
    return Field(default=None, validation_alias=AliasChoices(name, former))


class Closed(BaseModel):
    """Only the keys that are named."""

    model_config = ConfigDict(extra="forbid")


class RunMetadata(Closed):
    """Body of `POST /runs`: all keys optional."""

    project_name: Text | None = None
    job_name: Text | None = None
    stage_name: Text | None = None
    task_name: Text | None = None
    external_run_id: Text | None = None
    container_image: Text | None = None
    command: Command | None = None
    env: Text | None = None
    language: Text | None = None
    orchestrator: Text | None = None
    executor: Text | None = None
    team: Text | None = None
    tags: Tags | None = None

    host_id: Text | None = None
    host_hostname: Text | None = _renamed("host_hostname", "host_name")
    host_ip: Text | None = None
    host_server_allocation: Text | None = _renamed("host_server_allocation", "host_allocation")
    host_vcpus: Number | None = None
    host_cpu_model: Text | None = None
    host_memory_mib: Number | None = None
    host_gpu_model: Text | None = None
    host_gpu_count: Number | None = None
    host_gpu_memory_mib: Number | None = _renamed("host_gpu_memory_mib", "host_gpu_vram_mib")
    host_storage_gb: Number | None = None

    cloud_vendor_id: Text | None = None
    cloud_account_id: Text | None = None
    cloud_region_id: Text | None = None
    cloud_zone_id: Text | None = None
    cloud_instance_type: Text | None = None

    def given(self) -> dict[str, Any]:
        """What was sent, without nulls."""
        return self.model_dump(exclude_none=True)


class _FinishCommon(Closed):
    run_status: Literal["finished", "failed"]
    exit_code: Annotated[int, Field(ge=-(2**31), lt=2**32)] | None = None
    finished_at: Annotated[AwareDatetime, AfterValidator(_in_utc)] | None = None


class FinishInline(_FinishCommon):
    """Body of `POST /runs/{run_id}/finish` with the rows in it."""

    data_source: Literal["inline"]
    data_csv: Annotated[
        str, StringConstraints(max_length=MAX_CSV)
    ]  # a limit makes pydantic refuse lone surrogates, too


class FinishS3(_FinishCommon):
    """Body of `POST /runs/{run_id}/finish` naming every uploaded object, in order."""

    data_source: Literal["s3"]
    data_uris: Annotated[list[Annotated[str, StringConstraints(max_length=1200)]], Field(max_length=MAX_URIS)]


FinishBody = Annotated[FinishInline | FinishS3, Field(discriminator="data_source")]


class UploadCredentialsBody(BaseModel):
    """Temporary keys for `s3:PutObject` below the run's prefix."""

    access_key: str
    secret_key: str
    session_token: str
    expires_at: str
    region: str


class RefreshAnswer(BaseModel):
    upload_credentials: UploadCredentialsBody


class RegisterAnswer(RefreshAnswer):
    run_id: str
    upload_uri_prefix: str
    page: str
