"""The service's paths: its own by the bundle's task, such as /embed, those in other services'
forms, /health, /metrics."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import onnxruntime
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from edgeprune.base.errors import ModelFault, UserError
from edgeprune.base.registry import load_function
from edgeprune.base.version import __version__
from edgeprune.model.tasks import TASKS
from edgeprune.service.answers import Answers
from edgeprune.service.callers import HEALTH, Callers
from edgeprune.service.limits import LEFT, LimitsMiddleware
from edgeprune.service.logs import LOGGERS
from edgeprune.service.metrics import Metrics
from edgeprune.service.models import model_routes
from edgeprune.service.requests import MODELS, PATHS, Refused
from edgeprune.service.responses import json_response, refusal
from edgeprune.service.settings import ServiceSettings


def make_app(model: Any, settings: ServiceSettings) -> Starlette:
    """The ASGI application that serves one bundle; its model has run once when this returns.

    Call `close` of its `state.answers` at a stop, before the server waits for running requests.

    Raises:
        UserError: the file of the token cannot be read, or holds none.
    """
    metrics, callers = Metrics(), Callers(settings)
    # A browser asks beforehand, without the token; it is answered only where origins were named.
    origins = [
        Middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origin,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    ] * bool(settings.allowed_origin)
    task = TASKS[model.bundle.task]
    answers: Answers = load_function(task.service)(model, settings, metrics)
    answers.warm_up()
    about = {
        "status": "ok",
        "bundle": model.bundle.folder.resolve().name,
        "task": task.name,
        "path": task.path,
        "edgeprune": __version__,
        "onnxruntime": onnxruntime.__version__,
    }

    async def elsewhere(request: Request) -> Response:
        raise Refused(404, f"This bundle is for {task.name}: its path is {task.path}.")

    async def health(request: Request) -> Response:
        return json_response(about)

    async def faulty(request: Request, error: Exception) -> Response:
        metrics.faults.inc()
        logging.getLogger(LOGGERS[0]).error("%s", error)
        return refusal(500, str(error), request.url.path)

    async def measured(request: Request) -> Response:
        metrics.waiting.set(answers.waiting)
        return Response(metrics.text(), media_type=metrics.content_type)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        answers.start()
        yield
        await answers.stop()

    app = Starlette(
        routes=[
            *(Route(path, answers.paths.get(path, elsewhere), methods=["POST"]) for path in PATHS),
            *model_routes(model.bundle, settings),
            Route(HEALTH, health),
            Route("/metrics", measured),
        ],
        middleware=[
            *origins,
            Middleware(LimitsMiddleware, settings=settings, metrics=metrics, callers=callers),
        ],
        exception_handlers={**_HANDLERS, ModelFault: faulty},
        lifespan=lifespan,
    )
    app.state.answers = answers
    return app


async def _refused(request: Request, error: Refused) -> Response:
    return refusal(error.status, str(error), request.url.path, error.code)


async def _mistaken(request: Request, error: UserError) -> Response:
    return refusal(400, str(error), request.url.path)


async def _unknown(request: Request, error: HTTPException) -> Response:
    paths = ", ".join([*PATHS, MODELS, "/health", "/metrics"])
    hint = "POST" if request.url.path in PATHS else paths
    return refusal(error.status_code, f"{error.detail}: use {hint}.", request.url.path)


async def _left(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=LEFT)


async def _broken(request: Request, error: Exception) -> Response:
    sentence = "The model failed on this request; the service's log says more."
    return refusal(500, sentence, request.url.path)


_HANDLERS: dict[type[Exception], Callable[..., Awaitable[Response]]] = {
    Refused: _refused,
    UserError: _mistaken,
    HTTPException: _unknown,
    ClientDisconnect: _left,
    Exception: _broken,
}
