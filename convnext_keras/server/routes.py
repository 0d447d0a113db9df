"""The routes: what each takes of a request and what it answers."""

import base64
import os
import secrets
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request

from convnext_keras.server import bodies
from convnext_keras.server.engine import Engine, Vectors
from convnext_keras.server.errors import ApiError, invalid
from convnext_keras.server.items import Image, Text, image, item, text
from convnext_keras.server.limits import Limits

FAILURES = (400, 401, 404, 413, 415, 429, 500, 503)
router = APIRouter(responses={status: {"model": bodies.ErrorBody} for status in FAILURES})
PLACE = "{}"


def engine_of(request: Request, model: str | None = None) -> Engine:
    """The engine, if the request asks for the model that it has."""
    state = request.app.state
    if model is not None and model != state.name:
        message = f"The model {model!r} is not served here. GET /v1/models lists what is."
        raise ApiError(404, "model_not_found", message, "model")
    state.engine.check()
    return state.engine


def listed(value: Any) -> list:
    """A list as it is, anything else as a list of one."""
    return value if isinstance(value, list) else [value]


def items_of(values: Sequence[Any], param: str, limits: Limits, is_image: bool = False) -> tuple[list, list[str]]:
    """Items and their paths, few enough of each kind."""
    if not values:
        raise invalid("invalid_value", f"{param}: must not be empty.", param)
    params = [f"{param}.{place}" for place in range(len(values))]
    found = [item(value, place, limits, is_image) for value, place in zip(values, params, strict=True)]
    for kind, most, name in ((Text, limits.max_texts, "texts"), (Image, limits.max_images, "pictures")):
        count = sum(isinstance(row, kind) for row in found)
        if count > most:
            raise invalid("too_many_inputs", f"{param}: has {count} {name}; the limit is {most}.", param)
    return found, params


def usage(*parts: Vectors, tokens: int = 0) -> dict[str, int]:
    """What a request is counted as."""
    tokens += sum(part.tokens for part in parts)
    return {"prompt_tokens": tokens, "total_tokens": tokens, "image_count": sum(part.images for part in parts)}


def encoded(vector: np.ndarray, encoding_format: str) -> str | list[float]:
    """A vector as numbers, or as base64 of little-endian float32."""
    if encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    return [float(value) for value in vector]


@router.post("/v1/embeddings")
async def embeddings(request: Request, body: bodies.Embeddings) -> dict:
    """Vectors of texts and pictures, in the order of the request."""
    engine = engine_of(request, body.model)
    width = engine.model.output_width
    if body.dimensions not in (None, width):
        message = f"dimensions: this model has {width}; vectors cannot be shortened."
        raise invalid("dimensions_unsupported", message, "dimensions")
    values = listed(body.input)
    items, params = items_of(values, "input", engine.limits, body.modality == "image")
    found = await engine.vectors(items, params, body.truncate == "end")
    data = [
        {"object": "embedding", "index": place, "embedding": encoded(vector, body.encoding_format)}
        for place, vector in enumerate(found.vectors)
    ]
    return {"object": "list", "model": request.app.state.name, "data": data, "usage": usage(found)}


@router.post("/v1/similarity")
async def similarity(request: Request, body: bodies.Similarity) -> dict:
    """Cosines and probabilities of each picture over the texts."""
    engine = engine_of(request, body.model)
    if (body.image is None) == (body.images is None):
        raise invalid("missing_required_parameter", "image: give either 'image' or 'images'.", "image")
    pictures, of_pictures = items_of(
        listed(body.image) if body.images is None else body.images, "image", engine.limits, is_image=True
    )
    words, of_words = items_of(listed(body.texts), "texts", engine.limits)
    found = await engine.vectors([*pictures, *words], [*of_pictures, *of_words], body.truncate == "end")
    scores = engine.model.scores(found.vectors[: len(pictures)], found.vectors[len(pictures) :])
    data = [
        {"object": "similarity.result", "index": place, "scores": cosines.tolist(), "probs": probabilities.tolist()}
        for place, (cosines, probabilities) in enumerate(zip(scores.cosine, scores.probs, strict=True))
    ]
    return {
        "id": f"sim-{secrets.token_hex(6)}",
        "object": "similarity",
        "created": int(time.time()),
        "model": request.app.state.name,
        "logit_scale": engine.model.scale,
        "data": data,
        "usage": usage(found),
    }


@router.post("/v1/classify")
async def classify(request: Request, body: bodies.Classify) -> dict:
    """The labels that fit each picture or text best."""
    engine = engine_of(request, body.model)
    labels, templates = prompts_of(body.labels, listed(body.templates), engine.limits)
    items, params = items_of(listed(body.input), "input", engine.limits)
    found = await engine.vectors(items, params, body.truncate == "end")
    classes, tokens = await engine.class_vectors(labels, templates)
    scores = engine.model.scores(found.vectors, classes)
    data = []
    for place, probabilities in enumerate(scores.probs):
        order = np.argsort(-probabilities, kind="stable")[: body.top_k]
        rows = [{"label": labels[index], "score": float(probabilities[index])} for index in order]
        best = rows[0]
        data.append({"object": "classification", "index": place, "prediction": best["label"], "score": best["score"]})
        data[-1]["predictions"] = rows
    used = usage(found, tokens=tokens)
    return {"object": "list", "model": request.app.state.name, "data": data, "usage": used}


def prompts_of(labels: list[str], templates: list[str], limits: Limits) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Labels and templates that can be used."""
    if not labels:
        raise invalid("invalid_value", "labels: must not be empty.", "labels")
    if len(labels) > limits.max_labels:
        message = f"labels: has {len(labels)} labels; the limit is {limits.max_labels}."
        raise invalid("too_many_inputs", message, "labels")
    words = tuple(text(label, f"labels.{place}", limits).text for place, label in enumerate(labels))
    for place, template in enumerate(templates):
        if template.count(PLACE) != 1:
            param = f"templates.{place}"
            raise invalid("invalid_value", f"{param}: must have {PLACE} exactly once.", param)
        text(template, f"templates.{place}", limits)
    if not templates:
        raise invalid("invalid_value", "templates: must not be empty.", "templates")
    if len(labels) * len(templates) > limits.max_prompts:
        message = f"labels: {len(labels)} labels times {len(templates)} templates; the limit is {limits.max_prompts}."
        raise invalid("too_many_inputs", message, "labels")
    return words, tuple(templates)


@router.post("/v1/rerank")
async def rerank(request: Request, body: bodies.Rerank) -> dict:
    """Documents by their cosine with the query, the best first."""
    engine = engine_of(request, body.model)
    documents, params = items_of(body.documents, "documents", engine.limits)
    query = item(body.query, "query", engine.limits)
    found = await engine.vectors([query, *documents], ["query", *params], body.truncate == "end")
    cosines = found.vectors[1:] @ found.vectors[0]
    results = [
        {"index": int(index), "relevance_score": float(cosines[index])}
        for index in np.argsort(-cosines, kind="stable")[: body.top_n]
    ]
    if body.return_documents:
        results = [{**row, "document": body.documents[row["index"]]} for row in results]
    number = f"rerank-{secrets.token_hex(6)}"
    return {"id": number, "model": request.app.state.name, "results": results, "usage": usage(found)}


@router.post("/v1/score")
async def score(request: Request, body: bodies.Score) -> dict:
    """Cosines of pairs: one query with each document, or as many queries as documents."""
    engine = engine_of(request, body.model)
    queries, of_queries = items_of(listed(body.queries), "queries", engine.limits)
    documents, of_documents = items_of(listed(body.documents), "documents", engine.limits)
    if len(queries) not in (1, len(documents)):
        message = f"queries: must be one, or as many as documents ({len(documents)}); there are {len(queries)}."
        raise invalid("invalid_value", message, "queries")
    found = await engine.vectors([*queries, *documents], [*of_queries, *of_documents], body.truncate == "end")
    cosines = (found.vectors[: len(queries)] * found.vectors[len(queries) :]).sum(axis=1)
    data = [{"object": "score", "index": place, "score": float(value)} for place, value in enumerate(cosines)]
    return {"object": "list", "model": request.app.state.name, "data": data, "usage": usage(found)}


@router.post("/hf/zero-shot-image-classification")
async def hugging_face(request: Request, body: bodies.HuggingFaceZeroShot) -> list[dict]:
    """Labels with probabilities, the best first, in the form of the Hugging Face inference API."""
    engine = engine_of(request)
    picture = body.inputs.get("image") if isinstance(body.inputs, dict) else body.inputs
    labels = body.parameters.get("candidate_labels")
    labels = [label.strip() for label in labels.split(",")] if isinstance(labels, str) else labels
    if not isinstance(labels, list):
        param = "parameters.candidate_labels"
        raise invalid("missing_required_parameter", f"{param}: must be a list of labels.", param)
    template = body.parameters.get("hypothesis_template") or "a photo of a {}."
    words, templates = prompts_of(labels, [str(template)], engine.limits)
    found = await engine.vectors([image(picture, "inputs", engine.limits)], ["inputs"])
    classes, _ = await engine.class_vectors(words, templates)
    (probabilities,) = engine.model.scores(found.vectors, classes).probs
    rows = [{"label": label, "score": float(value)} for label, value in zip(words, probabilities, strict=True)]
    return sorted(rows, key=lambda row: -row["score"])


@router.post("/v1/indexes/{name}/search")
async def search(request: Request, name: str, body: bodies.Search) -> dict:
    """Pictures of an index that are nearest to a text or a picture."""
    engine = engine_of(request, body.model)
    index = request.app.state.indexes.get(name)
    if index is None:
        raise ApiError(404, "not_found", f"There is no index {name!r} here.", "name")
    found = await engine.vectors([item(body.query, "query", engine.limits)], ["query"], body.truncate == "end")
    hits = index.nearest(found.vectors[0], body.top_k)
    folder = request.app.state.folders[name]
    data = [
        {"id": os.path.relpath(hit.name, folder) if folder else hit.name, "place": hit.place, "score": hit.cosine}
        for hit in hits
    ]
    answer = {"object": "search.results", "index": name, "model": request.app.state.name}
    return {**answer, "data": data, "usage": usage(found)}
