"""The server, as its clients meet it: a real uvicorn process on loopback, with the bundled model."""

import asyncio
import base64
import concurrent.futures
import io
import os
import re
import signal
import struct
import threading
import zlib
from pathlib import Path

import httpx2 as httpx
import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient
from PIL import Image
from serving import KEY, MODEL, SAME, SMALL, asked, client_of, data_uri, get, png, post, running
from voyageai.api_resources import api_requestor
from waiting import TIMEOUT, wait_until

from convnext_keras import clip, retrieval
from convnext_keras.server import create_app

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.any_backend, pytest.mark.integration]


def test_stock_client_embeds_texts_and_images(client, model, images):
    texts = ["a red circle", "three blue stars"]
    found = client.embeddings.create(model=MODEL, input=texts)
    np.testing.assert_allclose([row.embedding for row in found.data], model.encode_text(texts), atol=SAME)
    assert [row.index for row in found.data] == [0, 1]
    assert found.usage.prompt_tokens == sum(model.tokenizer.count_tokens(text) for text in texts)
    parts = [{"type": "image_url", "image_url": {"url": data_uri(png(pixels))}} for pixels in images[0][:3]]
    mixed = client.embeddings.create(model=MODEL, input=[parts[0], texts[0], parts[1], parts[2]])
    expected = model.encode_image(images[0][:3])
    expected = np.stack([expected[0], model.encode_text(texts[0])[0], expected[1], expected[2]])
    np.testing.assert_allclose([row.embedding for row in mixed.data], expected, atol=SAME)
    assert mixed.usage.num_images == 3
    floats = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    packed = client.embeddings.create(model=MODEL, input=texts, encoding_format="base64")
    for plain, coded in zip(floats.data, packed.data, strict=True):
        assert np.frombuffer(base64.b64decode(coded.embedding), "<f4").tolist() == pytest.approx(plain.embedding, abs=0)


def test_stock_client_async(address, model):
    async def embed():
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key=KEY) as client:
            texts = [f"{count} red stars" for count in range(40)]
            answers = await asyncio.gather(*(client.embeddings.create(model=MODEL, input=text) for text in texts))
            return texts, [answer.data[0].embedding for answer in answers]

    texts, vectors = asyncio.run(embed())
    np.testing.assert_allclose(vectors, model.encode_text(texts), atol=SAME)


def test_stock_client_models_and_errors(client, address):
    (listed,) = client.models.list().data
    assert listed.id == MODEL
    assert client.models.retrieve(MODEL).dimensions == 96
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client.models.retrieve("org/other:tag")
    with pytest.raises(openai.NotFoundError) as other:
        client.embeddings.create(model="other", input="a")
    assert (other.value.code, other.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as empty:
        client.embeddings.create(model=MODEL, input="")
    assert (empty.value.code, empty.value.param) == ("invalid_value", "input.0")
    with pytest.raises(openai.AuthenticationError) as wrong:
        openai.OpenAI(base_url=f"{address}/v1", api_key="wrong").models.list()
    assert wrong.value.code == "invalid_api_key"
    assert wrong.value.request_id.startswith("req_")


def test_hugging_face_client(address, model, images):
    client = InferenceClient(model=f"{address}/hf/zero-shot-image-classification", token=KEY)
    labels = ["a red circle", "a blue star", "a green square"]
    found = client.zero_shot_image_classification(png(images[0][0]), candidate_labels=labels)
    classifier = clip.ZeroShotClassifier(model, labels)
    expected = classifier.predict(images[0][0], top_k=3)[0]
    assert [row.label for row in found] == [row.label for row in expected]
    np.testing.assert_allclose([row.score for row in found], [row.probability for row in expected], atol=1e-4)


def test_similarity(address, model, images):
    texts = ["a red circle", "a blue star", "a green square"]
    encoded = [data_uri(png(pixels)) for pixels in images[0][:2]]
    found = post(address, "/v1/similarity", {"model": MODEL, "images": encoded, "texts": texts}).json()
    expected = model.similarity(images[0][:2], texts)
    np.testing.assert_allclose([row["scores"] for row in found["data"]], expected.cosine, atol=SAME)
    np.testing.assert_allclose([row["probs"] for row in found["data"]], expected.probs, atol=1e-4)
    assert found["logit_scale"] == pytest.approx(model.logit_scale)


def test_classify(address, model, images):
    labels, templates = ["red", "green", "blue"], ["a {} shape", "something {}"]
    body = {"input": [{"image": data_uri(png(images[0][0]))}], "labels": labels, "templates": templates, "top_k": 2}
    first, again = (post(address, "/v1/classify", body).json() for _ in range(2))
    expected = clip.ZeroShotClassifier(model, labels, templates).predict(images[0][0], top_k=2)[0]
    for row in (first["data"][0], again["data"][0]):
        assert [entry["label"] for entry in row["predictions"]] == [entry.label for entry in expected]
        assert row["score"] == pytest.approx(expected[0].probability, abs=1e-4)
    assert again["usage"]["prompt_tokens"] == 0 < first["usage"]["prompt_tokens"]


def test_rerank_score_and_search(address, model, images):
    documents = [{"image": data_uri(png(pixels))} for pixels in images[0][:5]]
    query = images[1][3]
    cosines = model.encode_image(images[0][:5]) @ model.encode_text(query)[0]
    found = post(address, "/v1/rerank", {"query": query, "documents": documents, "top_n": 3}).json()["results"]
    assert [row["index"] for row in found] == np.argsort(-cosines)[:3].tolist()
    scores = post(address, "/v1/score", {"queries": query, "documents": documents}).json()["data"]
    np.testing.assert_allclose([row["score"] for row in scores], cosines, atol=SAME)
    hits = post(address, "/v1/indexes/shapes/search", {"query": query, "top_k": 2}).json()["data"]
    assert hits[0]["id"] == "03.png"
    image = get(f"{address}/v1/indexes/shapes/images/{hits[0]['index']}", headers={"authorization": f"Bearer {KEY}"})
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(image.content))), images[0][3])


def bomb(width, height):
    """A PNG of one bit a pixel, all alike."""

    def chunk(kind, content):
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    rows = zlib.compress(b"\0" * ((width // 8 + 1) * height), 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def image(content):
    return {"input": [{"image": base64.b64encode(content).decode()}]}


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), "uint8")
TIFF = io.BytesIO()
Image.new("RGB", (8, 8)).save(TIFF, "TIFF")
ERRORS = {
    "no input": ({}, 400, "missing_required_parameter", "input"),
    "empty list": ({"input": []}, 400, "invalid_value", "input"),
    "empty text": ({"input": ["a", " "]}, 400, "invalid_value", "input.1"),
    "a number": ({"input": [3]}, 400, "token_input_unsupported", "input.0"),
    "token ids": ({"input": [[320, 1125]]}, 400, "token_input_unsupported", "input.0"),
    "an empty object": ({"input": [{}]}, 400, "invalid_value", "input.0"),
    "null": ({"input": [None]}, 400, "invalid_value", "input.0"),
    "two parts": (
        {"input": [{"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
        400, "interleaved_input_unsupported", "input.0",
    ),
    "other width": ({"input": "a", "dimensions": 5}, 400, "dimensions_unsupported", "dimensions"),
    "other format": ({"input": "a", "encoding_format": "hex"}, 400, "invalid_value", "encoding_format"),
    "long text": ({"input": "red " * 60, "truncate": "none"}, 400, "context_length_exceeded", "input.0"),
    "very long text": ({"input": "red " * 5000}, 400, "context_length_exceeded", "input.0"),
    "too many": ({"input": ["a"] * 2049}, 400, "too_many_inputs", "input"),
    "too many images": ({"input": [{"image": "aGVsbG8="}] * 65}, 400, "too_many_inputs", "input"),
    "no base64": ({"input": [{"image": "not base64!"}]}, 400, "invalid_base64", "input.0.image"),
    "no image": (image(b"hello, world"), 400, "unsupported_image_format", "input.0"),
    "TIFF": (image(TIFF.getvalue()), 400, "unsupported_image_format", "input.0"),
    "bomb": (image(bomb(12_000, 12_000)), 400, "image_too_large", "input.0"),
    "larger bomb": (image(bomb(20_000, 20_000)), 400, "image_too_large", "input.0"),
    "cut PNG": (image(png(NOISE)[:2000]), 400, "invalid_image", "input.0"),
    "loopback": ({"input": [{"image": "http://127.0.0.1:9/a.png"}]}, 400, "image_fetch_failed", "input.0"),
    "metadata": ({"input": [{"image": "http://169.254.169.254/"}]}, 400, "image_fetch_failed", "input.0"),
    "file": ({"input": [{"image_url": "file:///etc/passwd"}]}, 400, "invalid_base64", "input.0.image_url"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_invalid_requests_get_openai_errors(case, address):
    body, status, code, param = ERRORS[case]
    answer = post(address, "/v1/embeddings", body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param), error
    assert set(error) == {"message", "type", "param", "code"}
    assert post(address, "/v1/embeddings", {"input": "the next request"}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/classify", {"input": ["a"], "labels": []}, "labels"),
        ("/v1/classify", {"input": ["a"], "labels": ["x"], "templates": ["no place"]}, "templates.0"),
        ("/v1/classify", {"input": ["a"], "labels": ["x"], "templates": ["{} {}"]}, "templates.0"),
        ("/v1/classify", {"input": ["a"], "labels": ["x"] * 1025}, "labels"),
        ("/v1/similarity", {"texts": ["a"]}, "image"),
        ("/v1/similarity", {"image": "aGVsbG8=", "texts": []}, "texts"),
        ("/v1/score", {"queries": ["a", "b"], "documents": ["a", "b", "c"]}, "queries"),
        ("/v1/rerank", {"query": "a", "documents": []}, "documents"),
        ("/v1/classify", {"input": ["a"], "labels": ["red " * 60], "truncate": "none"}, "labels.0"),
        (
            "/v1/classify",
            {"input": ["a"], "labels": ["x", "y"], "templates": ["{}", "red " * 60 + "{}"], "truncate": "none"},
            "labels.0",
        ),
        ("/hf/zero-shot-image-classification", {"inputs": "aGVsbG8=", "parameters": {}}, "parameters.candidate_labels"),
    ],
)
def test_other_routes_return_errors(path, body, param, address):
    error = post(address, path, body).json()["error"]
    assert error["param"] == param


def test_format_strings_are_only_text(address):
    body = {"input": ["a"], "labels": ["{0.__class__}", "b"], "templates": ["{}"]}
    assert post(address, "/v1/classify", body).json()["data"][0]["prediction"] in ("{0.__class__}", "b")


@pytest.mark.parametrize("body", [b"", b"{", b"[1, 2", b"\xff\xfe", b'"text"', b"null", b"[" * 100_000])
def test_bodies_that_are_no_json(body, address):
    answer = post(address, "/v1/embeddings", body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


ROUTES = {
    *("/health", "/health/ready", "/metrics", "/v1/models", "/v1/models/{model}", "/v1/embeddings", "/v1/similarity"),
    *("/v1/multimodalembeddings", "/v2/embed"),
    *("/v1/classify", "/v1/segment", "/v1/rerank", "/v1/score", "/hf/zero-shot-image-classification"),
    *("/v1/indexes/{name}/search", "/v1/indexes/{name}/images/{index}"),
}


def test_description_of_the_routes_has_examples(address):
    described = get(address + "/openapi.json").json()
    assert set(described["paths"]) == ROUTES
    for path, methods in described["paths"].items():
        for method, route in methods.items():
            assert route["description"], path
            if method == "post":
                name = route["requestBody"]["content"]["application/json"]["schema"]["$ref"].split("/")[-1]
                assert described["components"]["schemas"][name]["examples"], path
                assert route["responses"]["400"]["content"]["application/json"]["schema"]["$ref"].endswith("ErrorBody")


def test_every_route_but_the_open_ones_needs_a_key(address):
    for path, methods in get(address + "/openapi.json").json()["paths"].items():
        for method in methods:
            status = httpx.request(method, address + path.replace("{number}", "0"), timeout=TIMEOUT).status_code
            assert status == (200 if path in ("/health", "/health/ready") else 401), path
    assert get(address + "/").status_code == 200
    assert get(address + "/v1/nothing").status_code == 401
    assert post(address, "/v1/nothing", {}).json()["error"]["code"] == "not_found"
    assert get(address + "/metrics", headers={"authorization": f"bearer {KEY}"}).status_code == 200
    assert get(address + "/metrics", headers={"authorization": "Bearer \u00fc".encode()}).status_code == 401


def test_metrics_contain_no_content(address):
    post(address, "/v1/embeddings", {"input": "a very secret text"})
    told = get(address + "/metrics", headers={"authorization": f"Bearer {KEY}"}).text
    for name in ("requests_total", "batch_size", "batch_wait_seconds", "stage_seconds", "images_total", "memory_bytes"):
        assert name in told
    assert "secret" not in told
    assert KEY not in told


def test_health_is_answered_while_an_image_is_decoded(model):
    entered, release = threading.Event(), threading.Event()
    app = create_app(model, limits=SMALL)
    decoder = app.state.engine.decoder
    transform = decoder.transform

    def blocked(image):
        entered.set()
        assert release.wait(TIMEOUT)
        return transform(image)

    decoder.transform = type(
        "Blocked", (), {"resize_size_for": transform.resize_size_for, "__call__": staticmethod(blocked)}
    )()

    async def requests():
        async with client_of(app) as client:
            body = {"input": [{"image": data_uri(png(np.zeros((64, 64, 3), "uint8")))}]}
            answer = asyncio.create_task(client.post("/v1/embeddings", json=body))
            assert await asyncio.to_thread(entered.wait, TIMEOUT)
            healths = [await client.get(path) for path in ("/health", "/health/ready")]
            release.set()
            return [*healths, await answer]

    assert [answer.status_code for answer in asyncio.run(requests())] == [200, 200, 200]


def test_sigterm_loses_no_accepted_request(tmp_path, model, images):
    encoded = [data_uri(png(pixels)) for pixels in images[0][:64]]
    expected = model.encode_image(images[0][:64])
    with running(tmp_path / "log.txt") as (address, process), concurrent.futures.ThreadPoolExecutor(8) as pool:
        body = {"input": encoded, "modality": "image"}
        answers = [pool.submit(post, address, "/v1/embeddings", body) for _ in range(8)]
        key = {"authorization": f"Bearer {KEY}"}
        # All are accepted, and their images wait for the model.
        decoded = f'convnext_keras_images_total{{outcome="ok"}} {8 * len(encoded):.1f}'
        wait_until(lambda: decoded in get(address + "/metrics", headers=key).text)
        process.send_signal(signal.SIGTERM)
        for answer in (future.result() for future in answers):
            assert answer.status_code == 200
            vectors = [row["embedding"] for row in answer.json()["data"]]
            np.testing.assert_allclose(vectors, expected, atol=SAME)
        assert process.wait(TIMEOUT) == -signal.SIGTERM


def test_code_of_the_documentation(address, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "star.png").write_bytes(png(images[0][0]))
    blocks = re.findall(r"```py\n(.*?)```", (ROOT / "docs" / "guides" / "serving.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        if "langchain" not in block:  # which is not among the packages of the tests
            exec(block.replace("http://127.0.0.1:8000", address), {"KEY": KEY})
    api_requestor._thread_context.session.close()  # of Voyage's client, which leaves it open
    assert capsys.readouterr().out.count("a red star") == 3  # Two in the answer of /v1/classify, one of Hugging Face.


# Each within every limit of its own parts; the product is what costs.
PRODUCTS = {
    "long labels": ("/v1/classify", {"input": ["a"], "labels": ["x " * 4_999] * 1024, "templates": ["{}"]}),
    "long templates": (
        "/v1/classify",
        {"input": ["a"], "labels": ["x"] * 1024, "templates": ["red " * 2000 + "{}"] * 16},
    ),
    "many scores": ("/v1/classify", {"input": ["a"] * 2048, "labels": ["x"] * 1024, "templates": ["{}"]}),
    "long texts": ("/v1/embeddings", {"input": ["y " * 4_999] * 2048}),
    "many pairs": ("/v1/similarity", {"images": ["aGVsbG8="] * 64, "texts": ["z " * 450] * 2048}),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_request_products_are_limited(case, model):
    """Refused before any text is tokenised or any image decoded."""

    def fails(*arguments):
        raise AssertionError("work was begun")

    def breaks(engine):
        engine.vectors = engine.class_embeddings = engine._decoded = fails

    path, body = PRODUCTS[case]
    answer = asked(create_app(model, limits=SMALL), path, body, breaks)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_many_inputs")


def test_requests_at_the_limits_are_answered(address):
    labels = [f"label {number}" for number in range(256)]
    body = {"input": ["a"] * 1024, "labels": labels, "templates": ["{}"], "top_k": 1}
    assert len(post(address, "/v1/classify", body).json()["data"]) == 1024


def test_a_prompt_that_is_kept_is_still_refused_when_too_long(address):
    body = {"input": ["a"], "labels": ["blue " * 60, "b"], "templates": ["{}"]}
    assert post(address, "/v1/classify", body).status_code == 200
    error = post(address, "/v1/classify", {**body, "truncate": "none"}).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "labels.0")


def test_index_images_outside_the_root_are_rejected(model, tmp_path):
    """An index from elsewhere: its table names system files, links to outside, and files that are no images."""
    photos = tmp_path / "photos"
    photos.mkdir()
    (tmp_path / "secret.png").write_bytes(png(NOISE))
    (photos / "good.png").write_bytes(png(NOISE))
    (photos / "text.png").write_text("not an image")
    (photos / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(photos / "pipe.png")
    names = [photos / "good.png", "/etc/hostname", tmp_path / "secret.png", photos / "link.png", photos / "text.png"]
    names += [photos / "pipe.png", photos / "missing.png", photos]
    index = retrieval.InMemoryIndex(model)
    index.add([NOISE] * len(names), names=map(str, names))
    index.save(tmp_path / "elsewhere" / "index")
    indexes, key = {"photos": tmp_path / "elsewhere" / "index"}, "/v1/indexes/photos/images"
    for images, expected in ((None, [404] * 8), ({"photos": photos}, [200] + [404] * 7)):
        app = create_app(model, indexes=indexes, image_roots=images, limits=SMALL)
        answers = [asked(app, f"{key}/{number}", None, started=False) for number in range(len(names))]
        assert [answer.status_code for answer in answers] == expected
    good = asked(create_app(model, indexes=indexes, image_roots={"photos": photos}), f"{key}/0", None, started=False)
    assert good.content == png(NOISE)
    assert good.headers["content-type"] == "image/png"
    assert good.headers["x-content-type-options"] == "nosniff"
    assert asked(create_app(model, limits=SMALL), f"{key}/0", None, started=False).status_code == 404
