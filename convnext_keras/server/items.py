"""The many forms in which clients send texts and pictures, as one of two: `Text` or `Image`."""

import base64
import binascii
import re
from typing import Any, NamedTuple

from convnext_keras.server.errors import invalid
from convnext_keras.server.limits import Limits

DATA_URI = re.compile(r"data:[^,]*;base64\s*,", re.IGNORECASE)
URL = re.compile(r"https?://", re.IGNORECASE)
# Keys of an object that hold a picture, in the forms of OpenAI, Jina, SGLang and Voyage.
IMAGE_KEYS = ("image_url", "image", "image_base64", "input_image")


class Text(NamedTuple):
    """Words."""

    text: str


class Image(NamedTuple):
    """A picture: its bytes, or the address that they are to be fetched from."""

    content: bytes | None
    url: str | None = None


def item(value: Any, param: str, limits: Limits, is_image: bool = False) -> Text | Image:
    """What an item of a request stands for.

    Args:
        value: a string, or an object of any known form. A string is a text, even if it looks like an address, unless it
            is a data URI.
        param: its path in the request.
        limits: of sizes.
        is_image: whether the field's name says that strings are pictures.

    Raises:
        ApiError: if it is none of these.
    """
    if isinstance(value, str):
        if is_image or DATA_URI.match(value):
            return image(value, param, limits)
        return text(value, param, limits)
    if isinstance(value, int | float) or (isinstance(value, list) and value and isinstance(value[0], int)):
        raise invalid(
            "token_input_unsupported",
            f"{param}: token ids are not accepted, since those of other models mean nothing here. Send strings; in "
            "LangChain, set check_embedding_ctx_length=False.",
            param,
        )
    if not isinstance(value, dict):
        raise invalid("invalid_value", f"{param}: must be a string or an object.", param)
    if isinstance(value.get("content"), list):
        if len(value["content"]) != 1:
            message = f"{param}: must have exactly one part; CLIP has no vector for a text and a picture together."
            raise invalid("interleaved_input_unsupported", message, param)
        return item(value["content"][0], f"{param}.content.0", limits, is_image)
    for key in IMAGE_KEYS:
        if key in value:
            inner = value[key]
            return image(inner.get("url") if isinstance(inner, dict) else inner, f"{param}.{key}", limits)
    if "text" in value:
        return text(value["text"], f"{param}.text", limits)
    raise invalid("invalid_value", f"{param}: must have 'text' or 'image_url'.", param)


def text(value: Any, param: str, limits: Limits) -> Text:
    """A text that is a string, neither empty nor too long."""
    if not isinstance(value, str):
        raise invalid("invalid_value", f"{param}: must be a string.", param)
    if not value.strip():
        raise invalid("invalid_value", f"{param}: must not be empty.", param)
    if len(value) > limits.max_text_characters:
        message = f"{param}: has {len(value)} characters; the limit is {limits.max_text_characters}."
        raise invalid("context_length_exceeded", message, param)
    return Text(value)


def image(value: Any, param: str, limits: Limits) -> Image:
    """A picture from an address, a data URI or bare base64."""
    if not isinstance(value, str) or not value.strip():
        raise invalid("invalid_value", f"{param}: must be an address, a data URI or base64.", param)
    if URL.match(value):
        return Image(None, value)
    start = DATA_URI.match(value)
    if value[:5].lower() == "data:" and not start:
        raise invalid("invalid_base64", f"{param}: a data URI must say ';base64,'.", param)
    return Image(decoded_base64(value[start.end() :] if start else value, param, limits))


def decoded_base64(value: str, param: str, limits: Limits) -> bytes:
    """The bytes of base64 of either alphabet, with or without blanks and padding; anything else is refused."""
    if len(value) > 2 * limits.max_image_bytes:
        raise too_large(param, limits)
    plain = "".join(value.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        content = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("invalid_base64", f"{param}: is not base64.", param) from error
    if len(content) > limits.max_image_bytes:
        raise too_large(param, limits)
    if not content:
        raise invalid("invalid_image", f"{param}: is empty.", param)
    return content


def too_large(param: str, limits: Limits):
    """The error of a picture of too many bytes."""
    return invalid("image_too_large", f"{param}: has more than {limits.max_image_bytes} bytes.", param)
