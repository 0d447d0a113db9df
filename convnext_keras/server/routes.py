"""The routes: what each takes of a request and what it answers."""

import base64
import io
import json
import os
import secrets
import time
from collections.abc import Iterator

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from PIL import Image

from convnext_keras.clip.zero_shot import DEFAULT_TEMPLATE, LABEL_PLACEHOLDER
from convnext_keras.predictors import Classifier
from convnext_keras.problem_types import MULTI_LABEL, SINGLE_LABEL, select_labels
from convnext_keras.segmentation import SegmentationMap, label_image, overlay, palette
from convnext_keras.server import schemas
from convnext_keras.server.errors import ApiError, bad_request
from convnext_keras.server.inference import InferenceEngine
from convnext_keras.server.limits import ServerLimits
from convnext_keras.server.route_helpers import (
    as_list,
    check_limit,
    get_clip_engine,
    get_engine,
    get_index,
    json_response,
    parse_items,
    usage,
)
from convnext_keras.server.schemas import parse_image, parse_item, parse_text

router = APIRouter(responses=schemas.ERROR_RESPONSES)
# An image is never taken for a page.
IMAGE_HEADERS = {"x-content-type-options": "nosniff", "content-security-policy": "default-src 'none'; sandbox"}


@router.post("/v1/similarity", response_model=dict)
async def similarity(request: Request, body: schemas.Similarity) -> Response:
    """Returns cosines and probabilities of each image over the texts."""
    engine, model = get_clip_engine(request, body.model)
    if (body.image is None) == (body.images is None):
        raise bad_request("missing_required_parameter", "image: give either 'image' or 'images'.", "image")
    values = as_list(body.image) if body.images is None else body.images
    images, of_images = await engine.in_thread(parse_items, values, "image", engine.limits, True)
    texts, of_texts = await engine.in_thread(parse_items, as_list(body.texts), "texts", engine.limits)
    check_limit(len(images) * len(texts), engine.limits.max_scores, "pairs of image and text", "texts")
    result = await engine.vectors([*images, *texts], [*of_images, *of_texts], body.truncate == "end")

    def data() -> Iterator[dict]:
        scores = model.scores(result.vectors[: len(images)], result.vectors[len(images) :])
        for position, (cosines, probs) in enumerate(zip(scores.cosine, scores.probs, strict=True)):
            figures = {"scores": cosines.tolist(), "probs": probs.tolist()}
            yield {"object": "similarity.result", "index": position, **figures}

    answer = {"id": f"sim-{secrets.token_hex(6)}", "object": "similarity", "created": int(time.time())}
    answer |= {"model": request.app.state.name, "logit_scale": model.logit_scale, "usage": usage(result)}
    return await json_response(engine, answer, data)


@router.post("/v1/classify", response_model=dict)
async def classify(request: Request, body: schemas.Classify) -> Response:
    """Returns the labels that fit each image or text best; of a classifier, its own classes."""
    engine = get_engine(request, body.model)
    if isinstance(engine.model, Classifier):
        return await classify_fixed(engine, engine.model, request.app.state.name, body)
    engine, model = get_clip_engine(request, body.model)
    if body.labels is None:
        raise bad_request("missing_required_parameter", "labels: give the labels to tell apart.", "labels")
    labels, templates = await engine.in_thread(check_prompts, body.labels, as_list(body.templates), engine.limits)
    items, params = await engine.in_thread(parse_items, as_list(body.input), "input", engine.limits)
    check_limit(len(items) * len(labels), engine.limits.max_scores, "scores, items times labels,", "labels")
    truncate = body.truncate == "end"
    async with engine.deadline():
        classes, tokens = await engine.class_embeddings(labels, templates, truncate)
        result = await engine.vectors(items, params, truncate)
    rows = [{"label": label} for label in labels]
    answer = {"object": "list", "model": request.app.state.name, "usage": usage(result, tokens=tokens)}
    return await json_response(
        engine, answer, lambda: rank(model.scores(result.vectors, classes).probs, rows, body.top_k)
    )


async def classify_fixed(engine: InferenceEngine, model: Classifier, name: str, body: schemas.Classify) -> Response:
    """Returns the answer of `classify` by a model with classes of its own."""
    if body.labels is not None:
        message = f"labels: the model {name!r} has {len(model.classes)} classes of its own. Leave labels out."
        raise bad_request("labels_unsupported", message, "labels")
    items, params = await engine.in_thread(parse_items, as_list(body.input), "input", engine.limits)
    check_limit(len(items) * len(model.classes), engine.limits.max_scores, "scores, items times classes,", "input")
    result = await engine.vectors(items, params)
    answer = {"object": "list", "model": name, "usage": usage(result)}
    return await json_response(engine, answer, lambda: classifications(model, result.vectors, body.top_k))


def classifications(model: Classifier, scores: np.ndarray, top_k: int | None) -> Iterator[dict]:
    """Yields one answer per row of scores `(N, classes)`, by the model's problem type."""
    rows = [{"label": label, "id": identifier} for identifier, label in model.classes]
    if model.problem_type == SINGLE_LABEL:
        yield from rank(scores, rows, top_k)
        return
    for position, row in enumerate(scores):
        order = select_labels(row, model.problem_type, model.thresholds, top_k)
        found = [{**rows[number], "score": float(row[number])} for number in order]
        if model.problem_type == MULTI_LABEL:
            labels = [one["label"] for one in found]
            yield {"object": "classification", "index": position, "labels": labels, "predictions": found}
        else:
            values = {one["label"]: one["score"] for one in found}
            yield {"object": "regression", "index": position, "values": values}


def rank(probabilities: np.ndarray, rows: list[dict[str, str]], top_k: int | None) -> Iterator[dict]:
    """Classifications, one for each row of probabilities, with the best labels first."""
    for position, row in enumerate(probabilities):
        order = np.argsort(-row, kind="stable")[:top_k]
        best = [{**rows[number], "score": float(row[number])} for number in order]
        first = {"prediction": best[0]["label"], "score": best[0]["score"]}
        yield {"object": "classification", "index": position, **first, "predictions": best}


def check_prompts(
    labels: list[str], templates: list[str], limits: ServerLimits
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Validates labels and templates, and their number of prompts."""
    for name, values in (("labels", labels), ("templates", templates)):
        if not values:
            raise bad_request("invalid_value", f"{name}: must not be empty.", name)
    check_limit(len(labels), limits.max_labels, "labels", "labels")
    check_limit(len(labels) * len(templates), limits.max_prompts, "prompts, labels times templates,", "labels")
    words = tuple(parse_text(label, f"labels.{number}", limits).text for number, label in enumerate(labels))
    for number, template in enumerate(templates):
        param = f"templates.{number}"
        if template.count(LABEL_PLACEHOLDER) != 1:
            raise bad_request("invalid_value", f"{param}: must have {LABEL_PLACEHOLDER} exactly once.", param)
        parse_text(template, param, limits)
    characters = len(templates) * sum(map(len, words)) + len(words) * sum(map(len, templates))
    check_limit(characters, limits.max_characters, "characters in all prompts", "labels")
    return words, tuple(templates)


@router.post("/v1/segment", response_model=dict)
async def segment(request: Request, body: schemas.Segment) -> Response:
    """Returns the class of each pixel of an image at its own size, and the area of each class.

    The map is a PNG whose pixels are class numbers, in base64, or run lengths `[class, length, ...]` row by row. With
    `overlay`, the image with its classes in color comes as a PNG too.
    """
    engine = get_engine(request, body.model)
    item = await engine.in_thread(parse_image, body.image, "image", engine.limits)
    pixels, found = await engine.segment(item, "image")

    def rendered() -> bytes:
        height, width = found.labels.shape
        answer = {"object": "segmentation", "model": request.app.state.name, "height": height, "width": width}
        answer["classes"] = [*found.class_names]
        numbers = {name: number for number, name in reversed([*enumerate(found.class_names)])}
        colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in palette(len(found.class_names)).tolist()]
        rows = [(name, part, colors[numbers[name]]) for name, part in found.areas.items()]
        answer["areas"] = [{"class": name, "area": part, "color": color} for name, part, color in rows]
        answer |= (
            {"png": encode_png(label_image(found.labels))} if body.format == "png" else {"rle": run_lengths(found)}
        )
        answer |= {"overlay": encode_png(overlay(pixels, found, legend=False))} if body.overlay else {}
        return json.dumps({**answer, "usage": {"prompt_tokens": 0, "total_tokens": 0, "num_images": 1}}).encode()

    return Response(await engine.in_thread(rendered), media_type="application/json")


def encode_png(image: Image.Image) -> str:
    """Returns an image as the base64 of a PNG file."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")


def run_lengths(found: SegmentationMap) -> list[int]:
    """Returns class and length of each run of equal pixels, row by row: `[class, length, class, length, ...]`."""
    values = found.labels.ravel()
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    lengths = np.diff(np.append(starts, len(values)))
    return np.stack([values[starts].astype("int64"), lengths], axis=1).ravel().tolist()


@router.post("/v1/rerank", response_model=dict)
async def rerank(request: Request, body: schemas.Rerank) -> Response:
    """Documents by their cosine with the query, the best first."""
    engine, _ = get_clip_engine(request, body.model)
    documents, params = await engine.in_thread(parse_items, body.documents, "documents", engine.limits)
    query = await engine.in_thread(parse_item, body.query, "query", engine.limits)
    result = await engine.vectors([query, *documents], ["query", *params], body.truncate == "end")

    def results() -> Iterator[dict]:
        cosines = result.vectors[1:] @ result.vectors[0]
        for number in np.argsort(-cosines, kind="stable")[: body.top_n].tolist():
            row = {"index": number, "relevance_score": float(cosines[number])}
            yield {**row, "document": body.documents[number]} if body.return_documents else row

    answer = {"id": f"rerank-{secrets.token_hex(6)}", "model": request.app.state.name, "usage": usage(result)}
    return await json_response(engine, answer, results, "results")


@router.post("/v1/score", response_model=dict)
async def score(request: Request, body: schemas.Score) -> Response:
    """Computes cosines of pairs: one query with each document, or each query with its document."""
    engine, _ = get_clip_engine(request, body.model)
    queries, of_queries = await engine.in_thread(parse_items, as_list(body.queries), "queries", engine.limits)
    documents, of_documents = await engine.in_thread(parse_items, as_list(body.documents), "documents", engine.limits)
    if len(queries) not in (1, len(documents)):
        message = f"queries: must be one, or as many as documents ({len(documents)}); there are {len(queries)}."
        raise bad_request("invalid_value", message, "queries")
    result = await engine.vectors([*queries, *documents], [*of_queries, *of_documents], body.truncate == "end")

    def data() -> Iterator[dict]:
        cosines = (result.vectors[: len(queries)] * result.vectors[len(queries) :]).sum(axis=1)
        return ({"object": "score", "index": number, "score": float(value)} for number, value in enumerate(cosines))

    answer = {"object": "list", "model": request.app.state.name, "usage": usage(result)}
    return await json_response(engine, answer, data)


@router.post("/hf/zero-shot-image-classification", response_model=list)
async def hugging_face(request: Request, body: schemas.HuggingFaceZeroShot) -> Response:
    """Returns labels with probabilities, the best first, in the form of the Hugging Face inference API."""
    engine, model = get_clip_engine(request)
    image = body.inputs.get("image") if isinstance(body.inputs, dict) else body.inputs
    if unknown := sorted(body.parameters.keys() - {"candidate_labels", "hypothesis_template"}):
        message = f"parameters.{unknown[0]}: is not known. Known are candidate_labels and hypothesis_template."
        raise bad_request("unknown_parameter", message, f"parameters.{unknown[0]}")
    labels = body.parameters.get("candidate_labels")
    labels = [label.strip() for label in labels.split(",")] if isinstance(labels, str) else labels
    if not isinstance(labels, list):
        param = "parameters.candidate_labels"
        raise bad_request("missing_required_parameter", f"{param}: must be a list of labels.", param)
    template = body.parameters.get("hypothesis_template") or DEFAULT_TEMPLATE
    words, templates = await engine.in_thread(check_prompts, labels, [str(template)], engine.limits)
    item = await engine.in_thread(parse_image, image, "inputs", engine.limits)
    result = await engine.vectors([item], ["inputs"])
    classes, _ = await engine.class_embeddings(words, templates)
    (probabilities,) = model.scores(result.vectors, classes).probs
    rows = [{"label": label, "score": float(value)} for label, value in zip(words, probabilities, strict=True)]
    return Response(json.dumps(sorted(rows, key=lambda row: -row["score"])), media_type="application/json")


@router.post("/v1/indexes/{name}/search", response_model=dict)
async def search(request: Request, name: str, body: schemas.Search) -> Response:
    """Returns images of an index that are nearest to a text or an image."""
    (engine, _), index = get_clip_engine(request, body.model), get_index(request, name)
    query = await engine.in_thread(parse_item, body.query, "query", engine.limits)
    result = await engine.vectors([query], ["query"], body.truncate == "end")

    def data() -> Iterator[dict]:
        hits, folder = index.search_by_vector(result.vectors[0], body.top_k), index.folder
        for hit in hits:
            identifier = os.path.relpath(hit.name, folder) if folder else hit.name
            yield {"id": identifier, "index": hit.index, "score": hit.cosine}

    answer = {"object": "search.results", "index": name, "model": request.app.state.name, "usage": usage(result)}
    return await json_response(engine, answer, data)


@router.get("/v1/indexes/{name}/images/{index}", response_class=Response)
async def image(request: Request, name: str, index: int) -> Response:
    """Returns an image of an index; see `ImageIndex.get_image_path` for the files that are served."""
    engine, images = request.app.state.engine, get_index(request, name)
    try:
        path = await engine.in_thread(images.get_image_path, index)
        content, media_type = await engine.decoder.file(path)
    except (OSError, ValueError, ApiError) as error:
        raise ApiError(404, "not_found", "There is no such image.", "index") from error
    return Response(content, media_type=media_type, headers=IMAGE_HEADERS)
