"""The routes of embeddings, in the forms of OpenAI, vLLM, Jina, Voyage and Cohere, by one engine."""

import base64
import json
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response

from convnext_keras.retrieval.vector_types import quantize
from convnext_keras.server import schemas
from convnext_keras.server.errors import bad_request
from convnext_keras.server.inference import EmbeddingResult, InferenceEngine
from convnext_keras.server.route_helpers import as_list, get_clip_engine, json_response, parse_items, usage

router = APIRouter(responses=schemas.ERROR_RESPONSES)
PIXELS_PER_TOKEN = 560  # by which Voyage counts the tokens of an image


def check_width(width: int, requested: int | None, param: str) -> None:
    """Raises ApiError if a request wants vectors of another width than the model's."""
    if requested not in (None, width):
        message = f"{param}: this model has {width}; vectors cannot be shortened."
        raise bad_request("dimensions_unsupported", message, param)


def check_contents(inputs: Sequence[Any], param: str) -> list:
    """Returns objects that each have a list `content` and nothing else."""
    for position, value in enumerate(inputs):
        path = f"{param}.{position}"
        if not isinstance(value, dict) or not isinstance(value.get("content"), list):
            raise bad_request("invalid_value", f"{path}: must be an object with a list 'content'.", path)
        schemas.check_keys(value, ("content",), path)
    return [*inputs]


def message_content(messages: list[Any]) -> list:
    """Returns the one item of a conversation in vLLM's form.

    Raises:
        ApiError: If it has more than one message of a user: CLIP has no vector for a conversation.
    """
    message = messages[0] if len(messages) == 1 else None
    if not isinstance(message, dict) or message.get("role") != "user" or "content" not in message:
        text = "messages: must be one message with the role 'user' and a 'content'; CLIP has no vector for several."
        raise bad_request("interleaved_input_unsupported", text, "messages")
    schemas.check_keys(message, ("role", "content", "name"), "messages.0")
    content = message["content"]
    return [content if isinstance(content, str) else {"content": content}]


def encode_vectors(vectors: np.ndarray, kind: str, encoding: str | None = "float") -> Iterator[str | list]:
    """Yields vectors `(N, D)`, each as numbers, or as base64 of its little-endian bytes."""
    for vector in vectors:
        (row,) = quantize(vector[None], "float32" if kind == "float" else kind)
        if encoding == "base64":
            yield base64.b64encode(row.astype(row.dtype.newbyteorder("<")).tobytes()).decode("ascii")
        else:
            yield row.tolist()


async def embed(
    engine: InferenceEngine, values: list, param: str, cut: bool, is_image: bool = False
) -> EmbeddingResult:
    """Returns the vectors of the items of a request."""
    items, params = await engine.in_thread(parse_items, values, param, engine.limits, is_image)
    return await engine.vectors(items, params, cut)


def embedding_rows(vectors: np.ndarray, kind: str, encoding: str | None) -> Iterator[dict]:
    """Yields the rows of an answer in OpenAI's form."""
    for position, value in enumerate(encode_vectors(vectors, kind, encoding)):
        yield {"object": "embedding", "index": position, "embedding": value}


@router.post("/v1/embeddings", response_model=dict)
async def embeddings(request: Request, body: schemas.Embeddings) -> Response:
    """Returns vectors of texts and images, in the order of the request."""
    engine, model = get_clip_engine(request, body.model)
    check_width(model.embed_dim, body.dimensions, "dimensions")
    check_width(model.embed_dim, body.output_dimension, "output_dimension")
    if (body.input is None) == (body.messages is None):
        raise bad_request("missing_required_parameter", "input: give either 'input' or 'messages'.", "input")
    if body.input is not None and body.add_special_tokens is False:
        message = "add_special_tokens: texts always have their start and end token."
        raise bad_request("invalid_value", message, "add_special_tokens")
    values = as_list(body.input) if body.messages is None else message_content(body.messages)
    param = "input" if body.messages is None else "messages"
    cut = body.truncate in ("end", True) and body.truncation is not False
    result = await embed(engine, values, param, cut, body.modality == "image")
    kind = body.embedding_type or body.output_dtype or "float"
    encoding = "base64" if kind == "base64" else body.encoding_format
    answer = {"object": "list", "model": request.app.state.name, "usage": usage(result)}
    kind = "float" if kind == "base64" else kind
    return await json_response(engine, answer, lambda: embedding_rows(result.vectors, kind, encoding))


@router.post("/v1/multimodalembeddings", response_model=dict)
async def multimodal_embeddings(request: Request, body: schemas.MultimodalEmbeddings) -> Response:
    """Returns vectors of texts and images in Voyage's form.

    `image_pixels` of the usage counts the pixels that the model sees, after resizing.
    """
    engine, model = get_clip_engine(request, body.model)
    check_width(model.embed_dim, body.output_dimension, "output_dimension")
    result = await embed(engine, check_contents(body.inputs, "inputs"), "inputs", body.truncation)
    height, width, _ = model.transform.shape
    pixels = result.images * height * width
    counts = {"text_tokens": result.tokens, "image_pixels": pixels, "video_pixels": 0}
    counts["total_tokens"] = result.tokens + pixels // PIXELS_PER_TOKEN
    answer = {"object": "list", "model": request.app.state.name, "usage": counts}
    kind, encoding = body.output_dtype or "float", body.output_encoding or body.encoding_format
    return await json_response(engine, answer, lambda: embedding_rows(result.vectors, kind, encoding))


@router.post("/v2/embed", response_model=dict)
async def cohere_embed(request: Request, body: schemas.CohereEmbed) -> Response:
    """Returns vectors of texts or of images in Cohere's form, one list for each type that is asked for."""
    engine, model = get_clip_engine(request, body.model)
    check_width(model.embed_dim, body.output_dimension, "output_dimension")
    given = {name: values for name in ("texts", "images", "inputs") if (values := getattr(body, name)) is not None}
    if len(given) != 1:
        message = "texts: give one of 'texts', 'images' and 'inputs'."
        raise bad_request("missing_required_parameter", message, "texts")
    ((param, values),) = given.items()
    values = check_contents(values, param) if param == "inputs" else values
    result = await embed(engine, values, param, body.truncate == "END", param == "images")
    kinds = [*dict.fromkeys(body.embedding_types or ["float"])]
    answer: dict[str, Any] = {"id": secrets.token_hex(16), "response_type": "embeddings_by_type"}
    answer |= {"texts": values} if param == "texts" else {}
    answer["meta"] = {
        "api_version": {"version": "2"},
        "billed_units": {"input_tokens": result.tokens, "images": result.images},
    }

    def rendered() -> bytes:
        lists = (f"{json.dumps(kind)}:[{','.join(encoded(kind))}]" for kind in kinds)
        return f'{json.dumps(answer)[:-1]},"embeddings":{{{",".join(lists)}}}}}'.encode()

    def encoded(kind: str) -> Iterator[str]:
        if kind == "base64":
            return map(json.dumps, encode_vectors(result.vectors, "float", "base64"))
        return map(json.dumps, encode_vectors(result.vectors, kind))

    return Response(await engine.in_thread(rendered), media_type="application/json")
