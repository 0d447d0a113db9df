"""Common interface of image-text dual encoders: embeddings of images and texts, and their similarities."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from convnext_keras.clip.tokenizer import Tokenizer
from convnext_keras.data.images import ImageSource
from convnext_keras.data.loader import OnError, iter_batches
from convnext_keras.data.transforms import ImageTransform
from convnext_keras.inference import softmax
from convnext_keras.pretrained_info import PretrainedInfo


class SimilarityScores(NamedTuple):
    """Similarities of images and texts, each `(images, texts)` in float32.

    Attributes:
        cosine: Cosine of the angle between embeddings, -1..1; 0.2 to 0.35 for what belongs together in LAION's models.
        logits: Cosines times the checkpoint's scale, at most 100, plus its bias if it has one.
        probs: Softmax of the logits over the texts: each row sums to 1, so it only compares the texts given.
    """

    cosine: np.ndarray
    logits: np.ndarray
    probs: np.ndarray


class DualEncoder:
    """Base class of models that encode images and texts to unit vectors of one space.

    `CLIP` is one in Keras, `export.ExportedCLIP` one in another runtime.

    Attributes:
        name: Name of the model.
        pretrained_info: Where the weights come from, None if they are random.
        streams: Batches of one tower that may run at a time.
    """

    name: Any
    pretrained_info: PretrainedInfo | None = None
    streams = 1

    @property
    def embed_dim(self) -> int:
        """Returns the dimension `D` of the embeddings."""
        raise NotImplementedError

    @property
    def tokenizer(self) -> Tokenizer:
        """Strings to token ids."""
        raise NotImplementedError

    @property
    def transform(self) -> ImageTransform:
        """Returns the evaluation transform: an image in, pixels out."""
        raise NotImplementedError

    @property
    def logit_scale(self) -> float:
        """Returns the factor from cosines to logits."""
        raise NotImplementedError

    @property
    def logit_bias(self) -> float:
        """Returns the bias that is added to logits."""
        raise NotImplementedError

    def encode_pixels(self, pixels: np.ndarray, batch_size: int) -> np.ndarray:
        """Returns unit vectors `(N, D)` of transformed images `(N, size, size, 3)`, at most `batch_size` of them."""
        raise NotImplementedError

    def encode_tokens(self, tokens: np.ndarray, batch_size: int) -> np.ndarray:
        """Returns unit vectors `(N, D)` of token ids `(N, L)`, at most `batch_size` of them."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Returns 64 hexadecimal digits that identify the weights; embeddings of other weights are not comparable."""
        raise NotImplementedError

    def encode_image(
        self, images: Any, batch_size: int = 32, on_error: str = "raise", exif_transpose: bool = False
    ) -> np.ndarray:
        """Embeddings of images.

        Args:
            images: A path, the bytes of a file, a PIL image, an array or a tensor of pixels, a batch `(N, H, W, 3)`, or
                any iterable of these, see `open_image`; read, resized and cropped in threads, a batch ahead of the
                model.
            batch_size: Maximum number of images at a time.
            on_error: `"raise"`, or `"skip"` to leave out images that cannot be read, with a warning that names each.
            exif_transpose: Whether to rotate images as their EXIF orientation says, which OpenCLIP does not.

        Returns:
            Unit vectors `(N, D)` float32, in the order given; `(0, D)` if there are none.

        Raises:
            ImageError: If an image cannot be read; the message names it.
        """
        batches = self.iter_image_embeddings(images, batch_size, on_error, exif_transpose=exif_transpose)
        parts = [vectors for _, vectors in batches]
        return np.concatenate([np.zeros((0, self.embed_dim), "float32"), *parts])

    def iter_image_embeddings(
        self,
        images: Any,
        batch_size: int = 32,
        on_error: str | OnError = "raise",
        image: Callable[[Any], ImageSource] = lambda item: item,
        exif_transpose: bool = False,
    ) -> Iterator[tuple[list, np.ndarray]]:
        """Yields the embeddings of `encode_image` batch by batch, with the memory of two batches.

        Args:
            images: See `encode_image`.
            batch_size: Maximum number of images at a time.
            on_error: See `encode_image`; or what is to be called with an item and the error.
            image: Takes an item of `images` and gives its image, for items that are more than an image.
            exif_transpose: See `encode_image`.

        Yields:
            The items of a batch as they were given, and their unit vectors `(N, D)`.
        """
        transform = self.transform._replace(exif_transpose=exif_transpose)
        for batch, pixels in iter_batches(images, lambda item: transform(image(item)), batch_size, on_error):
            yield batch, self.encode_pixels(pixels, batch_size)

    def encode_text(
        self, texts: str | Sequence[str] | np.ndarray, batch_size: int = 256, truncate: str = "warn"
    ) -> np.ndarray:
        """Embeddings of texts.

        Args:
            texts: One or several strings; or ids `(N, L)` that `tokenizer` made of them.
            batch_size: Maximum number of texts at a time.
            truncate: What to do with texts over the context length; see `Tokenizer`.

        Returns:
            Unit vectors `(N, D)` float32; `(0, D)` if there are none.
        """
        is_tokens = isinstance(texts, np.ndarray) and texts.ndim == 2 and np.issubdtype(texts.dtype, np.integer)
        words: Any = texts
        tokens: Any = texts if is_tokens else self.tokenizer(words, truncate=truncate)
        batches = (tokens[start : start + batch_size] for start in range(0, len(tokens), batch_size))
        parts = [self.encode_tokens(batch, batch_size) for batch in batches]
        return np.concatenate([np.zeros((0, self.embed_dim), "float32"), *parts])

    def similarity(self, images: Any, texts: str | Sequence[str]) -> SimilarityScores:
        """Compares each image with each text; see `encode_image` and `encode_text` for what they may be."""
        return self.scores(self.encode_image(images), self.encode_text(texts))

    def scores(self, images: np.ndarray, texts: np.ndarray) -> SimilarityScores:
        """Returns the similarities of unit vectors `(N, D)` and `(M, D)`."""
        cosine = images @ texts.T
        logits = (self.logit_scale * cosine + self.logit_bias).astype("float32")
        return SimilarityScores(cosine, logits, softmax(logits))
