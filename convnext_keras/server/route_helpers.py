"""Parts that the routes share: the engine of a request, its items, and the answer as JSON."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from convnext_keras.clip.encoder import DualEncoder
from convnext_keras.predictors import SegmentationPredictor
from convnext_keras.retrieval.index import ImageIndex
from convnext_keras.server.errors import ApiError, bad_request
from convnext_keras.server.inference import EmbeddingResult, InferenceEngine
from convnext_keras.server.limits import ServerLimits
from convnext_keras.server.schemas import ImageItem, TextItem, parse_item


def get_engine(request: Request, model: str | None = None) -> InferenceEngine:
    """Returns the engine, if the request asks for the model that it has."""
    state = request.app.state
    if model is not None and model != state.name:
        message = f"The model {model!r} is not served here. GET /v1/models lists what is."
        raise ApiError(404, "model_not_found", message, "model")
    state.engine.check_ready()
    return state.engine


def get_clip_engine(request: Request, model: str | None = None) -> tuple[InferenceEngine, DualEncoder]:
    """Returns the engine and its ConvNeXt-CLIP, for what a classifier cannot do."""
    engine = get_engine(request, model)
    if not isinstance(engine.model, DualEncoder):
        kind = "for segmentation" if isinstance(engine.model, SegmentationPredictor) else "a classifier"
        route = "/v1/segment" if isinstance(engine.model, SegmentationPredictor) else "/v1/classify"
        message = f"The model {request.app.state.name!r} is {kind}: POST images to {route}."
        raise bad_request("model_unsupported", message, "model")
    return engine, engine.model


def get_index(request: Request, name: str) -> ImageIndex:
    """Returns the index of a name."""
    index = request.app.state.indexes.get(name)
    if index is None:
        raise ApiError(404, "not_found", f"There is no index {name!r} here.", "name")
    return index


def as_list(value: Any) -> list:
    """Returns a list as it is, anything else as a list of one."""
    return value if isinstance(value, list) else [value]


def check_limit(count: int, limit: int, what: str, param: str) -> None:
    """Raises ApiError if there is more of something than one request may have."""
    if count > limit:
        raise bad_request("too_many_inputs", f"{param}: has {count} {what}; the limit is {limit}.", param)


def parse_items(
    values: Sequence[Any], param: str, limits: ServerLimits, is_image: bool = False
) -> tuple[list, list[str]]:
    """Returns items and their paths, few enough of each kind."""
    if not values:
        raise bad_request("invalid_value", f"{param}: must not be empty.", param)
    params = [f"{param}.{position}" for position in range(len(values))]
    items = [parse_item(value, path, limits, is_image) for value, path in zip(values, params, strict=True)]
    texts = [item.text for item in items if isinstance(item, TextItem)]
    check_limit(len(texts), limits.max_texts, "texts", param)
    check_limit(sum(map(len, texts)), limits.max_characters, "characters", param)
    check_limit(sum(isinstance(item, ImageItem) for item in items), limits.max_images, "images", param)
    return items, params


def usage(*parts: EmbeddingResult, tokens: int = 0) -> dict[str, int]:
    """Returns tokens and images of a request, counted as OpenAI reports them."""
    tokens += sum(part.tokens for part in parts)
    return {"prompt_tokens": tokens, "total_tokens": tokens, "num_images": sum(part.images for part in parts)}


async def json_response(
    engine: InferenceEngine, answer: dict[str, Any], rows: Callable[[], Iterable[dict]], key: str = "data"
) -> Response:
    """Returns the answer with its rows as JSON, made in a thread.

    Row by row, since the interpreter can let the event loop go on only between two of them.
    """

    def rendered() -> bytes:
        inner = ",".join(json.dumps(row) for row in rows())
        return f'{json.dumps(answer)[:-1]},"{key}":[{inner}]}}'.encode()

    return Response(await engine.in_thread(rendered), media_type="application/json")
