"""The request forms of other vendors, by their own stock clients, give the library's vectors and clear errors."""

import base64
import json
import subprocess
import sys

import cohere
import numpy as np
import openai
import pytest
import voyageai.client
import voyageai.error
from PIL import Image
from serving import KEY, MODEL, SAME, data_uri, png, post
from voyageai.api_resources import api_requestor
from waiting import TIMEOUT

from convnext_keras.retrieval.vector_types import VECTOR_TYPES, quantize

pytestmark = [pytest.mark.any_backend, pytest.mark.integration]
TEXTS = ["a red circle", "three blue stars"]
KINDS = [kind for kind in VECTOR_TYPES if kind not in ("float32", "float16")]


@pytest.fixture(scope="module")
def uris(images):
    return [data_uri(png(pixels)) for pixels in images[0][:2]]


@pytest.fixture(scope="module")
def expected(model, images):
    return {"texts": model.encode_text(TEXTS), "images": model.encode_image(images[0][:2])}


@pytest.fixture
def cohere_client(address):
    with cohere.ClientV2(api_key=KEY, base_url=address) as client:
        yield client


@pytest.fixture
def voyage_client(address):
    yield voyageai.client.Client(api_key=KEY, base_url=f"{address}/v1", max_retries=0)
    api_requestor._thread_context.session.close()


def nearly(found, vectors, kind):
    """Compares vectors with those of the library; rounding may differ by one."""
    wanted = quantize(vectors, kind).astype(int)
    if kind in ("int8", "uint8"):
        return np.abs(np.asarray(found) - wanted).max() <= 1
    return np.array_equal(found, wanted)


@pytest.mark.parametrize("content", ["text", "part", "image"])
def test_openai_client_with_messages_of_vllm(content, client, uris, expected):
    parts = {
        "text": TEXTS[0],
        "part": [{"type": "text", "text": TEXTS[0]}],
        "image": [{"type": "image_url", "image_url": {"url": uris[0]}}],
    }
    body = {"messages": [{"role": "user", "content": parts[content]}], "model": MODEL, "encoding_format": "float"}
    body |= {"continue_final_message": False, "add_special_tokens": False}
    found = client.post("/embeddings", cast_to=openai.types.CreateEmbeddingResponse, body=body)
    vectors = expected["images" if content == "image" else "texts"]
    np.testing.assert_allclose([row.embedding for row in found.data], vectors[:1], atol=SAME)


@pytest.mark.parametrize("kind", [*KINDS, "float", "base64"])
def test_openai_client_with_items_of_jina(kind, client, uris, expected):
    items = [{"text": TEXTS[0]}, {"image": uris[0]}, {"image": uris[1].split(",")[1]}, TEXTS[1]]
    extra = {"embedding_type": kind, "normalized": True, "task": "text-matching"}
    found = client.embeddings.create(model=MODEL, input=items, encoding_format="float", extra_body=extra)
    rows = [row.embedding for row in found.data]
    vectors = np.stack([expected["texts"][0], *expected["images"], expected["texts"][1]])
    if kind == "base64":
        rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
    if kind in KINDS:
        assert nearly(rows, vectors, kind)
    else:
        np.testing.assert_allclose(rows, vectors, atol=SAME)


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_voyage_client(kind, voyage_client, model, images, expected):
    pictures = [Image.fromarray(pixels) for pixels in images[0][:2]]
    found = voyage_client.multimodal_embed([[TEXTS[0]], [pictures[0]], [pictures[1]]], MODEL, output_dtype=kind)
    vectors = np.stack([expected["texts"][0], *expected["images"]])
    texts = voyage_client.embed(TEXTS, MODEL, input_type="query", output_dtype=kind)
    if kind:
        assert nearly(found.embeddings, vectors, kind)
        assert nearly(texts.embeddings, expected["texts"], kind)
    else:
        np.testing.assert_allclose(found.embeddings, vectors, atol=SAME)
        np.testing.assert_allclose(texts.embeddings, expected["texts"], atol=SAME)
    assert found.text_tokens == model.tokenizer.count_tokens(TEXTS[0])
    assert found.image_pixels == 2 * 64 * 64


def test_cohere_client(cohere_client, uris, expected):
    options = {"model": MODEL, "embedding_types": ["float", "base64", *KINDS]}
    parts = [{"content": [{"type": "image_url", "image_url": {"url": uri}}]} for uri in uris]
    answers = {
        "texts": cohere_client.embed(texts=TEXTS, input_type="search_query", **options),
        "images": cohere_client.embed(images=uris, input_type="image", **options),
        "inputs": cohere_client.embed(inputs=parts, input_type="search_document", **options),
    }
    for name, answer in answers.items():
        vectors = expected["texts" if name == "texts" else "images"]
        np.testing.assert_allclose(answer.embeddings.float_, vectors, atol=SAME)
        packed = [np.frombuffer(base64.b64decode(row), "<f4") for row in answer.embeddings.base64]
        np.testing.assert_allclose(packed, vectors, atol=SAME)
        for kind in KINDS:
            assert nearly(getattr(answer.embeddings, kind), vectors, kind)
        assert answer.meta.billed_units.images == (0 if name == "texts" else 2)
    assert answers["texts"].texts == TEXTS


# In a process of its own: litellm warns while it is imported, and leaves its connections open.
LITELLM = """
import json, sys, litellm
request = json.load(sys.stdin)
found = {}
for provider, items in request.pop("items").items():
    answer = litellm.embedding(model=f"{provider}/{request['model']}", input=items, num_retries=0,
                               api_base=request["api_base"], api_key=request["api_key"])
    found[provider] = [row["embedding"] for row in answer.data]
print(json.dumps(found))
"""


def test_litellm_client(address, uris, expected):
    items = {"openai": TEXTS, "hosted_vllm": TEXTS, "jina_ai": [*TEXTS, *uris]}
    request = {"items": items, "model": MODEL, "api_base": f"{address}/v1", "api_key": KEY}
    done = subprocess.run(
        [sys.executable, "-c", LITELLM], input=json.dumps(request), capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    vectors = np.concatenate([expected["texts"], expected["images"]])
    for provider, rows in found.items():
        np.testing.assert_allclose(rows, vectors[: len(items[provider])], atol=SAME, err_msg=provider)


def test_clients_raise_their_own_errors(client, cohere_client, voyage_client, address):
    with pytest.raises(openai.BadRequestError, match="embedding_type"):
        client.embeddings.create(model=MODEL, input="a", extra_body={"embedding_type": "hex"})
    with pytest.raises(cohere.BadRequestError) as unknown:
        cohere_client.embed(model=MODEL, texts=["a"], input_type="search_query", max_tokens=5)
    assert "max_tokens" in unknown.value.body["message"]
    with pytest.raises(cohere.NotFoundError):
        cohere_client.embed(model="embed-v4.0", texts=["a"], input_type="search_query")
    with pytest.raises(voyageai.error.InvalidRequestError, match=r"inputs\.0.*exactly one part"):
        voyage_client.multimodal_embed([["a", "b"]], MODEL)
    with pytest.raises(voyageai.error.AuthenticationError):
        voyageai.client.Client(api_key="wrong", base_url=f"{address}/v1", max_retries=0).multimodal_embed(
            [["a"]], MODEL
        )


UNKNOWN = {
    "OpenAI": ("/v1/embeddings", {"input": "a", "late": 1}, "late"),
    "a part": ("/v1/embeddings", {"input": [{"text": "a", "video": "b"}]}, "input.0.video"),
    "an image": ("/v1/embeddings", {"input": [{"image_url": {"url": "x", "size": 3}}]}, "input.0.image_url.size"),
    "vLLM": ("/v1/embeddings", {"messages": [{"role": "user", "content": "a", "tools": 1}]}, "messages.0.tools"),
    "a template": ("/v1/embeddings", {"messages": [], "chat_template": "{}"}, "chat_template"),
    "Voyage": ("/v1/multimodalembeddings", {"inputs": [], "videos": []}, "videos"),
    "an input": ("/v1/multimodalembeddings", {"inputs": [{"content": [], "title": "x"}]}, "inputs.0.title"),
    "Cohere": ("/v2/embed", {"texts": ["a"], "input_type": "search_query", "max_tokens": 3}, "max_tokens"),
    "similarity": ("/v1/similarity", {"image": "x", "texts": "a", "scale": 1}, "scale"),
    "Hugging Face": (
        "/hf/zero-shot-image-classification",
        {"inputs": "x", "parameters": {"candidate_labels": ["a"], "multi_label": True}},
        "parameters.multi_label",
    ),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_no_field_is_dropped(case, address):
    path, body, param = UNKNOWN[case]
    answer = post(address, path, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "unknown_parameter", param)
    assert param in error["message"]


INVALID = {
    "both": ("/v1/embeddings", {"input": "a", "messages": []}, "input"),
    "a conversation": ("/v1/embeddings", {"messages": [{"role": "user", "content": "a"}] * 2}, "messages"),
    "a system": ("/v1/embeddings", {"messages": [{"role": "system", "content": "a"}]}, "messages"),
    "text and image": ("/v1/embeddings", {"input": [{"text": "a", "image": "b"}]}, "input.0"),
    "not normalized": ("/v1/embeddings", {"input": "a", "normalized": False}, "normalized"),
    "other task": ("/v1/embeddings", {"input": "a", "task": "nl2code.query"}, "task"),
    "too long in Jina's form": ("/v1/embeddings", {"input": "red " * 90, "truncate": False}, "input.0"),
    "too long in Voyage's": (
        "/v1/multimodalembeddings",
        {"inputs": [{"content": [{"type": "text", "text": "red " * 90}]}], "truncation": False},
        "inputs.0",
    ),
    "too long in Cohere's": ("/v2/embed", {"texts": ["red " * 90], "truncate": "NONE"}, "texts.0"),
    "Cohere's start": ("/v2/embed", {"texts": ["a"], "truncate": "START"}, "truncate"),
    "narrow": ("/v2/embed", {"texts": ["a"], "output_dimension": 8}, "output_dimension"),
    "nothing": ("/v2/embed", {"input_type": "image"}, "texts"),
    "two kinds": ("/v2/embed", {"texts": ["a"], "images": ["b"]}, "texts"),
    "no types": ("/v2/embed", {"texts": ["a"], "embedding_types": []}, "embedding_types"),
    "no list": ("/v1/multimodalembeddings", {"inputs": ["a"]}, "inputs.0"),
}


@pytest.mark.parametrize("case", INVALID)
def test_what_the_model_cannot_do_is_an_error(case, address):
    path, body, param = INVALID[case]
    answer = post(address, path, body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.json()
