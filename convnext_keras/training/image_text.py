"""Images with texts: from a table, from shards, or as prompts of classes; and their batches."""

import dataclasses
import itertools
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convnext_keras.clip.model import CLIP
from convnext_keras.data.augmentation import Augmentation
from convnext_keras.data.images import ImageSource, open_image
from convnext_keras.data.loader import is_image_file, iter_batches
from convnext_keras.training.datasets import ImageDataset
from convnext_keras.training.tables import COLUMNS as TABLE_COLUMNS
from convnext_keras.training.tables import is_table, read_csv, read_csv_columns

COLUMNS = {"path": TABLE_COLUMNS["path"], "text": ("caption", "text", "title")}
PROMPT_TEMPLATES = ("a {}", "a photo of a {}", "a picture of a {}", "{}")
NUM_NEIGHBORS, CLUSTER_SIZE = 16, 8  # groups that count as near, and how many pairs of a batch belong together by that


@dataclasses.dataclass(frozen=True)
class ImageTextDataset:
    """Images with texts.

    Attributes:
        images: What `open_image` takes.
        texts: Texts for each image, wordings that are equally true; one is drawn each time.
        groups: `(N,)`; images of one group are described by each other's texts too, so they are no negatives.

    Example:
        >>> images = [np.zeros((8, 8, 3), "uint8")] * 2
        >>> pairs = ImageTextDataset(images, (("a cat",), ("a dog", "one dog")), np.array([0, 1]))
        >>> len(pairs)
        2
    """

    images: Sequence[ImageSource]
    texts: tuple[tuple[str, ...], ...]
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: Iterable[int]) -> "ImageTextDataset":
        """Returns some of the pairs, in the given order."""
        indices = [int(index) for index in indices]
        images, texts = [self.images[index] for index in indices], tuple(self.texts[index] for index in indices)
        return ImageTextDataset(images, texts, self.groups[indices])


def class_prompts(examples: ImageDataset, templates: Sequence[str] = PROMPT_TEMPLATES) -> ImageTextDataset:
    """Returns images of classes with their classes' names in sentences, "Finetune like you pretrain".

    Source: https://arxiv.org/abs/2212.00638v1.

    Args:
        examples: Images with classes.
        templates: Sentences with `{}` for the name.

    Raises:
        ValueError: If a template has no `{}`.

    Example:
        >>> examples = ImageDataset([np.zeros((8, 8, 3), "uint8")] * 2, np.array([0, 1]), ("cat", "dog"))
        >>> class_prompts(examples, ["a {}"]).texts
        (('a cat',), ('a dog',))
    """
    wrong = [template for template in templates if "{}" not in template]
    if wrong or not templates:
        raise ValueError(f"templates must be sentences with {{}} for the name. Received: {wrong or templates}")
    names = [examples.class_names[label] for label in examples.labels]
    rows = [tuple(template.replace("{}", name) for template in templates) for name in names]
    return ImageTextDataset(examples.images, tuple(rows), examples.labels)


def load_image_text_pairs(data: Any) -> ImageTextDataset:
    """Returns images with texts in any of the usual forms.

    Args:
        data: A `.csv` or `.tsv` file with columns `path`, relative to the file's folder, and `caption`; `.tar` shards
            in the form of webdataset, one or a list, where `0001.jpg` and `0001.txt` are a pair; `(images, texts)`;
            `ImageTextDataset`.

    Raises:
        ValueError: If the form is none of these, nothing is there, or an image cannot be read.

    Example:
        >>> load_image_text_pairs(([np.zeros((8, 8, 3), "uint8")] * 3, ["a cat", "a dog", "a cat"])).groups.tolist()
        [0, 1, 0]
    """
    if isinstance(data, ImageTextDataset):
        return data
    if isinstance(data, tuple) and len(data) == 2:
        images, texts = [*data[0]], [*data[1]]
    elif is_table(data):
        images, texts = _from_table(Path(str(data)))
    else:
        shards = [data] if isinstance(data, str | os.PathLike) else data
        if not isinstance(shards, list | tuple) or not all(str(shard).endswith(".tar") for shard in shards):
            raise ValueError(f"Pairs are a .csv or .tsv file, .tar shards or (images, texts). Received: {data!r}")
        images, texts = _from_shards([Path(shard) for shard in shards])
    if not images or len(images) != len(texts):
        raise ValueError(f"There must be images, and a text for each. Received: {len(images)} and {len(texts)}")
    group_of_text: dict[str, int] = {}
    groups = [group_of_text.setdefault(text, len(group_of_text)) for text in texts]
    return ImageTextDataset(images, tuple((text,) for text in texts), np.array(groups))


def is_image_text_data(path: Path) -> bool:
    """Returns whether a path names images with texts: shards, or a table with a column of texts and none of classes."""
    if not is_table(path):
        return path.suffix.lower() == ".tar"
    headings = {*read_csv(path)[0]}
    return bool(headings & {*COLUMNS["text"]}) and not headings & {*TABLE_COLUMNS["class"]}


def _from_table(path: Path) -> tuple[list[Path], list[str]]:
    names, texts = read_csv_columns(path, COLUMNS)
    return [path.parent / name for name in names], texts


def _from_shards(shards: list[Path]) -> tuple[list[Image.Image], list[str]]:
    """Returns members of one name, an image and a text, become a pair; others are left out."""
    images, texts = [], []
    for shard in shards:
        members: dict[str, dict[str, bytes]] = {}
        with tarfile.open(shard) as archive:
            for member in archive:
                stem, suffix = os.path.splitext(member.name)  # noqa: PTH122 - a name in an archive
                content = archive.extractfile(member) if member.isfile() else None
                if content:
                    kind = "image" if is_image_file(member.name) else suffix.lower()
                    members.setdefault(stem, {})[kind] = content.read()
        whole = {name: parts for name, parts in members.items() if "image" in parts and ".txt" in parts}
        if not whole:
            raise ValueError(f"{shard} has no pairs of an image and a .txt of the same name.")
        for name, parts in whole.items():
            images.append(open_image(parts["image"], name=f"{shard}/{name}", exif_transpose=True))
            texts.append(parts[".txt"].decode("utf-8").strip())
    return images, texts


class NearestGroups:
    """Nearest groups of each group, by the texts' embeddings.

    Each is found when it is asked for, so that memory grows with the number of groups only.

    Args:
        pairs: Pairs whose groups they are.
        model: Model that encodes the first text of each group, once.
    """

    def __init__(self, pairs: ImageTextDataset, model: CLIP) -> None:
        self.groups, first = np.unique(pairs.groups, return_index=True)
        self.vectors = model.encode_text([pairs.texts[index][0] for index in first])

    def __call__(self, group: int) -> np.ndarray:
        """Returns at most `NUM_NEIGHBORS - 1` other groups, the nearest first."""
        index = int(np.searchsorted(self.groups, group))
        cosines = self.vectors @ self.vectors[index]
        cosines[index] = -np.inf
        count = min(NUM_NEIGHBORS, len(cosines)) - 1
        best = np.argpartition(-cosines, count - 1)[:count] if count else np.array([], int)
        return self.groups[best[np.argsort(-cosines[best], kind="stable")]]


def pair_batches(
    sources: Sequence[ImageTextDataset],
    model: CLIP,
    augmentation: Augmentation,
    batch_size: int,
    hard_negative_ratio: float = 0.5,
    seed: int = 0,
    first: int = 0,
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Yields endless batches for `CLIP.fit`, each from one source in turn, so that negatives are of one kind.

    Args:
        sources: The pairs to learn, and others that are not to be forgotten.
        model: Model that finds hard negatives by its text embeddings, and whose tokenizer is used.
        augmentation: Augmentation of the images.
        batch_size: Pairs of a batch.
        hard_negative_ratio: Part 0..1 of a batch that is made of families of near groups; the rest is drawn at random.
        seed: Random seed. Each batch depends on the seed and its number only.
        first: Number of the first batch, from 0.

    Yields:
        `{"images": (batch, height, width, 3), "tokens": (batch, L)}`, and the groups `(batch,)`.
    """
    near = [NearestGroups(pairs, model) if hard_negative_ratio else None for pairs in sources]
    members = [_group_indices(pairs.groups) for pairs in sources]

    def sampled() -> Iterator[tuple[int, int, int]]:
        for number in itertools.count(first):
            rng = np.random.default_rng((seed, number))
            source = number % len(sources)
            rows = _sample_batch(sources[source], near[source], members[source], batch_size, hard_negative_ratio, rng)
            yield from ((source, row, int(rng.integers(2**31))) for row in rows)

    def augmented(item: tuple[int, int, int]) -> np.ndarray:
        source, row, draw = item
        return augmentation(sources[source].images[row], np.random.default_rng((seed, draw)))

    for items, pixels in iter_batches(sampled(), augmented, batch_size):
        texts = [sources[source].texts[row] for source, row, _ in items]
        chosen = [words[draw % len(words)] for words, (_, _, draw) in zip(texts, items, strict=True)]
        groups = np.array([sources[source].groups[row] for source, row, _ in items])
        yield {"images": pixels.astype("float32"), "tokens": model.tokenizer(chosen)}, groups


def _group_indices(groups: np.ndarray) -> dict[int, np.ndarray]:
    """Returns the positions of the members of each group, in order."""
    order = np.argsort(groups, kind="stable")
    names, starts = np.unique(groups[order], return_index=True)
    return dict(zip(names.tolist(), np.split(order, starts[1:]), strict=True))


def _sample_batch(
    pairs: ImageTextDataset,
    near: NearestGroups | None,
    members: dict[int, np.ndarray],
    count: int,
    hard_negative_ratio: float,
    rng: np.random.Generator,
) -> list[int]:
    """Returns rows of one batch: families of near groups, then others."""
    rows: list[int] = []
    while near and len(rows) < round(hard_negative_ratio * count):
        first = int(pairs.groups[rng.integers(len(pairs))])
        others = rng.permutation(near(first))[: CLUSTER_SIZE - 1]
        rows += [int(rng.choice(members[group])) for group in (first, *others.tolist())]
    rows = rows[: round(hard_negative_ratio * count)]
    return rows + rng.integers(0, len(pairs), count - len(rows)).tolist()
