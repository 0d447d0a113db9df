"""Routes about the server and its model, and the web page."""

from importlib import resources
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response

from convnext_keras.clip.encoder import DualEncoder
from convnext_keras.predictors import SegmentationPredictor
from convnext_keras.server.errors import ApiError
from convnext_keras.server.schemas import ERROR_RESPONSES

router = APIRouter(responses=ERROR_RESPONSES)
# The page loads nothing from elsewhere and is shown in no other page.
PAGE_POLICY = "default-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; frame-ancestors 'none'"


@router.get("/", response_class=HTMLResponse, include_in_schema=False)
async def page() -> HTMLResponse:
    """Returns the page of the server."""
    text = resources.files("convnext_keras.server").joinpath("page.html").read_text(encoding="utf-8")
    return HTMLResponse(text, headers={"content-security-policy": PAGE_POLICY})


@router.get("/health")
async def health() -> dict:
    """Returns whether the process lives."""
    return {"status": "ok"}


@router.get("/health/ready")
async def ready(request: Request) -> dict:
    """Returns whether requests are answered: once the usual shapes have run, and not while the server stops."""
    request.app.state.engine.check_ready()
    return {"status": "ready"}


@router.get("/docs", response_class=HTMLResponse, include_in_schema=False)
async def docs() -> HTMLResponse:
    """Returns the routes with their examples, from `/openapi.json`; nothing is loaded from elsewhere."""
    text = resources.files("convnext_keras.server").joinpath("docs.html").read_text(encoding="utf-8")
    return HTMLResponse(text, headers={"content-security-policy": PAGE_POLICY})


@router.get("/metrics", response_class=PlainTextResponse)
async def prometheus(request: Request) -> Response:
    """Returns the metrics in Prometheus' text format."""
    engine = request.app.state.engine
    for tower, batcher in engine.batchers.items():
        engine.metrics.queue_size.labels(tower).set(len(batcher))
    return Response(engine.metrics.text(), media_type="text/plain; version=0.0.4")


def openapi_schema(request: Request) -> dict:
    """Returns the facts about the model for clients."""
    state = request.app.state
    model = state.engine.model
    facts: dict[str, Any] = {"id": state.name, "object": "model", "created": state.created, "owned_by": "local"}
    if isinstance(model, DualEncoder):
        facts |= {"capabilities": ["text", "image", "similarity", "classify"], "dimensions": model.embed_dim}
        facts["context_length"] = model.tokenizer.context_length
    else:
        task = "segment" if isinstance(model, SegmentationPredictor) else "classify"
        facts |= {"capabilities": ["image", task], "classes": [name for _, name in model.classes]}
    return {**facts, "limits": state.engine.limits._asdict(), "indexes": sorted(state.indexes)}


@router.get("/v1/models")
async def models(request: Request) -> dict:
    """Returns a list of the one model that is served."""
    return {"object": "list", "data": [openapi_schema(request)]}


@router.get("/v1/models/{model:path}")
async def one_model(request: Request, model: str) -> dict:
    """Returns a model by its name."""
    if model != request.app.state.name:
        raise ApiError(404, "model_not_found", f"The model {model!r} is not served here.", "model")
    return openapi_schema(request)
