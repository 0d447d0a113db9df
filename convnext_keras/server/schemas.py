"""Request bodies of the routes, and parsing of items to texts and images."""

import base64
import binascii
import re
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel, ConfigDict, Field

from convnext_keras.clip.zero_shot import DEFAULT_TEMPLATE
from convnext_keras.server.errors import ApiError, bad_request
from convnext_keras.server.limits import ServerLimits

# One white pixel, as PNG.
EXAMPLE_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"
EXAMPLE_IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{EXAMPLE_PIXEL}"}}
Item = Annotated[Any, Field(description="A text, or an object with a text or an image.")]
ImageReference = Annotated[Any, Field(description="An address, a data URI or base64, or an object with one of them.")]
StrOrList = str | list[str]


def request_example(**body: Any) -> ConfigDict:
    """Returns the configuration of a body: its example, and that a field which is not known is an error."""
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [body]})


class ModelRequest(BaseModel):
    """Field of all request bodies."""

    model: str | None = None


class BaseRequest(ModelRequest):
    """Fields of request bodies with texts."""

    truncate: Literal["end", "none"] = "end"


EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary"]
# What a vector is for. The model has one kind of vector for every purpose.
JinaTask = Literal[
    "retrieval.query", "retrieval.passage", "text-matching", "classification", "clustering", "separation"
]
VoyageInputType = Literal["query", "document"]
CohereInputType = Literal["search_document", "search_query", "classification", "clustering", "image"]


class Embeddings(ModelRequest):
    """`POST /v1/embeddings` in the forms of OpenAI, Infinity, vLLM (`messages`), Jina and Voyage.

    Attributes:
        input: Texts and images; or `messages`.
        messages: vLLM's form: one message of a user, whose content is a text, or one part with a text or an image.
        embedding_type: Jina's type of vectors.
        output_dtype: Voyage's type of vectors.
        encoding_format: How a vector is written; base64 is of its little-endian bytes.
        dimensions: The width of the model's vectors, which cannot be shortened; `output_dimension` is the same.
        task: What Jina's clients say that a vector is for, and Voyage's as `input_type`: it changes nothing, since the
            model has one kind of vector.
        user: OpenAI's, as `request_id` and `priority` of vLLM: it changes nothing.
    """

    model_config = request_example(input=["a red kayak", EXAMPLE_IMAGE], encoding_format="float")
    truncate: Literal["end", "none"] | bool = "end"  # a boolean in Jina's form
    input: Any = None
    messages: list[Any] | None = None
    encoding_format: Literal["float", "base64"] = "float"
    embedding_type: EmbeddingType | Literal["base64"] | None = None
    output_dtype: EmbeddingType | None = None
    dimensions: int | None = None
    output_dimension: int | None = None
    normalize: Literal[True] = True
    normalized: Literal[True] = True
    use_activation: Literal[True] | None = None
    late_chunking: Literal[False] = False
    modality: Literal["text", "image"] | None = None
    task: JinaTask | None = None
    input_type: VoyageInputType | None = None
    truncation: bool | None = None
    add_generation_prompt: Literal[False] = False
    continue_final_message: Literal[False] = False
    add_special_tokens: bool | None = None
    embed_dtype: Literal["float32"] = "float32"
    endianness: Literal["native", "little"] = "native"
    user: str | None = None
    request_id: str | None = None
    priority: Literal[0] | None = None


class MultimodalEmbeddings(BaseModel):
    """`POST /v1/multimodalembeddings`, Voyage's form.

    Attributes:
        inputs: Objects whose `content` has one part with a text or an image.
        input_type: What a vector is for; it changes nothing, since the model has one kind of vector.
        truncation: Whether texts that are too long are cut, or an error.
        output_encoding: `"base64"` for the vectors' bytes; `encoding_format` is the same.
        output_dtype: Type of vectors.
        output_dimension: The width of the model's vectors, which cannot be shortened.
    """

    model_config = request_example(
        inputs=[{"content": [{"type": "text", "text": "a red kayak"}]}, {"content": [EXAMPLE_IMAGE]}],
        model=None,
    )
    inputs: list[Any]
    model: str | None = None
    input_type: VoyageInputType | None = None
    truncation: bool = True
    output_encoding: Literal["base64"] | None = None
    encoding_format: Literal["base64"] | None = None
    output_dtype: EmbeddingType | None = None
    output_dimension: int | None = None


class CohereEmbed(BaseModel):
    """`POST /v2/embed`, Cohere's form: one of `texts`, `images` and `inputs`.

    Attributes:
        texts: Texts.
        images: Data URIs of images.
        inputs: Objects whose `content` has one part with a text or an image.
        input_type: What a vector is for; it changes nothing, since the model has one kind of vector.
        embedding_types: Types of vectors, each of which is in the answer.
        output_dimension: The width of the model's vectors, which cannot be shortened.
        truncate: Whether texts that are too long are cut at their end, or an error.
        priority: 0, since requests are answered in their order.
    """

    model_config = request_example(texts=["a red kayak"], input_type="search_query", embedding_types=["float", "int8"])
    model: str | None = None
    texts: list[str] | None = None
    images: list[str] | None = None
    inputs: list[Any] | None = None
    input_type: CohereInputType | None = None
    embedding_types: Annotated[list[EmbeddingType | Literal["base64"]], Field(min_length=1)] | None = None
    output_dimension: int | None = None
    truncate: Literal["NONE", "END"] = "END"
    priority: Literal[0] | None = None


class Similarity(BaseRequest):
    """`POST /v1/similarity`."""

    model_config = request_example(
        image=EXAMPLE_IMAGE["image_url"]["url"], texts=["a harbour at dusk", "a bowl of ramen"]
    )
    image: ImageReference = None
    images: list[ImageReference] | None = None
    texts: StrOrList


class Classify(BaseRequest):
    """`POST /v1/classify`."""

    model_config = request_example(
        input=[EXAMPLE_IMAGE], labels=["kayak", "canoe"], templates=[DEFAULT_TEMPLATE], top_k=2
    )
    input: list[Item] | Item
    labels: list[str] | None = None
    templates: StrOrList = DEFAULT_TEMPLATE
    top_k: Annotated[int, Field(ge=1)] | None = None


class Segment(BaseRequest):
    """`POST /v1/segment`."""

    model_config = request_example(image=EXAMPLE_IMAGE["image_url"]["url"], format="rle")
    image: ImageReference
    format: Literal["png", "rle"] = "png"
    overlay: bool = False


class Rerank(BaseRequest):
    """`POST /v1/rerank`."""

    model_config = request_example(query="sunset over water", documents=[EXAMPLE_IMAGE, "a harbour"], top_n=1)
    query: Item
    documents: list[Item]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False


class Score(BaseRequest):
    """`POST /v1/score`."""

    model_config = request_example(queries="a red kayak", documents=[EXAMPLE_IMAGE])
    queries: list[Item] | Item
    documents: list[Item] | Item


class HuggingFaceZeroShot(BaseModel):
    """`POST /hf/zero-shot-image-classification`."""

    model_config = request_example(inputs=EXAMPLE_PIXEL, parameters={"candidate_labels": ["kayak", "canoe"]})
    inputs: Any
    parameters: dict[str, Any]


class Search(BaseRequest):
    """`POST /v1/indexes/{name}/search`."""

    model_config = request_example(query="red boats", top_k=3)
    query: Item
    top_k: Annotated[int, Field(ge=1, le=1000)] = 10


class ErrorObject(BaseModel):
    """Error for people (message) and programs (code)."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Body of every response with another status than 200.

    The message is there once more as `message`, where Cohere's client reads it, and as `detail`, where Voyage's does.
    """

    error: ErrorObject
    message: str
    detail: str


# What a route may answer beside its own.
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 404, 413, 415, 421, 429, 500, 503)
}
# RFC 2397, with blanks where browsers allow them: media type, parameters, and whether the data are base64.
DATA_URI = re.compile(
    r"\s*data:\s*(?:[\w.+-]+/[\w.+-]+)?\s*(?:;\s*[\w.+-]+=[^;,\s]*\s*)*(?P<base64>;\s*base64\s*)?,", re.IGNORECASE
)
SURROGATE = re.compile("[\ud800-\udfff]")
URL = re.compile(r"https?://", re.IGNORECASE)
# Keys of an object that hold an image, in the forms of OpenAI, Jina, SGLang and Voyage.
IMAGE_KEYS = ("image_url", "image", "image_base64", "input_image", "url", "bytes")
ITEM_KEYS = ("content", *IMAGE_KEYS, "text")


class TextItem(NamedTuple):
    """Text to embed."""

    text: str


class ImageItem(NamedTuple):
    """Image to embed: its bytes, or the URL to fetch."""

    content: bytes | None
    url: str | None = None


def parse_item(value: Any, param: str, limits: ServerLimits, is_image: bool = False) -> TextItem | ImageItem:
    """Parses an item of a request to a text or an image.

    Args:
        value: A string, or an object of any known form. A string is a text, even if it looks like an address, unless it
            is a data URI.
        param: Its path in the request.
        limits: Limits of sizes.
        is_image: Whether the field's name says that strings are images.

    Raises:
        ApiError: If it is none of these.
    """
    if isinstance(value, str):
        if is_image or DATA_URI.match(value):
            return parse_image(value, param, limits)
        return parse_text(value, param, limits)
    if isinstance(value, int | float) or (isinstance(value, list) and value and isinstance(value[0], int)):
        raise bad_request(
            "token_input_unsupported",
            f"{param}: token ids are not accepted, since those of other models mean nothing here. Send strings; in "
            "LangChain, set check_embedding_ctx_length=False.",
            param,
        )
    if not isinstance(value, dict):
        raise bad_request("invalid_value", f"{param}: must be a string or an object.", param)
    check_keys(value, ("type", *ITEM_KEYS), param)
    (key, *others) = [key for key in ITEM_KEYS if key in value] or [""]
    content = value.get("content")
    if others or (key == "content" and isinstance(content, list) and len(content) != 1):
        message = f"{param}: must have exactly one part; CLIP has no vector for a text and an image together."
        raise bad_request("interleaved_input_unsupported", message, param)
    if key == "content" and isinstance(content, list):
        return parse_item(content[0], f"{param}.content.0", limits, is_image)
    if key in IMAGE_KEYS:
        inner = value[key]
        if isinstance(inner, dict):
            check_keys(inner, ("url", "detail"), f"{param}.{key}")  # one size of image, whatever detail is asked for
        return parse_image(inner.get("url") if isinstance(inner, dict) else inner, f"{param}.{key}", limits)
    if key == "text":
        return parse_text(value["text"], f"{param}.text", limits)
    raise bad_request("invalid_value", f"{param}: must have 'text' or 'image_url'.", param)


def check_keys(value: dict, known: tuple[str, ...], param: str) -> None:
    """Raises ApiError for the first key of an object that is not known, since nothing of a request is dropped."""
    if unknown := sorted(map(str, value.keys() - {*known})):
        path = f"{param}.{unknown[0]}"
        raise bad_request("unknown_parameter", f"{path}: is not known. Known are {', '.join(known)}.", path)


def parse_text(value: Any, param: str, limits: ServerLimits) -> TextItem:
    """Returns the text of a string that is neither empty nor too long."""
    if not isinstance(value, str):
        raise bad_request("invalid_value", f"{param}: must be a string.", param)
    if not value.strip():
        raise bad_request("invalid_value", f"{param}: must not be empty.", param)
    if len(value) > limits.max_text_characters:
        message = f"{param}: has {len(value)} characters; the limit is {limits.max_text_characters}."
        raise bad_request("context_length_exceeded", message, param)
    if SURROGATE.search(value):
        raise bad_request("invalid_value", f"{param}: has half of a surrogate pair, which is no text.", param)
    return TextItem(value)


def parse_image(value: Any, param: str, limits: ServerLimits) -> ImageItem:
    """Returns the image of an address, a data URI or bare base64."""
    if not isinstance(value, str) or not value.strip():
        raise bad_request("invalid_value", f"{param}: must be an address, a data URI or base64.", param)
    if URL.match(value.lstrip()):
        return ImageItem(None, value.strip())
    start = DATA_URI.match(value)
    if start and not start["base64"]:
        return ImageItem(unquote_to_bytes(value[start.end() :]))
    if not start and value.lstrip()[:5].lower() == "data:":
        raise bad_request("invalid_base64", f"{param}: a data URI must begin like 'data:image/png;base64,'.", param)
    return ImageItem(decode_base64(value[start.end() :] if start else value, param, limits))


def decode_base64(value: str, param: str, limits: ServerLimits) -> bytes:
    """Returns the bytes of base64 of either alphabet, with or without blanks and padding; anything else is refused."""
    if len(value) > 2 * limits.max_image_bytes:
        raise too_large_error(param, limits)
    plain = "".join(value.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        content = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_request("invalid_base64", f"{param}: is not base64.", param) from error
    if len(content) > limits.max_image_bytes:
        raise too_large_error(param, limits)
    if not content:
        raise bad_request("invalid_image", f"{param}: is empty.", param)
    return content


def too_large_error(param: str, limits: ServerLimits) -> ApiError:
    """Returns the error of an image of too many bytes."""
    return bad_request("image_too_large", f"{param}: has more than {limits.max_image_bytes} bytes.", param)
