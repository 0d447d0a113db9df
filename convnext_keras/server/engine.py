"""What the routes ask for: vectors of items and of labels, from one model that all requests share."""

import asyncio
import collections
import gc
import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from convnext_keras.clip import CLIP
from convnext_keras.clip.inference import TEXT_LENGTHS
from convnext_keras.server.batching import Batcher
from convnext_keras.server.errors import ApiError, invalid
from convnext_keras.server.fetching import Fetcher, Policy
from convnext_keras.server.items import Image, Text
from convnext_keras.server.limits import Limits
from convnext_keras.server.metrics import Metrics
from convnext_keras.server.pictures import Decoder


class Vectors(NamedTuple):
    """Unit vectors `(N, D)` of items in their order, and what they are counted as."""

    vectors: np.ndarray
    tokens: int
    images: int


class Engine:
    """A model behind two queues, one for each tower.

    Args:
        model: the ConvNeXt-CLIP.
        limits: of what requests may cost.
        policy: which addresses may be fetched.
        metrics: that are told of everything.
        batching: whether items of different requests run together.
    """

    def __init__(self, model: CLIP, limits: Limits, policy: Policy, metrics: Metrics, batching: bool = True) -> None:
        self.model, self.limits, self.metrics, self.policy = model, limits, metrics, policy
        self.state = "loading"  # then "ready", and "stopping" in the end
        self.fetching = asyncio.Semaphore(limits.max_fetches)
        self.decoder = Decoder(model.recipe, limits, os.cpu_count() or 1)
        self.runner = ThreadPoolExecutor(1, thread_name_prefix="model")
        sizes = {"image": limits.image_batch if batching else 1, "text": limits.text_batch if batching else 1}
        runs = {"image": model.encode_pixels, "text": model.encode_tokens}
        wait = limits.wait_seconds if batching else 0.0
        self.towers = {
            tower: Batcher(
                lambda rows, run=runs[tower], size=size: run(rows, size),
                size,
                wait,
                limits.max_queue,
                self.runner,
                lambda size, waited, ran, tower=tower: metrics.batch(tower, size, waited, ran),
            )
            for tower, size in sizes.items()
        }
        self.labels: collections.OrderedDict[bytes, np.ndarray] = collections.OrderedDict()

    async def start(self) -> None:
        """Starts the queues, and runs every shape of batch once, so that no request waits for a compilation."""
        self.fetcher = Fetcher(self.policy, self.limits.fetch_seconds, self.limits.max_image_bytes)
        for batcher in self.towers.values():
            batcher.start()
        await asyncio.get_running_loop().run_in_executor(self.runner, self._warm_up)
        # The garbage collector would look through the million objects of a backend for 0.3 s, again and again.
        gc.collect()
        gc.freeze()
        self.state = "ready"

    def _warm_up(self) -> None:
        size, tokenizer = self.model.recipe.size, self.model.tokenizer
        # With the start and the end token, each fills one of the lengths that texts are cut to.
        texts = ["a " * (length - 2) for length in (*TEXT_LENGTHS, tokenizer.context_length)]
        for tower, batcher in self.towers.items():
            rows = 1
            while rows <= batcher.max_batch:
                if tower == "image":
                    batcher.run(np.zeros((rows, size, size, 3), "uint8"))
                for text in texts if tower == "text" else []:
                    batcher.run(np.repeat(tokenizer(text, truncate="silent"), rows, axis=0))
                rows *= 2

    def check(self) -> None:
        """Nothing, or the error of a server that cannot answer now.

        Raises:
            ApiError: if the model is not there yet, the server stops, or a queue's task has died.
        """
        if self.state == "stopping":
            raise ApiError(503, "shutting_down", "The server stops. Try another one, or again in a moment.")
        if self.state == "loading" or not all(batcher.is_alive for batcher in self.towers.values()):
            raise ApiError(503, "model_loading", "The server is not ready. Try again in a moment.")

    async def stop(self) -> None:
        """Answers what is in the queues and ends."""
        self.state = "stopping"
        for batcher in self.towers.values():
            await batcher.stop()
        await self.fetcher.close()
        self.decoder.close()
        self.runner.shutdown(wait=False)

    async def vectors(self, items: Sequence[Text | Image], params: Sequence[str], truncate: bool = True) -> Vectors:
        """Vectors of texts and pictures, mixed as they may be.

        Args:
            items: what to encode.
            params: the path of each in the request, for errors.
            truncate: whether texts that are too long are cut, or refused.

        Raises:
            ApiError: if an item cannot be used, or the answer takes too long.
        """
        pictures = [place for place, item in enumerate(items) if isinstance(item, Image)]
        words = [place for place, item in enumerate(items) if isinstance(item, Text)]
        texts = [(items[place].text, params[place]) for place in words]
        tokens = await self._tokens(texts, truncate)
        try:
            async with asyncio.timeout(self.limits.answer_seconds):
                of_words, of_pictures = await self._both(tokens, [(items[place], params[place]) for place in pictures])
        except TimeoutError as error:
            raise ApiError(503, "deadline_exceeded", "The answer took too long. Try again later.") from error
        vectors = np.zeros((len(items), self.model.output_width), "float32")
        if words:
            vectors[words] = of_words
        if pictures:
            vectors[pictures] = of_pictures
        counted = int((tokens == self.model.tokenizer.end).argmax(axis=-1).sum() + len(tokens)) if words else 0
        return Vectors(vectors, counted, len(pictures))

    async def _both(self, tokens: np.ndarray, pictures: list[tuple[Image, str]]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of texts and of pictures, at the same time; the first error ends both."""
        try:
            async with asyncio.TaskGroup() as group:
                of_words = group.create_task(self.towers["text"](list(tokens)))
                of_pictures = group.create_task(self._pictures(pictures))
        except ExceptionGroup as errors:
            raise first(errors) from errors
        return of_words.result(), of_pictures.result()

    async def _pictures(self, pictures: list[tuple[Image, str]]) -> np.ndarray:
        async with asyncio.TaskGroup() as group:
            pixels = [group.create_task(self._pixels(item, param)) for item, param in pictures]
        return await self.towers["image"]([task.result() for task in pixels])

    async def _tokens(self, texts: list[tuple[str, str]], truncate: bool) -> np.ndarray:
        tokenizer = self.model.tokenizer
        for text, param in [] if truncate else texts:
            if (count := tokenizer.count_tokens(text)) > tokenizer.context_length:
                message = f"{param}: has {count} tokens; the limit is {tokenizer.context_length}."
                raise invalid("context_length_exceeded", message, param)
        words = [text for text, _ in texts]
        loop = asyncio.get_running_loop()
        with self.metrics.stage("tokenise"):
            return await loop.run_in_executor(self.decoder.pool, lambda: tokenizer(words, truncate="silent"))

    async def _pixels(self, item: Image, param: str) -> np.ndarray:
        try:
            if item.url is None:
                pixels = await self._decoded(item.content or b"", param)
            else:
                async with self.fetching:  # Few at a time, so that what strangers' servers send fits into memory.
                    with self.metrics.stage("fetch"):
                        content = await self.fetcher(item.url, param)
                    pixels = await self._decoded(content, param)
        except ApiError as error:
            self.metrics.image(error.code)
            raise
        self.metrics.image("ok")
        return pixels

    async def _decoded(self, content: bytes, param: str) -> np.ndarray:
        with self.metrics.stage("decode"):
            return await self.decoder(content, param)

    async def class_vectors(self, labels: tuple[str, ...], templates: tuple[str, ...]) -> tuple[np.ndarray, int]:
        """Mean vectors `(labels, D)` of the labels' prompts, kept for the next request, and the prompts' tokens."""
        key = hashlib.sha256(json.dumps([labels, templates]).encode()).digest()
        self.metrics.label_cache(key in self.labels)
        if key in self.labels:
            self.labels.move_to_end(key)
            return self.labels[key], 0
        prompts = [template.replace("{}", label) for label in labels for template in templates]
        found = await self.vectors([Text(prompt) for prompt in prompts], ["labels"] * len(prompts))
        means = found.vectors.reshape(len(labels), len(templates), -1).mean(axis=1)
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        self.labels[key] = means
        while sum(map(len, self.labels.values())) > self.limits.cached_labels:
            self.labels.popitem(last=False)
        return means, found.tokens


def first(group: ExceptionGroup) -> Exception:
    """The first error of a group, for its sender."""
    error = group.exceptions[0]
    return first(error) if isinstance(error, ExceptionGroup) else error
