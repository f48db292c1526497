"""The three calls of the Sentinel wire contract."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError

from streaming.server.api.guarded_route import GuardedRoute, current_token
from streaming.server.api.schemas import FinishBody, FinishInline, FinishS3, RefreshAnswer, RegisterAnswer, RunMetadata
from streaming.server.metrics.reader import compute_statistics
from streaming.server.storage.objects import Bucket
from streaming.server.storage.runs import Finish, RegisteredRun, RunStore, key_prefix, new_run_id
from streaming.server.storage.tokens import KnownToken
from streaming.server.storage.upload_credentials import CredentialIssuer

FINISH_TIMEOUT_S = 10.0

router = APIRouter(route_class=GuardedRoute, tags=["Sentinel"])

Asker = Annotated[KnownToken, Depends(current_token)]
IdempotencyKey = Annotated[str | None, Header(max_length=255)]


@router.post("/runs", status_code=201, responses={200: {"model": RegisterAnswer}})
def register(
    request: Request, response: Response, token: Asker, body: RunMetadata, idempotency_key: IdempotencyKey = None
) -> RegisterAnswer:
    """Begin a run. The same `Idempotency-Key` again answers with the same run, fresh credentials, and 200.

    Credentials come first: a run that no one was told of is never recorded for want of STS.
    """
    runs: RunStore = request.app.state.runs
    run_id = runs.find_registered(token.id, idempotency_key) or new_run_id()
    credentials = _issue(request, run_id)
    run, is_new = runs.register(token.id, body.given(), run_id=run_id, idempotency_key=idempotency_key)
    if run.run_id != run_id:  # the same key arrived twice at once, and the other was first
        credentials = _issue(request, run.run_id)
    response.status_code = 201 if is_new else 200
    return RegisterAnswer.model_validate(
        {
            "run_id": run.run_id,
            "page": _page(run.run_id),
            "upload_uri_prefix": _uri_prefix(request, run),
            "upload_credentials": credentials,
        }
    )


@router.post("/runs/{run_id}/refresh-credentials")
def refresh_credentials(request: Request, token: Asker, run_id: str) -> RefreshAnswer:
    """Fresh upload credentials for the run."""
    run = find_run(request, token, run_id)
    return RefreshAnswer.model_validate({"upload_credentials": _issue(request, run.run_id)})


@router.post("/runs/{run_id}/finish")
def finish(request: Request, token: Asker, run_id: str, body: Annotated[FinishBody, Body()]) -> dict[str, Any]:
    """End a run, once: later ones are answered with 409. The answer holds figures computed from its rows.

    Killed before the answer: the run is finished, and the caller's second try gets 409, which says so.
    """
    runs: RunStore = request.app.state.runs
    run = find_run(request, token, run_id)
    if run.is_finished:
        raise _already_finished()
    if not runs.finish(run.run_id, _finish(body, _uri_prefix(request, run))):
        raise _already_finished()
    return _finish_answer(request, run.run_id)


def find_run(request: Request, token: KnownToken, run_id: str) -> RegisteredRun:
    """The token's run. Raises HTTPException 404, for another token's run as for none."""
    runs: RunStore = request.app.state.runs
    run = runs.get(run_id, token_id=token.id)
    if run is None:
        raise HTTPException(404, "There is no such run.")
    return run


def _issue(request: Request, run_id: str) -> dict[str, str]:
    issuer: CredentialIssuer = request.app.state.issuer
    return issuer.issue(run_id=run_id, prefix=key_prefix(run_id)).as_json()


def _uri_prefix(request: Request, run: RegisteredRun) -> str:
    objects: Bucket = request.app.state.objects
    return f"s3://{objects.bucket}/{run.prefix}"


def _page(run_id: str) -> str:
    return f"/run/{run_id}"


def _already_finished() -> HTTPException:
    return HTTPException(409, "The run is finished already.")


def _finish(body: FinishInline | FinishS3, uri_prefix: str) -> Finish:
    if isinstance(body, FinishInline):
        return Finish(body.run_status, body.exit_code, body.finished_at, data_csv=body.data_csv)
    _check_uris(body.data_uris, uri_prefix)
    return Finish(body.run_status, body.exit_code, body.finished_at, data_uris=tuple(body.data_uris))


def _check_uris(uris: list[str], uri_prefix: str) -> None:
    """Each below the run's prefix, each once."""
    seen: set[str] = set()
    for index, uri in enumerate(uris):
        name = uri.removeprefix(f"{uri_prefix}/")
        if name == uri or not name or ".." in name.split("/"):
            _refuse_uri(index, f"The URI does not lie below {uri_prefix}/.")
        if uri in seen:
            _refuse_uri(index, "The URI is listed twice.")
        seen.add(uri)


def _refuse_uri(index: int, message: str) -> None:
    raise RequestValidationError([{"type": "value_error", "loc": ("body", "data_uris", index), "msg": message}])


def _finish_answer(request: Request, run_id: str) -> dict[str, Any]:
    runs: RunStore = request.app.state.runs
    run = runs.get(run_id)
    assert run is not None
    statistics = compute_statistics(run, runs, request.app.state.reader, timeout_s=FINISH_TIMEOUT_S)
    ending = {"run_status": run.run_status, "exit_code": run.exit_code}
    return {"run_id": run_id, "page": _page(run_id), **ending, **statistics}
