"""Requests must not block the event loop or take quadratic time."""

import asyncio
import io
import json
import random
import re
import struct
import threading

import numpy as np
import pytest
from PIL import Image
from serving import SMALL, asked, client_of, data_uri, png
from waiting import TIMEOUT

from convnext_keras.clip.tokenizer import Tokenizer, merge_pairs
from convnext_keras.data.images import exif_bytes
from convnext_keras.server import create_app, image_decoding
from convnext_keras.server.errors import ApiError
from convnext_keras.server.image_decoding import Decoder, check_structure
from convnext_keras.server.limits import ServerLimits
from convnext_keras.server.schemas import ImageItem, TextItem, parse_item

pytestmark = pytest.mark.any_backend
SIZE = 20 * 2**20
ADVERSARIAL = {
    "JPEG of fill bytes": b"\xff\xd8" + b"\xff" * SIZE + b"\x00",
    "JPEG of stuffed bytes": b"\xff\xd8" + b"\xff\x00" * (SIZE // 2),
    "JPEG of restarts": b"\xff\xd8" + b"\xff\xd0" * (SIZE // 2),
    "JPEG of runs": b"\xff\xd8" + (b"\xff" * 999 + b"\x00") * (SIZE // 1000),
    "PNG of zeros": b"\x89PNG\r\n\x1a\n" + bytes(SIZE),
    "PNG of lengths": b"\x89PNG\r\n\x1a\n" + b"\xff" * SIZE,
    "WebP of zeros": b"RIFF\0\0\0\0WEBP" + bytes(SIZE),
    "GIF of extensions": b"GIF89a" + bytes(7) + b"!" * SIZE,
    "GIF of small blocks": b"GIF89a" + bytes(7) + b"!\xfe" + b"\x01x" * (SIZE // 2),
}


@pytest.mark.parametrize("case", ADVERSARIAL)
def test_structure_parsers_are_linear(case, monkeypatch, model):
    """Each byte is searched for markers once, and no more parts are read than the limit allows."""
    content, searched, read = ADVERSARIAL[case], [], []
    places = image_decoding.find_markers

    def counted(parts):
        return lambda content: (read.append(part) or part for part in parts(content))

    monkeypatch.setattr(image_decoding, "find_markers", lambda block: searched.append(len(block)) or places(block))
    monkeypatch.setattr(
        image_decoding,
        "STRUCTURE_PARSERS",
        {magic: counted(parts) for magic, parts in image_decoding.STRUCTURE_PARSERS.items()},
    )
    limits = ServerLimits()
    decoder = Decoder(model.transform, limits, threads=1)
    with pytest.raises(ApiError):
        decoder.open_header(content, "input.0")
    decoder.close()
    assert sum(searched) <= len(content) + len(searched)
    assert len(read) <= limits.max_image_parts + 1


def test_jpeg_markers_equal_the_specification():
    """Beside a search by an expression that says what a marker is, on random bytes and all positions of the blocks."""
    draw = np.random.default_rng(0)
    segments = [
        b"\xff" + bytes([draw.choice([0xDA, 0xE1, 0xDB, 0x01])]) + b"\0\x08" + draw.bytes(40) for _ in range(60_000)
    ]
    content, expected, position = b"\xff\xd8" + b"".join(segments), [], 2
    marker = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
    while (found := marker.search(content, position)) and len(expected) < 20_000:
        position = found.end()
        expected.append("scan" if content[position - 1] == 0xDA else "segment")
        if content[position - 1] == 0xD9:
            expected.pop()
            break
        position += max(2, int.from_bytes(content[position : position + 2], "big")) * (content[position - 1] != 0x01)
    assert [part.kind for part in image_decoding.jpeg_parts(content)][: len(expected)] == expected
    assert len(expected) > 30


def overlapping_exif(entries, size):
    head = b"II*\0" + struct.pack("<IH", 8, entries)
    rows = b"".join(struct.pack("<HHII", number + 1, 7, size - 8, 8) for number in range(entries))
    return (head + rows).ljust(size, b"x")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_data_that_overlap_are_refused(kind):
    exif = overlapping_exif(4000, 60_000)
    assert exif_bytes(exif) > 200e6
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, kind, exif=b"Exif\0\0" + exif)
    with pytest.raises(ApiError, match="EXIF data overlap"):
        check_structure(buffer.getvalue(), "input.0", ServerLimits())


def test_ten_thousand_mutated_images_give_answers_or_errors_of_the_server(model):
    draw = random.Random(0)
    seeds = []
    for kind in image_decoding.FORMATS:
        buffer = io.BytesIO()
        exif = {"exif": b"Exif\0\0" + overlapping_exif(2, 100)} if kind != "GIF" else {}
        Image.effect_noise((9, 7), 60).convert("RGB").save(buffer, kind, **exif)
        seeds.append(buffer.getvalue())
    decoder = Decoder(model.transform, ServerLimits(max_image_pixels=10_000), threads=1)
    codes = {}
    for number in range(10_000):
        content = bytearray(seeds[number % len(seeds)])
        for _ in range(draw.randint(1, 5)):
            place = draw.randrange(len(content))
            content[place : place + draw.randint(0, 3)] = draw.choice([b"", b"\xff", b"\xff\xff", bytes([place % 256])])
        try:
            decoder.transform(decoder.open_header(bytes(content), "input.0"))
            code = "ok"
        except (ApiError, ValueError) as error:
            code = getattr(error, "code", type(error).__name__)
        codes[code] = codes.get(code, 0) + 1
    decoder.close()
    assert {*codes} <= {"ok", "ImageError", "invalid_image", "unsupported_image_format", "image_too_large",
                        "image_too_complex"}  # fmt: skip
    assert codes["ok"] > 100


def test_merging_a_word_takes_n_log_n_steps():
    """Looks at ranks are counted for words of 1,000 and 100,000 letters."""

    class Counted(dict):
        looks = 0

        def get(self, key, default=None):
            self.looks += 1
            return super().get(key, default)

    ranks = Counted(Tokenizer().ranks)
    for length in (1_000, 100_000):
        ranks.looks = 0
        merge_pairs(["a", "b"] * (length // 2), ranks)
        assert ranks.looks < 10 * length


def test_control_characters_do_not_make_words_of_any_length_costly(model):
    text = "\x1c".join("ab" * 2_400)
    answer = asked(create_app(model, limits=SMALL), "/v1/embeddings", {"input": text})
    assert answer.status_code == 200


def test_health_is_answered_while_an_index_is_searched(model, index_folder):
    entered, release = threading.Event(), threading.Event()
    app = create_app(model, limits=SMALL, indexes={"shapes": index_folder})
    index = app.state.indexes["shapes"]
    search_by_vector = index.search_by_vector

    def blocked(*arguments):
        entered.set()
        assert release.wait(TIMEOUT)
        return search_by_vector(*arguments)

    index.search_by_vector = blocked

    async def requests():
        async with client_of(app) as client:
            answer = asyncio.create_task(client.post("/v1/indexes/shapes/search", json={"query": "a star"}))
            assert await asyncio.to_thread(entered.wait, TIMEOUT)
            health = await client.get("/health")
            release.set()
            return [health.status_code, (await answer).status_code]

    assert asyncio.run(requests()) == [200, 200]


def test_expired_requests_are_cancelled(model):
    """Tokenization of 2,048 texts stops after the deadline."""
    app = create_app(model, limits=SMALL._replace(answer_seconds=0.05, text_batch=64))
    engine = app.state.engine
    tokenizer, parts = model.tokenizer, []

    class Slow:
        end, context_length = tokenizer.end, tokenizer.context_length

        def __call__(self, texts, *arguments, **options):
            if len(texts) > 1 and isinstance(texts, list):
                parts.append(len(texts))
                threading.Event().wait(0.1)
            return tokenizer(texts, *arguments, **options)

    async def requests():
        async with client_of(app) as client:
            type(engine)._tokenizer = property(lambda self: Slow())
            late = await client.post("/v1/embeddings", json={"input": ["a b"] * 2048})
            return late

    original = type(engine)._tokenizer
    try:
        late = asyncio.run(requests())
    finally:
        type(engine)._tokenizer = original
    assert (late.status_code, late.json()["error"]["code"]) == (503, "deadline_exceeded")
    assert len(parts) <= 2


SURROGATE = "\ud800"
NESTED = json.loads("[" * 300 + "]" * 300)
ODD_BODIES = {
    "a label": ("/v1/classify", {"input": ["a"], "labels": [SURROGATE, "b"]}),
    "a text": ("/v1/embeddings", {"input": [SURROGATE]}),
    "a model": ("/v1/embeddings", {"input": ["a"], "model": SURROGATE}),
    "a document": ("/v1/rerank", {"query": "a", "documents": [SURROGATE], "return_documents": True}),
    "a template": ("/v1/classify", {"input": ["a"], "labels": ["a", "b"], "templates": [SURROGATE + "{}"]}),
    "nested lists": ("/v1/rerank", {"query": "a", "documents": [{"text": "a", "x": NESTED}], "return_documents": True}),
    "nested input": ("/v1/embeddings", {"input": NESTED}),
    "a key": ("/v1/embeddings", {SURROGATE: 1}),
}


@pytest.mark.parametrize("case", ODD_BODIES)
def test_invalid_bodies_get_400(case, model):
    path, body = ODD_BODIES[case]
    answer = asked(create_app(model, limits=SMALL), path, json.dumps(body))
    assert answer.status_code in (200, 400, 404)
    assert answer.json()


URIS = {
    "plain": "data:image/png;base64,{}",
    "blank before": " data:image/png;base64,{}",
    "blank inside": "data:image/png; base64,{}",
    "blanks": "data: image/png ; base64 ,{}",
    "upper case": "DATA:image/PNG;BASE64,{}",
    "parameter": "data:image/png;name=a.png;base64,{}",
    "no media type": "data:;base64,{}",
}


@pytest.mark.parametrize("form", URIS)
@pytest.mark.parametrize("is_image", [False, True])
def test_data_uris_are_images_in_every_form(form, is_image):
    content = png(np.zeros((2, 2, 3), "uint8"))
    encoded = data_uri(content).partition(",")[2]
    assert parse_item(URIS[form].format(encoded), "input.0", ServerLimits(), is_image) == ImageItem(content)


def test_data_uris_without_base64_are_images_and_texts_stay_texts():
    assert parse_item("data:image/png,%89PNG", "input.0", ServerLimits()) == ImageItem(b"\x89PNG")
    for text in ("data: a plot, of numbers", "data, and more", "database, relational"):
        assert parse_item(text, "input.0", ServerLimits()) == TextItem(text)
    with pytest.raises(ApiError, match="is not base64"):
        parse_item("data:image/png;base64,!!!", "input.0", ServerLimits())


def test_responses_match_the_openapi_schema(model):
    app = create_app(model, limits=SMALL)

    async def requests():
        async with client_of(app) as client:
            described = (await client.get("/openapi.json")).json()
            kinds = described["paths"]["/metrics"]["get"]["responses"]["200"]["content"]
            wrong = await client.request("DELETE", "/v1/embeddings")
            traced = await client.request("TRACE", "/v1/embeddings")
            page = (await client.get("/docs")).text
            answers = {}
            for path, methods in described["paths"].items():
                if "post" in methods and "{" not in path:
                    reference = methods["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
                    example = described["components"]["schemas"][reference.split("/")[-1]]["examples"][0]
                    answers[path] = (await client.post(path, json=example)).status_code
            return kinds, wrong, traced, page, answers

    kinds, wrong, traced, page, answers = asyncio.run(requests())
    assert [*kinds] == ["text/plain"]
    for refused in (wrong, traced):
        assert refused.status_code == 405
        assert refused.headers["allow"] == "POST"
    assert "http" not in page.replace("<!doctype html>", "").replace("/openapi.json", "")
    assert answers.pop("/v1/segment") == 400  # which is not for a ConvNeXt-CLIP
    assert {*answers.values()} == {200}, answers
