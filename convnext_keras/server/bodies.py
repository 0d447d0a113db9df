"""Bodies of requests and errors, as the description of the routes shows them; `items` tells what an item may be."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

PICTURE = {"type": "image_url", "image_url": {"url": "https://img.example/kayak.jpg"}}
Item = Annotated[Any, Field(description="A text, or an object with a text or a picture.")]
Picture = Annotated[Any, Field(description="An address, a data URI or base64, or an object with one of them.")]
Words = str | list[str]


def example(**body: Any) -> ConfigDict:
    """What the description of a route shows as a body."""
    return ConfigDict(extra="ignore", json_schema_extra={"examples": [body]})


class Body(BaseModel):
    """What all have in common."""

    model: str | None = None
    truncate: Literal["end", "none"] = "end"


class Embeddings(Body):
    """`POST /v1/embeddings`."""

    model_config = example(input=["a red kayak", PICTURE], encoding_format="float")
    input: Any
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    normalize: Literal[True] = True
    modality: Literal["text", "image"] | None = None
    user: str | None = None


class Similarity(Body):
    """`POST /v1/similarity`."""

    model_config = example(image="https://img.example/harbour.jpg", texts=["a harbour at dusk", "a bowl of ramen"])
    image: Picture = None
    images: list[Picture] | None = None
    texts: Words


class Classify(Body):
    """`POST /v1/classify`."""

    model_config = example(input=[PICTURE], labels=["kayak", "canoe"], templates=["a photo of a {}."], top_k=2)
    input: list[Item] | Item
    labels: list[str]
    templates: Words = "a photo of a {}."
    top_k: Annotated[int, Field(ge=1)] | None = None


class Rerank(Body):
    """`POST /v1/rerank`."""

    model_config = example(query="sunset over water", documents=[PICTURE, "a harbour"], top_n=1)
    query: Item
    documents: list[Item]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False


class Score(Body):
    """`POST /v1/score`."""

    model_config = example(queries="a red kayak", documents=[PICTURE])
    queries: list[Item] | Item
    documents: list[Item] | Item


class HuggingFaceZeroShot(BaseModel):
    """`POST /hf/zero-shot-image-classification`."""

    model_config = example(inputs="iVBOR...", parameters={"candidate_labels": ["kayak", "canoe"]})
    inputs: Any
    parameters: dict[str, Any]


class Search(Body):
    """`POST /v1/indexes/{name}/search`."""

    model_config = example(query="red boats", top_k=3)
    query: Item
    top_k: Annotated[int, Field(ge=1, le=1000)] = 10


class ErrorObject(BaseModel):
    """What went wrong: for people, and for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every answer that is not of status 200."""

    error: ErrorObject
