"""Inference for the routes: embeddings of items and labels, from one model that all requests share."""

import asyncio
import collections
import contextlib
import gc
import hashlib
import itertools
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from convnext_keras.clip import DualEncoder
from convnext_keras.clip.tokenizer import Tokenizer
from convnext_keras.clip.zero_shot import class_embeddings, format_prompts
from convnext_keras.inference import TEXT_LENGTHS
from convnext_keras.predictors import Predictor, SegmentationPredictor
from convnext_keras.segmentation import SegmentationMap
from convnext_keras.server.batching import Batcher
from convnext_keras.server.errors import ApiError, bad_request
from convnext_keras.server.image_decoding import Decoder
from convnext_keras.server.image_fetching import Fetcher, ImageURLPolicy
from convnext_keras.server.limits import ServerLimits
from convnext_keras.server.metrics import Metrics
from convnext_keras.server.schemas import ImageItem, TextItem

TEXTS_PER_CHUNK = 64  # that a thread tokenises before it looks at the next request
log = logging.getLogger("convnext_keras.server")


class EmbeddingResult(NamedTuple):
    """Unit vectors `(N, D)` of items in their order, with the number of tokens and images."""

    vectors: np.ndarray
    tokens: int
    images: int


class InferenceEngine:
    """Model behind one queue per tower; a classifier has one queue.

    Args:
        model: The ConvNeXt-CLIP, the classifier, or the segmentation model.
        limits: Limits of what requests may cost.
        policy: Policy which addresses may be fetched.
        metrics: Metrics to update.
        batching: Whether items of different requests run together.
    """

    def __init__(
        self,
        model: Predictor,
        limits: ServerLimits,
        policy: ImageURLPolicy,
        metrics: Metrics,
        batching: bool = True,
    ) -> None:
        self.model, self.limits, self.metrics, self.policy = model, limits, metrics, policy
        self.state = "loading"  # then "ready", and "stopping" in the end
        self.fetching = asyncio.Semaphore(limits.max_fetches)
        self.decoder = Decoder(model.transform, limits, os.cpu_count() or 1)
        self.runner = ThreadPoolExecutor(model.streams, thread_name_prefix="model")
        sizes = {"image": limits.image_batch if batching else 1, "text": limits.text_batch if batching else 1}
        runs: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {}
        if not isinstance(model, SegmentationPredictor):
            runs["image"] = model.encode_pixels
        if isinstance(model, DualEncoder):
            runs["text"] = model.encode_tokens
        self.segmenting = 0  # images that wait for a segmentation model, or are with it
        wait = limits.wait_seconds if batching else 0.0
        self.batchers = {
            tower: Batcher(
                lambda rows, run=runs[tower], size=size: run(rows, size),
                size,
                wait,
                limits.max_queue,
                self.runner,
                lambda size, waited, ran, tower=tower: metrics.batch(tower, size, waited, ran),
                model.streams,
            )
            for tower, size in sizes.items()
            if tower in runs
        }
        self.labels: collections.OrderedDict[bytes, np.ndarray] = collections.OrderedDict()
        self.cached = 0  # labels in it

    async def start(self) -> None:
        """Starts the queues, and runs the usual shapes of batch once, so that few requests wait for a compilation.

        The other shapes run between requests, once the server is ready.
        """
        self.fetcher = Fetcher(self.policy, self.limits.fetch_seconds, self.limits.max_image_bytes)
        for batcher in self.batchers.values():
            batcher.start()
        usual, others = self._shapes()
        if isinstance(self.model, SegmentationPredictor):
            pixels = np.zeros(self.model.transform.shape, "uint8")
            await asyncio.get_running_loop().run_in_executor(self.runner, self.model.segmenter, pixels)
        await self._warm_up(usual, "usual")
        self.state = "ready"
        self.warming_up = asyncio.create_task(self._warm_up(others, "other"))

    def _shapes(self) -> tuple[list[tuple[str, np.ndarray]], list[tuple[str, np.ndarray]]]:
        """Returns inputs of every shape that a tower runs with: first the usual ones, single items and full batches of
        images and of short texts; and all others, the smallest first.
        """
        rows_of = {"image": [np.zeros((1, *self.model.transform.shape), "uint8")]}
        if isinstance(self.model, DualEncoder):
            tokenizer = self.model.tokenizer
            lengths = (*TEXT_LENGTHS, tokenizer.context_length)
            # With the start and the end token, each fills one of the lengths that texts are cut to.
            rows_of["text"] = [tokenizer("a " * (length - 2), truncate="silent") for length in lengths]
        usual, others = [], []
        for tower, batcher in self.batchers.items():
            full = batcher.max_batch
            counts = [
                *(1 << power for power in range((full - 1).bit_length())),
                full,
            ]  # as `BatchRunner` fills batches up
            for row, count in itertools.product(rows_of[tower], counts):
                is_usual = row is rows_of[tower][0] and count in (1, full)
                (usual if is_usual else others).append((tower, np.repeat(row, count, axis=0)))
        return usual, sorted(others, key=lambda shape: shape[1].size)

    async def _warm_up(self, shapes: list[tuple[str, np.ndarray]], kind: str) -> None:
        loop, start = asyncio.get_running_loop(), time.monotonic()
        for number, (tower, inputs) in enumerate(shapes, start=1):
            await loop.run_in_executor(self.runner, self.batchers[tower].run, inputs)
            seconds = round(time.monotonic() - start, 2)
            log.info(json.dumps({"warm_up": kind, "shape": number, "of": len(shapes), "seconds": seconds}))
        # The garbage collector would look through the million objects of a backend for 0.3 s, again and again.
        gc.collect()
        gc.freeze()

    def check_ready(self) -> None:
        """Raises ApiError if the server cannot answer: it is not warm yet, it stops, or a queue's task has died."""
        if self.state == "stopping":
            raise ApiError(503, "shutting_down", "The server stops. Try another one, or again in a moment.")
        if self.state == "loading" or not all(batcher.is_alive for batcher in self.batchers.values()):
            raise ApiError(503, "model_loading", "The server is not ready. Try again in a moment.")

    async def stop(self) -> None:
        """Returns answers what is in the queues and ends."""
        self.state = "stopping"
        self.warming_up.cancel()
        await asyncio.gather(self.warming_up, return_exceptions=True)
        for batcher in self.batchers.values():
            await batcher.stop()
        await self.fetcher.close()
        self.decoder.close()
        self.runner.shutdown(wait=False)

    @contextlib.asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """Raises the timeout error in the block when the answer takes too long."""
        try:
            async with asyncio.timeout(self.limits.answer_seconds):
                yield
        except TimeoutError as error:
            raise ApiError(503, "deadline_exceeded", "The answer took too long. Try again later.") from error

    async def vectors(
        self, items: Sequence[TextItem | ImageItem], params: Sequence[str], truncate: bool = True
    ) -> EmbeddingResult:
        """Returns vectors of texts and images, mixed as they may be.

        Args:
            items: What to encode.
            params: The path of each in the request, for errors.
            truncate: Whether texts that are too long are cut, or refused.

        Raises:
            ApiError: If an item cannot be used, or the answer takes too long.
        """
        images = {number: item for number, item in enumerate(items) if isinstance(item, ImageItem)}
        texts = {number: item.text for number, item in enumerate(items) if isinstance(item, TextItem)}
        async with self.deadline():
            tokens = await self._tokens([(text, params[number]) for number, text in texts.items()], truncate)
            source_images = [(item, params[number]) for number, item in images.items()]
            of_texts, of_images = await self._encode_concurrently(tokens, source_images)
        model: Any = self.model  # not one for segmentation, which has a route of its own
        vectors = np.zeros((len(items), model.embed_dim), "float32")
        if texts:
            vectors[[*texts]] = of_texts
        if images:
            vectors[[*images]] = of_images
        counted = int((tokens == self._tokenizer.end).argmax(axis=-1).sum() + len(tokens)) if texts else 0
        return EmbeddingResult(vectors, counted, len(images))

    async def segment(self, item: ImageItem, param: str) -> tuple[np.ndarray, SegmentationMap]:
        """Returns an image at its own size, and the classes of its pixels; one image is with the model at a time.

        Args:
            item: The image.
            param: Its path in the request, for errors.

        Raises:
            ApiError: If it cannot be used, too many wait already, or the answer takes too long.
        """
        if not isinstance(self.model, SegmentationPredictor):
            raise bad_request(
                "model_unsupported", "This model has no classes of pixels: POST to /v1/classify.", "model"
            )
        if self.segmenting >= self.limits.max_queued_maps:
            raise ApiError(429, "queue_full", "Too many images wait for the model. Try again in a moment.")
        self.segmenting += 1
        try:
            async with self.deadline():
                pixels = await self._read(item, param, self.decoder.image)
                with self.metrics.stage("segment"):
                    loop, segmenter = asyncio.get_running_loop(), self.model.segmenter
                    found = await loop.run_in_executor(self.runner, segmenter, pixels, None, None, False)
        finally:
            self.segmenting -= 1
        return pixels, found

    async def _encode_concurrently(
        self, tokens: np.ndarray, images: list[tuple[ImageItem, str]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns vectors of texts and of images, at the same time; the first error ends both."""
        try:
            async with asyncio.TaskGroup() as group:
                of_texts = group.create_task(self.batchers["text"](list(tokens))) if len(tokens) else None
                of_images = group.create_task(self._images(images))
        except ExceptionGroup as errors:
            raise first_exception(errors) from errors
        return of_texts.result() if of_texts else tokens, of_images.result()

    async def _images(self, images: list[tuple[ImageItem, str]]) -> np.ndarray:
        async with asyncio.TaskGroup() as group:
            pixels = [group.create_task(self._pixels(item, param)) for item, param in images]
        return await self.batchers["image"]([task.result() for task in pixels])

    @property
    def _tokenizer(self) -> Tokenizer:
        if not isinstance(self.model, DualEncoder):
            raise bad_request("text_unsupported", "input: a classifier takes images only; a string is a text.", "input")
        return self.model.tokenizer

    async def _tokens(self, texts: list[tuple[str, str]], truncate: bool) -> np.ndarray:
        if not texts:
            return np.zeros((0, 0), "int32")
        if not truncate:
            await self._check_lengths(texts)
        tokenizer, words = self._tokenizer, [text for text, _ in texts]
        with self.metrics.stage("tokenise"):
            # Part by part, so that a request whose time is over does not keep a thread busy.
            parts = [words[start : start + TEXTS_PER_CHUNK] for start in range(0, len(words), TEXTS_PER_CHUNK)]
            rows = [await self.in_thread(tokenizer, part, None, "silent") for part in parts]
        return np.concatenate(rows)

    async def _check_lengths(self, texts: list[tuple[str, str]]) -> None:
        """Raises ApiError for the first text, with its path in the request, that has too many tokens."""
        tokenizer = self._tokenizer
        for start in range(0, len(texts), TEXTS_PER_CHUNK):
            part = texts[start : start + TEXTS_PER_CHUNK]
            counts = await self.in_thread(lambda part=part: [tokenizer.count_tokens(text) for text, _ in part])
            for count, (_, param) in zip(counts, part, strict=True):
                if count > tokenizer.context_length:
                    message = f"{param}: has {count} tokens; the limit is {tokenizer.context_length}."
                    raise bad_request("context_length_exceeded", message, param)

    async def in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function beside the event loop, for work that grows with a request or an index."""
        return await asyncio.get_running_loop().run_in_executor(self.decoder.pool, work, *arguments)

    async def _pixels(self, item: ImageItem, param: str) -> np.ndarray:
        return await self._read(item, param, self.decoder)

    async def _read(self, item: ImageItem, param: str, decode: Callable[..., Any]) -> np.ndarray:
        """Returns what a function decodes of an image, fetched if it is named by its address."""
        try:
            if item.url is None:
                pixels = await self._decoded(item.content or b"", param, decode)
            else:
                async with self.fetching:  # Few at a time, so that what strangers' servers send fits into memory.
                    with self.metrics.stage("fetch"):
                        content = await self.fetcher(item.url, param)
                    pixels = await self._decoded(content, param, decode)
        except ApiError as error:
            self.metrics.image(error.code)
            raise
        self.metrics.image("ok")
        return pixels

    async def _decoded(self, content: bytes, param: str, decode: Callable[..., Any]) -> np.ndarray:
        with self.metrics.stage("decode"):
            return await decode(content, param)

    async def class_embeddings(
        self, labels: tuple[str, ...], templates: tuple[str, ...], truncate: bool = True
    ) -> tuple[np.ndarray, int]:
        """Returns embeddings `(labels, D)` of labels, cached for later requests, and the number of encoded tokens.

        Args:
            labels: Labels of the classes.
            templates: Prompts with a place for the label.
            truncate: Whether prompts that are too long are cut, or refused.
        """
        prompts = format_prompts(labels, templates)
        params = [f"labels.{number}" for number in range(len(labels)) for _ in templates]
        if not truncate:
            await self._check_lengths([*zip(prompts, params, strict=True)])
        key = hashlib.sha256(json.dumps([labels, templates]).encode()).digest()
        self.metrics.label_cache(key in self.labels)
        if key in self.labels:
            self.labels.move_to_end(key)
            return self.labels[key], 0
        result = await self.vectors([TextItem(prompt) for prompt in prompts], params)
        self.cached -= len(self.labels.pop(key, ()))  # of a request that came meanwhile
        self.labels[key] = classes = class_embeddings(result.vectors, len(labels))
        self.cached += len(classes)
        while self.cached > self.limits.cached_labels:
            self.cached -= len(self.labels.popitem(last=False)[1])
        return classes, result.tokens


def first_exception(group: ExceptionGroup) -> Exception:
    """Returns the first error of a group, for its sender."""
    error = group.exceptions[0]
    return first_exception(error) if isinstance(error, ExceptionGroup) else error
