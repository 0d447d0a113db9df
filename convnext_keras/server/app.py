"""The application: a model, its routes, and what surrounds them."""

import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from convnext_keras import clip, retrieval
from convnext_keras.clip.constructors import BUNDLED_CLIP
from convnext_keras.predictors import Classifier, Predictor, load_predictor
from convnext_keras.server import embedding_routes, meta_routes, routes
from convnext_keras.server.errors import ApiError
from convnext_keras.server.image_fetching import ImageURLPolicy
from convnext_keras.server.inference import InferenceEngine
from convnext_keras.server.limits import ServerLimits
from convnext_keras.server.metrics import Metrics
from convnext_keras.server.middleware import AllowedHosts, ApiKeys, GuardMiddleware

STATUS_CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large", 415: "unsupported_media_type"}


def create_app(
    model: Predictor | str = BUNDLED_CLIP,
    *,
    runtime: str | None = None,
    streams: int = 1,
    name: str | None = None,
    api_keys: Iterable[str] = (),
    allowed_hosts: Iterable[str] = (),
    indexes: Mapping[str, str | Path] | None = None,
    image_roots: Mapping[str, str | Path] | None = None,
    limits: ServerLimits = ServerLimits(),  # noqa: B008 - immutable
    image_url_policy: ImageURLPolicy = ImageURLPolicy(),  # noqa: B008 - immutable
    batching: bool = True,
) -> FastAPI:
    """Returns an OpenAI-compatible server of a ConvNeXt-CLIP, a classifier or a segmentation model, as an application.

    Args:
        model: A model; or its name, see `load_predictor`.
        runtime: `"openvino"` or `"onnx"`, to run the named ConvNeXt-CLIP by that program; None for Keras' backend.
        streams: Batches of each tower that the engine runs at a time, each on its share of the processors; a request
            that comes alone has one share only. A model that is given has its own.
        name: Name that clients call it by; the weight set's if None.
        api_keys: Api keys of which each request needs one; none to let everyone in.
        allowed_hosts: Names that the server is reached by, beside those of this machine; see `AllowedHosts`.
        indexes: Folders made by `convnext-keras index`, by the names that clients call them by.
        image_roots: Directories of images by the name of their index; see
            `ImageIndex.get_image_path`.
        limits: Limits of what requests may cost.
        image_url_policy: Image url policy which addresses of images may be fetched.
        batching: Whether items of different requests run together.

    Returns:
        An application for uvicorn or another ASGI server. It is ready when `/health/ready` says so.

    Raises:
        ValueError: If there is no such model, or images are named for an index that is not there; a `WeightsError` if
            an index was made by another model.

    Example:
        >>> from convnext_keras.server import create_app
        >>> app = create_app(api_keys=["a long random string"])
        >>> app.title
        'ConvNeXt-CLIP'
    """
    indexes, image_roots = indexes or {}, image_roots or {}
    if unknown := sorted(image_roots.keys() - indexes.keys()):
        raise ValueError(f"image_roots must name one of the indexes {sorted(indexes)}. Received: {unknown[0]!r}")
    served = load_predictor(model, runtime, streams) if isinstance(model, str) else model
    metrics = Metrics()
    queues = InferenceEngine(served, limits, image_url_policy, metrics, batching)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await queues.start()
        yield
        await queues.stop()

    app = FastAPI(title="ConvNeXt-CLIP", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(
        GuardMiddleware,
        keys=ApiKeys(api_keys),
        hosts=AllowedHosts(allowed_hosts),
        limits=limits,
        observe=metrics.request,
    )
    app.state.engine, app.state.created = queues, int(time.time())
    known = served.pretrained_info if isinstance(served, clip.DualEncoder) else None
    app.state.name = name or str((known and known.weights_name) or served.name)
    app.state.indexes = {}
    if isinstance(served, clip.DualEncoder):
        loaded = {key: retrieval.open_index(folder, served, image_roots.get(key)) for key, folder in indexes.items()}
        app.state.indexes = loaded
    elif indexes:
        kind = "a classifier" if isinstance(served, Classifier) else "a segmentation model"
        raise ValueError(f"indexes are of a ConvNeXt-CLIP; {served.name} is {kind}. Received: {sorted(indexes)}")
    for kind in (ApiError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, error_response)
    for module in (meta_routes, embedding_routes, routes):
        app.include_router(module.router)
    return app


async def error_response(request: Request, error: Exception) -> Response:
    """Converts an error to OpenAI's format; `GuardMiddleware` handles internal errors."""
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:]) or None
        if first["type"] == "extra_forbidden":
            message = f"{param}: is not a field of this route, and would change nothing. Leave it out; see /docs."
            return ApiError(400, "unknown_parameter", message, param).response()
        code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
        error = ApiError(400, code, f"{param or 'body'}: {first['msg']}.", param)
    elif isinstance(error, HTTPException):
        headers = error.headers or {}  # such as Allow
        error = ApiError(error.status_code, STATUS_CODES.get(error.status_code, "invalid_value"), str(error.detail))
        return error.response(headers)
    if not isinstance(error, ApiError):
        raise error
    return error.response()
