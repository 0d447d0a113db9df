"""The application: a model, its routes, and what surrounds them."""

import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from convnext_keras import clip
from convnext_keras.demo import SHAPES
from convnext_keras.server.engine import Engine
from convnext_keras.server.errors import ApiError
from convnext_keras.server.fetching import Policy
from convnext_keras.server.limits import Limits
from convnext_keras.server.metrics import Metrics
from convnext_keras.server.routes import router
from convnext_keras.server.security import Guard, Keys

# The page loads nothing from elsewhere and is shown in no other page.
PAGE_POLICY = "default-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; frame-ancestors 'none'"
CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large", 415: "unsupported_media_type"}


def create_app(
    model: clip.CLIP | str = SHAPES,
    *,
    name: str | None = None,
    keys: Iterable[str] = (),
    indexes: Mapping[str, str | Path] | None = None,
    limits: Limits = Limits(),  # noqa: B008 - immutable
    policy: Policy = Policy(),  # noqa: B008 - immutable
    batching: bool = True,
) -> FastAPI:
    """An OpenAI-compatible server of a ConvNeXt-CLIP, as an ASGI application.

    Args:
        model: a model, or a name for `clip.create_model`.
        name: that clients call it by; the weight set's if None.
        keys: of which each request needs one; none to let everyone in.
        indexes: folders made by `convnext-keras index`, by the names that clients call them by.
        limits: of what requests may cost.
        policy: which addresses of pictures may be fetched.
        batching: whether items of different requests run together.

    Returns:
        An application for uvicorn or another ASGI server. It is ready when `/health/ready` says so.

    Raises:
        ValueError: if there is no such model; a `WeightsError` if an index was made by another one.

    Example:
        >>> from convnext_keras.server import create_app
        >>> app = create_app(keys=["a long random string"])
        >>> app.title
        'ConvNeXt-CLIP'
    """
    served = clip.create_model(model) if isinstance(model, str) else model
    metrics = Metrics()
    engine = Engine(served, limits, policy, metrics, batching)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await engine.start()
        yield
        await engine.stop()

    app = FastAPI(title="ConvNeXt-CLIP", version="1", lifespan=lifespan, redoc_url=None)
    app.add_middleware(Guard, keys=Keys(keys), limits=limits, observe=metrics.request)
    app.state.engine, app.state.metrics, app.state.created = engine, metrics, int(time.time())
    app.state.name = name or str((served.provenance and served.provenance.weights) or served.name)
    app.state.indexes = {key: clip.ImageIndex.load(folder, served) for key, folder in (indexes or {}).items()}
    app.state.folders = {key: common_folder(index.names) for key, index in app.state.indexes.items()}
    for kind in (ApiError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answered)
    app.include_router(router)
    add_routes_of_the_server(app)
    return app


def common_folder(names: Sequence[str]) -> str:
    """The folder that all pictures of an index lie in, which clients are not told; empty if there is none."""
    try:
        return os.path.commonpath([os.path.dirname(name) for name in names])  # noqa: PTH120 - of strings
    except ValueError:
        return ""


async def answered(request: Request, error: ApiError | RequestValidationError | HTTPException) -> Response:
    """An error as OpenAI's clients expect it; what is not the sender's fault is answered by `Guard`."""
    told = error
    if isinstance(error, RequestValidationError):
        found = error.errors()[0]
        param = ".".join(str(part) for part in found["loc"][1:]) or None
        missing = found["type"] == "missing"
        code = "missing_required_parameter" if missing else "invalid_value"
        told = ApiError(400, code, f"{param or 'body'}: {found['msg']}.", param)
    elif isinstance(error, HTTPException):
        told = ApiError(error.status_code, CODES.get(error.status_code, "invalid_value"), str(error.detail))
    return JSONResponse(told.body, told.status, dict(told.headers))


def add_routes_of_the_server(app: FastAPI) -> None:
    """What is not about pictures and texts: the page, health, metrics, models."""
    engine: Engine = app.state.engine
    page = resources.files("convnext_keras.server").joinpath("page.html").read_text(encoding="utf-8")

    def described() -> dict:
        tokenizer, limits = engine.model.tokenizer, engine.limits
        return {
            "id": app.state.name,
            "object": "model",
            "created": app.state.created,
            "owned_by": "local",
            "capabilities": ["text", "image", "similarity", "classify"],
            "dimensions": engine.model.output_width,
            "context_length": tokenizer.context_length,
            "limits": limits._asdict(),
            "indexes": sorted(app.state.indexes),
        }

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def home() -> HTMLResponse:
        return HTMLResponse(page, headers={"content-security-policy": PAGE_POLICY})

    @app.get("/health")
    async def health() -> dict:
        """Whether the process lives."""
        return {"status": "ok"}

    @app.get("/health/ready")
    async def ready() -> dict:
        """Whether requests are answered: after the first run of every shape, and not while the server stops."""
        engine.check()
        return {"status": "ready"}

    @app.get("/metrics")
    async def prometheus() -> Response:
        """What the server tells of itself, as Prometheus reads it."""
        for tower, batcher in engine.towers.items():
            app.state.metrics.queued.labels(tower).set(len(batcher))
        return Response(app.state.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> dict:
        """The models that are served: one."""
        return {"object": "list", "data": [described()]}

    @app.get("/v1/models/{model:path}")
    async def one_model(model: str) -> dict:
        """A model by its name."""
        if model != app.state.name:
            raise ApiError(404, "model_not_found", f"The model {model!r} is not served here.", "model")
        return described()

    @app.get("/v1/indexes/{name}/pictures/{number}", response_class=FileResponse)
    async def picture(name: str, number: int) -> FileResponse:
        """A picture of an index, by its place in it; nothing else on the disk can be asked for."""
        index = app.state.indexes.get(name)
        if index is None or not 0 <= number < len(index) or not Path(index.names[number]).is_file():
            raise ApiError(404, "not_found", "There is no such picture.", "number")
        return FileResponse(index.names[number])
