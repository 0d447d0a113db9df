"""Opening an index of either kind, by its path."""

import os
from pathlib import Path

from convnext_keras.checkpoints import WeightsError
from convnext_keras.clip.constructors import create_model
from convnext_keras.clip.encoder import DualEncoder
from convnext_keras.retrieval.index import ImageIndex
from convnext_keras.retrieval.lance_index import LanceIndex, is_lance_path, read_lance_metadata
from convnext_keras.retrieval.memory_index import InMemoryIndex
from convnext_keras.retrieval.vector_files import read_vectors


def open_index(
    path: str | os.PathLike, model: DualEncoder | None = None, image_root: str | os.PathLike | None = None
) -> ImageIndex:
    """Opens a saved index: a `LanceIndex` if the path ends in `.lance`, an `InMemoryIndex` otherwise.

    Args:
        path: Directory of the index.
        model: The ConvNeXt-CLIP that computed its vectors. None loads the weight set that the index names.
        image_root: Directory that contains the indexed images; see `InMemoryIndex.get_image_path`.

    Returns:
        The index with its vectors.

    Raises:
        ValueError: If `image_root` does not exist, or LanceDB is not installed.
        WeightsError: If the index is missing or damaged, or another model computed its vectors.

    Example:
        >>> import numpy as np
        >>> from convnext_keras import clip, retrieval
        >>> index = retrieval.InMemoryIndex(clip.create_model("convnext_mini.shapes"))
        >>> index.add([np.zeros((64, 64, 3), "uint8")], names=["black"])
        1
        >>> index.save("images.index")
        >>> len(retrieval.open_index("images.index"))
        1
    """
    kind = LanceIndex if is_lance_path(path) else InMemoryIndex
    return kind.load(path, model or create_model(read_index_weights(path)), image_root)


def read_index_weights(path: str | os.PathLike) -> str:
    """Returns the name of the weight set that an index was built with.

    Raises:
        WeightsError: If there is no index, or its model had no published weights.
    """
    first = Path(path) / "0000.safetensors"
    if not is_lance_path(path) and not first.is_file():
        raise WeightsError(f"{path} holds no index. Create one with InMemoryIndex.save or 'convnext-keras index'.")
    weights = (read_lance_metadata(path) if is_lance_path(path) else read_vectors(first)[1]).get("weights", "")
    if not weights:
        raise WeightsError(
            f"{path} was built by a model without published weights. Pass the model: open_index(path, model)."
        )
    return weights
