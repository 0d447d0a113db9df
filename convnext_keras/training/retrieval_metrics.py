"""Retrieval metrics of a ConvNeXt-CLIP on image-text pairs."""

from typing import Any

import numpy as np

from convnext_keras.training.image_text import ImageTextDataset

RECALL_AT = (1, 5, 10)


def retrieval_ranks(queries: np.ndarray, rows: np.ndarray, groups: np.ndarray, block: int = 256) -> np.ndarray:
    """Returns the rank, from 1, of the best match of each query.

    Memory is proportional to `block` times the number of rows.

    Args:
        queries: Unit vectors `(N, D)`.
        rows: Unit vectors `(N, D)`, one per query.
        groups: Group of each pair `(N,)`; every row of the query's group is a match.
        block: Number of queries at a time.

    Example:
        >>> retrieval_ranks(np.eye(3), np.eye(3)[[1, 0, 2]], np.arange(3)).tolist()
        [2, 2, 1]
    """
    ranks = []
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        cosines = queries[part] @ rows.T
        matches = groups[part, None] == groups[None]
        best = np.where(matches, cosines, -np.inf).max(axis=1, keepdims=True)
        ranks.append(1 + ((cosines > best) & ~matches).sum(axis=1))
    return np.concatenate(ranks)


def retrieval_metrics(model: Any, pairs: ImageTextDataset) -> dict[str, float]:
    """Returns recall at 1, 5 and 10 in [0, 1] and the median rank, for images by text and texts by image.

    Args:
        model: A ConvNeXt-CLIP.
        pairs: Image-text pairs; the first text of each image is used, and pairs of one group match each other.

    Example:
        >>> from convnext_keras import clip, training
        >>> images = [np.full((64, 64, 3), color, "uint8") for color in ((255, 0, 0), (0, 0, 255))]
        >>> pairs = training.load_image_text_pairs((images, ["a red background", "a blue background"]))
        >>> retrieval_metrics(clip.create_model("convnext_mini.shapes"), pairs)["text_to_image_recall_at_1"]
        1.0
    """
    images = model.encode_image(pairs.images, exif_transpose=True)
    texts = model.encode_text([row[0] for row in pairs.texts])
    sides = {"image_to_text": (images, texts), "text_to_image": (texts, images)}
    metrics: dict[str, float] = {}
    for name, (queries, rows) in sides.items():
        ranks = retrieval_ranks(queries, rows, np.asarray(pairs.groups))
        metrics |= {f"{name}_recall_at_{count}": float(np.mean(ranks <= count)) for count in RECALL_AT}
        metrics[f"{name}_median_rank"] = float(np.median(ranks))
    return metrics
