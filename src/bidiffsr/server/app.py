"""The HTTP interface: routes and nothing else."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

import bidiffsr
from bidiffsr.config import ModelConfig
from bidiffsr.errors import BidiffsrError, OptionError
from bidiffsr.images.formats import FORMAT_BY_NAME
from bidiffsr.server.archive import zipped
from bidiffsr.server.guard import Guard, problem_response
from bidiffsr.server.intake import discard_body, receive_picture
from bidiffsr.server.job import Job, Result
from bidiffsr.server.jobs import JobQueue
from bidiffsr.server.metrics import CONTENT_TYPE, Metrics
from bidiffsr.server.options import ServerOptions
from bidiffsr.server.refusals import NoToken, NotYet, Unknown, status_of
from bidiffsr.server.schemas import (
    Health,
    JobInfo,
    JobRequest,
    ModelInfo,
    Problem,
)
from bidiffsr.upscaling.models import Models
from bidiffsr.upscaling.options import UpscaleOptions

_STATIC = Path(__file__).parent / "static"

_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_PICTURE = {"type": "string", "format": "binary"}
_BODY = {
    "required": True,
    "content": {
        "application/octet-stream": {"schema": _PICTURE},
        "image/*": {"schema": _PICTURE},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"picture": _PICTURE},
                "required": ["picture"],
                "additionalProperties": False,
            }
        },
    },
}


@dataclass(frozen=True)
class _Service:
    """What the routes work with."""

    queue: JobQueue
    model: ModelInfo
    metrics: Metrics
    token: str | None


def create_app(models: Models, options: ServerOptions, *, model: str = "default") -> FastAPI:
    """The application; its queue, ``app.state.service.queue``, works while the application runs.

    Args:
        models: what upscales.
        options: limits and access; where to listen is for whoever runs it.
        model: its name, for those who ask.
    """
    metrics = Metrics()
    queue = JobQueue(models, options, metrics.count_job)
    metrics.watch(queue)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        queue.start()
        yield
        await run_in_threadpool(queue.close)

    app = FastAPI(
        title="bidiffsr",
        summary="Makes pictures larger and sharper.",
        version=bidiffsr.__version__,
        lifespan=lifespan,
        docs_url=None,  # their scripts would come from elsewhere
        redoc_url=None,
    )
    app.state.service = _Service(
        queue, _model_info(models.main.config, options, model), metrics, options.token
    )
    app.include_router(_PUBLIC)
    app.include_router(_API)
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    app.add_middleware(Guard, names=options.host_name, refused=metrics.count_refusal)
    app.add_exception_handler(BidiffsrError, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.openapi = lambda: _openapi(app)
    return app


def _model_info(config: ModelConfig, options: ServerOptions, model: str) -> ModelInfo:
    return ModelInfo(
        version=bidiffsr.__version__,
        model=model,
        scale=config.scale,
        qualities=list(config.qualities),
        formats=[
            name for name, known in FORMAT_BY_NAME.items() if known.everyday and known.is_written
        ],
        max_bytes=int(options.max_bytes),
        max_pixels=options.max_pixels,
        max_samples=options.max_samples,
    )


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's description, with the type that errors really have."""
    if app.openapi_schema is None:
        schema = FastAPI.openapi(app)
        for path in schema["paths"].values():
            for operation in path.values():
                for status, response in operation["responses"].items():
                    if int(status) >= 400:
                        response["content"] = {"application/problem+json": {"schema": _PROBLEM}}
    assert app.openapi_schema is not None
    return app.openapi_schema


# Errors.


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, BidiffsrError)
    await discard_body(request)
    return problem_response(status_of(error), str(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = problem_response(error.status_code, f"{error.detail}: {request.url.path[:200]!r}")
    response.headers.update(error.headers or {})
    return response


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    await discard_body(request)
    return problem_response(422, f"{first['loc'][-1]}: {first['msg']}")


def _responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem} for status in statuses}


# What routes are given.


def _service(request: Request) -> _Service:
    return request.app.state.service


Service = Annotated[_Service, Depends(_service)]
_BEARER = HTTPBearer(auto_error=False, description="Only where the server was given a token.")


def _check_token(
    service: Service, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]
) -> None:
    """Raises NoToken unless the token is right, or there is none."""
    if service.token is None:
        return
    if given is None or not secrets.compare_digest(
        given.credentials.encode(), service.token.encode()
    ):
        raise NoToken("the token is missing or wrong; send it as 'Authorization: Bearer TOKEN'")


def _job(job_id: str, service: Service) -> Job:
    return service.queue.get(job_id)


def _result(job: Annotated[Job, Depends(_job)], sample: int) -> Result:
    if 0 <= sample < len(job.results):
        return job.results[sample]
    if 0 <= sample < job.options.samples and job.ended is None:
        raise NotYet("the result is not there yet; follow the job's events")
    raise Unknown(f"no such result; the job is {job.state} and has {len(job.results)}")


FoundJob = Annotated[Job, Depends(_job)]
FoundResult = Annotated[Result, Depends(_result)]

_PUBLIC = APIRouter()
_API = APIRouter(dependencies=[Depends(_check_token)], responses=_responses(401, 403, 422))


# Routes.


@_PUBLIC.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def page() -> FileResponse:
    """The page for the browser."""
    return FileResponse(_STATIC / "index.html")


@_PUBLIC.get("/healthz", responses=_responses(403, 503))
async def health(service: Service, response: Response) -> Health:
    """Whether jobs are taken; for whoever watches the server."""
    if not service.queue.healthy or service.queue.stopping:
        response.status_code = 503
        return Health(status="stopping")
    return Health(status="ok")


@_API.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(service: Service) -> Response:
    """Numbers for Prometheus."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE)


@_API.get("/api/model")
async def model(service: Service) -> ModelInfo:
    """The model, and the limits of this server."""
    return service.model


@_API.post(
    "/api/jobs",
    status_code=202,
    responses=_responses(408, 413, 415, 429, 503),
    openapi_extra={"requestBody": _BODY},
)
async def submit(
    request: Request,
    response: Response,
    service: Service,
    wanted: Annotated[JobRequest, Query()],
) -> JobInfo:
    """Send a picture, as the body or as the one file of a form; it joins the queue."""
    queue = service.queue
    options = _upscale_options(wanted, service.model)
    format_ = None if wanted.format is None else FORMAT_BY_NAME.get(wanted.format)
    if wanted.format is not None and format_ is None:
        known = ", ".join(FORMAT_BY_NAME)
        raise OptionError("format", f"got {wanted.format[:40]!r}, expected one of {known}")
    with queue.upload() as upload:
        data, name = await receive_picture(request, upload, queue.limits.upload_seconds)
        # Its header is looked at, which may take a while.
        job = await run_in_threadpool(
            queue.submit, upload, data, options, name=wanted.name or name, format_=format_
        )
    response.headers["Location"] = job.url
    return job.info()


def _upscale_options(wanted: JobRequest, model: ModelInfo) -> UpscaleOptions:
    if wanted.scale is not None and wanted.scale > model.scale:
        raise OptionError("scale", f"got {wanted.scale:g}, expected at most {model.scale:g}")
    if wanted.samples > model.max_samples:
        raise OptionError("samples", f"got {wanted.samples}, expected at most {model.max_samples}")
    return UpscaleOptions(
        scale=wanted.scale, quality=wanted.quality, seed=wanted.seed, samples=wanted.samples
    )


@_API.get("/api/jobs/{job_id}", responses=_responses(404))
async def job_info(job: FoundJob) -> JobInfo:
    """What a job has come to."""
    return job.info()


@_API.delete("/api/jobs/{job_id}", status_code=204, responses=_responses(404))
async def forget(job: FoundJob, service: Service) -> None:
    """Cancel a job that has not ended, and delete all that is kept of it."""
    service.queue.forget(job)


@_API.get(
    "/api/jobs/{job_id}/events",
    response_class=EventSourceResponse,
    responses=_responses(404),
)
async def events(
    job: FoundJob, last_event_id: Annotated[int | None, Header()] = None
) -> AsyncIterable[ServerSentEvent]:
    """Follow a job: ``job`` (JobInfo), ``progress`` (ProgressInfo), ``preview`` (PreviewInfo).

    Earlier events come first, from the one after Last-Event-ID on; the stream ends with the job.
    """
    after = -1 if last_event_id is None else last_event_id
    async for event in job.log.follow(after):
        yield ServerSentEvent(event=event.name, id=str(event.number), data=event.data)


@_API.get(
    "/api/jobs/{job_id}/results/{sample}",
    response_class=Response,
    responses=_responses(404, 409) | {200: {"content": {"image/*": {"schema": _PICTURE}}}},
)
async def result(result: FoundResult, job: FoundJob, sample: int, service: Service) -> Response:
    """A finished picture, as a download."""
    service.queue.mark_fetched(job, sample)
    return Response(result.data, media_type=result.media_type, headers=_download(result.name))


@_API.get(
    "/api/archive",
    response_class=StreamingResponse,
    responses=_responses(404) | {200: {"content": {"application/zip": {"schema": _PICTURE}}}},
)
async def archive(
    job: Annotated[list[str], Query(min_length=1, description="Ids.")], service: Service
) -> StreamingResponse:
    """All the finished pictures of some jobs, as a ZIP archive."""
    jobs = [service.queue.get(each) for each in dict.fromkeys(job)]
    results = [result for each in jobs for result in each.results]
    if not results:
        raise Unknown("none of these jobs has a result")
    for each in jobs:
        for sample in range(len(each.results)):
            service.queue.mark_fetched(each, sample)
    files = ((result.name, result.data) for result in results)
    return StreamingResponse(
        zipped(files), media_type="application/zip", headers=_download("pictures.zip")
    )


def _download(name: str) -> dict[str, str]:
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"}
