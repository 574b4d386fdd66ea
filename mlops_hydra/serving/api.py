"""The routes that answer questions about the service, by FastAPI: every one but POST /predict.

Importing this takes longer than to make the first prediction, which does not wait for it (`app.py`).
"""

import asyncio
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi_offline import FastAPIOffline

from mlops_hydra import __version__
from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.serving.openapi import describe
from mlops_hydra.serving.refusal import Refusal

if TYPE_CHECKING:
    from mlops_hydra.serving.app import Service

_METRICS = "text/plain; version=0.0.4; charset=utf-8"


def build_api(service: "Service") -> FastAPI:
    """An application of these routes."""
    api = _empty(service.config)
    api.add_exception_handler(Refusal, _refuse)
    for routes in (_open_routes(service), _locked_routes(service)):
        api.include_router(routes, tags=["service"])
    written = api.openapi

    def openapi() -> dict[str, Any]:
        api.openapi_schema = None
        arms = service.watch.arms
        served, config = arms.models.get(arms.router.control), service.config
        return describe(written(), served, config.limits, has_key=config.api_key is not None)

    api.openapi = openapi  # type: ignore[method-assign]
    return api


def _empty(config: ServeConfig) -> FastAPI:
    make = FastAPIOffline if config.docs else FastAPI
    api: FastAPI = make(
        title=config.name,
        version=__version__,
        summary=f"Predictions of {config.name}",
        docs_url="/docs" if config.docs else None,
        redoc_url=None,
        openapi_url="/openapi.json" if config.docs else None,
    )
    return api


def _refuse(_: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return Response(refusal.body(), refusal.status, refusal.headers, "application/json")


def _open_routes(service: "Service") -> APIRouter:
    routes = APIRouter()

    @routes.get("/health", summary="Whether the process is alive")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @routes.get("/ready", summary="Whether control has a model that predicts as it should")
    async def ready() -> JSONResponse:
        is_ready, about_it = await asyncio.to_thread(service.ready)
        return JSONResponse(about_it, 200 if is_ready else 503)

    return routes


def _locked_routes(service: "Service") -> APIRouter:
    def needs_key(request: Request) -> None:
        service.check_key(request.scope["headers"])

    routes = APIRouter(dependencies=[Depends(needs_key)])

    @routes.get("/model", summary="What each arm serves")
    async def model() -> dict[str, Any]:
        return service.about_models()

    @routes.get("/drift", summary="Whether what was asked looks like what the models were trained on")
    async def drift() -> Response:
        return Response(await asyncio.to_thread(service.drift.body), media_type="application/json")

    @routes.get("/metrics", summary="For Prometheus")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(await asyncio.to_thread(service.told()), media_type=_METRICS)

    return routes
