"""The routes: what each takes of a request and what it answers."""

import base64
import os
import secrets
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response

from convnext_keras.clip.embedder import Embedder
from convnext_keras.clip.index import PictureIndex
from convnext_keras.clip.zero_shot import LABEL_FIELD, TEMPLATE
from convnext_keras.deploy.opening import Classifier
from convnext_keras.server import requests
from convnext_keras.server.engine import Engine, Vectors
from convnext_keras.server.errors import ApiError, invalid
from convnext_keras.server.limits import Limits
from convnext_keras.server.requests import ImageItem, TextItem, parsed_image, parsed_item, parsed_text

router = APIRouter(responses=requests.FAILURES)
# A picture is never taken for a page.
PICTURE_HEADERS = {"x-content-type-options": "nosniff", "content-security-policy": "default-src 'none'; sandbox"}


def engine_of(request: Request, model: str | None = None) -> Engine:
    """The engine, if the request asks for the model that it has."""
    state = request.app.state
    if model is not None and model != state.name:
        message = f"The model {model!r} is not served here. GET /v1/models lists what is."
        raise ApiError(404, "model_not_found", message, "model")
    state.engine.check_ready()
    return state.engine


def clip_of(request: Request, model: str | None = None) -> tuple[Engine, Embedder]:
    """The engine and its ConvNeXt-CLIP, for what a classifier cannot do."""
    engine = engine_of(request, model)
    if not isinstance(engine.model, Embedder):
        message = f"The model {request.app.state.name!r} is a classifier: POST pictures to /v1/classify."
        raise invalid("model_unsupported", message, "model")
    return engine, engine.model


def index_of(request: Request, name: str) -> PictureIndex:
    """The index of a name."""
    index = request.app.state.indexes.get(name)
    if index is None:
        raise ApiError(404, "not_found", f"There is no index {name!r} here.", "name")
    return index


def listed(value: Any) -> list:
    """A list as it is, anything else as a list of one."""
    return value if isinstance(value, list) else [value]


def check_at_most(count: int, limit: int, what: str, param: str) -> None:
    """Raises ApiError if there is more of something than one request may have."""
    if count > limit:
        raise invalid("too_many_inputs", f"{param}: has {count} {what}; the limit is {limit}.", param)


def items_of(values: Sequence[Any], param: str, limits: Limits, is_image: bool = False) -> tuple[list, list[str]]:
    """Items and their paths, few enough of each kind."""
    if not values:
        raise invalid("invalid_value", f"{param}: must not be empty.", param)
    params = [f"{param}.{position}" for position in range(len(values))]
    items = [parsed_item(value, path, limits, is_image) for value, path in zip(values, params, strict=True)]
    texts = [item.text for item in items if isinstance(item, TextItem)]
    check_at_most(len(texts), limits.max_texts, "texts", param)
    check_at_most(sum(map(len, texts)), limits.max_characters, "characters", param)
    check_at_most(sum(isinstance(item, ImageItem) for item in items), limits.max_images, "pictures", param)
    return items, params


def usage(*parts: Vectors, tokens: int = 0) -> dict[str, int]:
    """Tokens and pictures of a request, counted as OpenAI reports them."""
    tokens += sum(part.tokens for part in parts)
    return {"prompt_tokens": tokens, "total_tokens": tokens, "image_count": sum(part.images for part in parts)}


def encoded(vector: np.ndarray, encoding_format: str) -> str | list[float]:
    """A vector as numbers, or as base64 of little-endian float32."""
    if encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    return [float(value) for value in vector]


@router.post("/v1/embeddings")
async def embeddings(request: Request, body: requests.Embeddings) -> dict:
    """Vectors of texts and pictures, in the order of the request."""
    engine, model = clip_of(request, body.model)
    width = model.output_width
    if body.dimensions not in (None, width):
        message = f"dimensions: this model has {width}; vectors cannot be shortened."
        raise invalid("dimensions_unsupported", message, "dimensions")
    items, params = items_of(listed(body.input), "input", engine.limits, body.modality == "image")
    result = await engine.vectors(items, params, body.truncate == "end")
    data = [
        {"object": "embedding", "index": position, "embedding": encoded(vector, body.encoding_format)}
        for position, vector in enumerate(result.vectors)
    ]
    return {"object": "list", "model": request.app.state.name, "data": data, "usage": usage(result)}


@router.post("/v1/similarity")
async def similarity(request: Request, body: requests.Similarity) -> dict:
    """Cosines and probabilities of each picture over the texts."""
    engine, model = clip_of(request, body.model)
    if (body.image is None) == (body.images is None):
        raise invalid("missing_required_parameter", "image: give either 'image' or 'images'.", "image")
    values = listed(body.image) if body.images is None else body.images
    pictures, of_pictures = items_of(values, "image", engine.limits, is_image=True)
    texts, of_texts = items_of(listed(body.texts), "texts", engine.limits)
    check_at_most(len(pictures) * len(texts), engine.limits.max_scores, "pairs of picture and text", "texts")
    result = await engine.vectors([*pictures, *texts], [*of_pictures, *of_texts], body.truncate == "end")
    scores = model.scores(result.vectors[: len(pictures)], result.vectors[len(pictures) :])
    data = [
        {"object": "similarity.result", "index": position, "scores": cosines.tolist(), "probs": probabilities.tolist()}
        for position, (cosines, probabilities) in enumerate(zip(scores.cosine, scores.probs, strict=True))
    ]
    answer = {"id": f"sim-{secrets.token_hex(6)}", "object": "similarity", "created": int(time.time())}
    answer |= {"model": request.app.state.name, "logit_scale": model.scale}
    return {**answer, "data": data, "usage": usage(result)}


@router.post("/v1/classify")
async def classify(request: Request, body: requests.Classify) -> dict:
    """The labels that fit each picture or text best; of a classifier, its own classes."""
    engine = engine_of(request, body.model)
    if isinstance(engine.model, Classifier):
        return await classify_with(engine, engine.model, request.app.state.name, body)
    if body.labels is None:
        raise invalid("missing_required_parameter", "labels: give the labels to tell apart.", "labels")
    model = engine.model
    labels, templates = checked_prompts(body.labels, listed(body.templates), engine.limits)
    items, params = items_of(listed(body.input), "input", engine.limits)
    check_at_most(len(items) * len(labels), engine.limits.max_scores, "scores, items times labels,", "labels")
    truncate = body.truncate == "end"
    async with engine.deadline():
        classes, tokens = await engine.class_vectors(labels, templates, truncate)
        result = await engine.vectors(items, params, truncate)
    rows = [{"label": label} for label in labels]
    data = ranked(model.scores(result.vectors, classes).probs, rows, body.top_k)
    used = usage(result, tokens=tokens)
    return {"object": "list", "model": request.app.state.name, "data": data, "usage": used}


async def classify_with(engine: Engine, model: Classifier, name: str, body: requests.Classify) -> dict:
    """The answer of `classify` by a model with classes of its own."""
    if body.labels is not None:
        message = f"labels: the model {name!r} has {len(model.classes)} classes of its own. Leave labels out."
        raise invalid("labels_unsupported", message, "labels")
    items, params = items_of(listed(body.input), "input", engine.limits)
    check_at_most(len(items) * len(model.classes), engine.limits.max_scores, "scores, items times classes,", "input")
    result = await engine.vectors(items, params)
    rows = [{"label": label, "id": identifier} for identifier, label in model.classes]
    data = ranked(result.vectors, rows, body.top_k)
    return {"object": "list", "model": name, "data": data, "usage": usage(result)}


def ranked(probabilities: np.ndarray, rows: list[dict[str, str]], top: int | None) -> list[dict]:
    """Classifications, one for each row of probabilities, with the best labels first."""
    data = []
    for position, row in enumerate(probabilities):
        order = np.argsort(-row, kind="stable")[:top]
        best = [{**rows[number], "score": float(row[number])} for number in order]
        first = {"prediction": best[0]["label"], "score": best[0]["score"]}
        data.append({"object": "classification", "index": position, **first, "predictions": best})
    return data


def checked_prompts(labels: list[str], templates: list[str], limits: Limits) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Labels and templates that can be used, and that together make no more prompts than one request may have."""
    for name, values in (("labels", labels), ("templates", templates)):
        if not values:
            raise invalid("invalid_value", f"{name}: must not be empty.", name)
    check_at_most(len(labels), limits.max_labels, "labels", "labels")
    check_at_most(len(labels) * len(templates), limits.max_prompts, "prompts, labels times templates,", "labels")
    words = tuple(parsed_text(label, f"labels.{number}", limits).text for number, label in enumerate(labels))
    for number, template in enumerate(templates):
        param = f"templates.{number}"
        if template.count(LABEL_FIELD) != 1:
            raise invalid("invalid_value", f"{param}: must have {LABEL_FIELD} exactly once.", param)
        parsed_text(template, param, limits)
    characters = len(templates) * sum(map(len, words)) + len(words) * sum(map(len, templates))
    check_at_most(characters, limits.max_characters, "characters in all prompts", "labels")
    return words, tuple(templates)


@router.post("/v1/rerank")
async def rerank(request: Request, body: requests.Rerank) -> dict:
    """Documents by their cosine with the query, the best first."""
    engine, _ = clip_of(request, body.model)
    documents, params = items_of(body.documents, "documents", engine.limits)
    query = parsed_item(body.query, "query", engine.limits)
    result = await engine.vectors([query, *documents], ["query", *params], body.truncate == "end")
    cosines = result.vectors[1:] @ result.vectors[0]
    results = [
        {"index": int(number), "relevance_score": float(cosines[number])}
        for number in np.argsort(-cosines, kind="stable")[: body.top_n]
    ]
    if body.return_documents:
        results = [{**row, "document": body.documents[row["index"]]} for row in results]
    identifier = f"rerank-{secrets.token_hex(6)}"
    return {"id": identifier, "model": request.app.state.name, "results": results, "usage": usage(result)}


@router.post("/v1/score")
async def score(request: Request, body: requests.Score) -> dict:
    """Cosines of pairs: one query with each document, or as many queries as documents."""
    engine, _ = clip_of(request, body.model)
    queries, of_queries = items_of(listed(body.queries), "queries", engine.limits)
    documents, of_documents = items_of(listed(body.documents), "documents", engine.limits)
    if len(queries) not in (1, len(documents)):
        message = f"queries: must be one, or as many as documents ({len(documents)}); there are {len(queries)}."
        raise invalid("invalid_value", message, "queries")
    result = await engine.vectors([*queries, *documents], [*of_queries, *of_documents], body.truncate == "end")
    cosines = (result.vectors[: len(queries)] * result.vectors[len(queries) :]).sum(axis=1)
    data = [{"object": "score", "index": number, "score": float(value)} for number, value in enumerate(cosines)]
    return {"object": "list", "model": request.app.state.name, "data": data, "usage": usage(result)}


@router.post("/hf/zero-shot-image-classification")
async def hugging_face(request: Request, body: requests.HuggingFaceZeroShot) -> list[dict]:
    """Labels with probabilities, the best first, in the form of the Hugging Face inference API."""
    engine, model = clip_of(request)
    picture = body.inputs.get("image") if isinstance(body.inputs, dict) else body.inputs
    labels = body.parameters.get("candidate_labels")
    labels = [label.strip() for label in labels.split(",")] if isinstance(labels, str) else labels
    if not isinstance(labels, list):
        param = "parameters.candidate_labels"
        raise invalid("missing_required_parameter", f"{param}: must be a list of labels.", param)
    template = body.parameters.get("hypothesis_template") or TEMPLATE
    words, templates = checked_prompts(labels, [str(template)], engine.limits)
    result = await engine.vectors([parsed_image(picture, "inputs", engine.limits)], ["inputs"])
    classes, _ = await engine.class_vectors(words, templates)
    (probabilities,) = model.scores(result.vectors, classes).probs
    rows = [{"label": label, "score": float(value)} for label, value in zip(words, probabilities, strict=True)]
    return sorted(rows, key=lambda row: -row["score"])


@router.post("/v1/indexes/{name}/search")
async def search(request: Request, name: str, body: requests.Search) -> dict:
    """Pictures of an index that are nearest to a text or a picture."""
    (engine, _), index = clip_of(request, body.model), index_of(request, name)
    query = parsed_item(body.query, "query", engine.limits)
    result = await engine.vectors([query], ["query"], body.truncate == "end")
    hits, folder = index.nearest(result.vectors[0], body.top_k), index.folder
    data = [
        {"id": os.path.relpath(hit.name, folder) if folder else hit.name, "place": hit.place, "score": hit.cosine}
        for hit in hits
    ]
    answer = {"object": "search.results", "index": name, "model": request.app.state.name}
    return {**answer, "data": data, "usage": usage(result)}


@router.get("/v1/indexes/{name}/pictures/{number}", response_class=Response)
async def picture(request: Request, name: str, number: int) -> Response:
    """A picture of an index, by its position in it; see `ImageIndex.picture` for which files are given out."""
    engine, index = request.app.state.engine, index_of(request, name)
    try:
        content, media_type = await engine.decoder.file(index.picture(number))
    except (OSError, ValueError, ApiError) as error:
        raise ApiError(404, "not_found", "There is no such picture.", "number") from error
    return Response(content, media_type=media_type, headers=PICTURE_HEADERS)
