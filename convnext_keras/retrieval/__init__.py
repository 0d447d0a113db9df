"""Image indexes: search by text, by image, or by vector; in memory, or in LanceDB."""

from convnext_keras.retrieval.factory import open_index
from convnext_keras.retrieval.index import ImageIndex, SearchResult
from convnext_keras.retrieval.lance_index import LanceIndex
from convnext_keras.retrieval.memory_index import InMemoryIndex
from convnext_keras.retrieval.vector_types import quantize

__all__ = ["ImageIndex", "InMemoryIndex", "LanceIndex", "SearchResult", "open_index", "quantize"]
