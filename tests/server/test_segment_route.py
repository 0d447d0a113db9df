"""A server of a segmentation model: maps as the library makes them, limits, and words for what it cannot do."""

import base64
import io

import numpy as np
import pytest
from fastapi.testclient import TestClient
from make_hub_references import HUB
from PIL import Image
from serving import data_uri, png

from convnext_keras import create_model, segmentation
from convnext_keras.server import create_app
from convnext_keras.server.limits import ServerLimits

pytestmark = [pytest.mark.any_backend, pytest.mark.integration]
IMAGE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), "uint8")


@pytest.fixture(scope="module")
def web():
    with TestClient(create_app(str(HUB / "upernet_v1")), base_url="http://localhost") as client:
        yield client


@pytest.fixture(scope="module")
def expected():
    return segmentation.segment(create_model(HUB / "upernet_v1"), IMAGE)[0]


def post(web, **body):
    return web.post("/v1/segment", json={"image": data_uri(png(IMAGE)), **body})


def test_png_and_run_lengths_are_the_map(web, expected):
    answer = post(web).json()
    with Image.open(io.BytesIO(base64.b64decode(answer["png"]))) as drawn:
        np.testing.assert_array_equal(np.asarray(drawn), expected.labels)
    runs = np.array(post(web, format="rle").json()["rle"]).reshape(-1, 2)
    np.testing.assert_array_equal(np.repeat(*runs.T), expected.labels.ravel())
    assert (runs[1:, 0] != runs[:-1, 0]).all()
    assert (answer["height"], answer["width"]) == (50, 70)
    assert answer["classes"] == ["a red fox", "<b>owl</b>", "Bär", "owl", "42"]
    assert {row["class"]: row["area"] for row in answer["areas"]} == pytest.approx(expected.areas)


def test_overlay_has_the_size_of_the_image(web):
    answer = post(web, overlay=True).json()
    with Image.open(io.BytesIO(base64.b64decode(answer["overlay"]))) as drawn:
        assert drawn.size == (70, 50)


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/v1/segment", {}, "missing_required_parameter"),
        ("/v1/segment", {"image": "data:image/png;base64,AAAA"}, "unsupported_image_format"),
        ("/v1/segment", {"image": data_uri(png(IMAGE)), "format": "svg"}, "invalid_value"),
        ("/v1/embeddings", {"input": "a fox"}, "model_unsupported"),
        ("/v1/classify", {"input": [{"image": data_uri(png(IMAGE))}], "labels": ["fox"]}, "model_unsupported"),
    ],
)
def test_bad_requests_are_reported(web, path, body, code):
    answer = web.post(path, json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == code


def test_models_say_what_they_can_do(web):
    (model,) = web.get("/v1/models").json()["data"]
    assert model["capabilities"] == ["image", "segment"]
    assert model["classes"][2] == "Bär"


def test_images_beyond_the_limit_are_refused():
    limits = ServerLimits(max_image_pixels=40 * 40, max_queued_maps=0)
    with TestClient(create_app(str(HUB / "upernet_v1"), limits=limits), base_url="http://localhost") as client:
        assert post(client).status_code == 429
    limits = ServerLimits(max_image_pixels=70 * 70)
    with TestClient(create_app(str(HUB / "upernet_v1"), limits=limits), base_url="http://localhost") as client:
        large = np.zeros((80, 80, 3), "uint8")
        answer = client.post("/v1/segment", json={"image": data_uri(png(large))})
        assert answer.json()["error"]["code"] == "image_too_large"


def test_a_classifier_has_no_maps():
    with TestClient(create_app("convnext_mini.digits"), base_url="http://localhost") as client:
        answer = post(client)
        assert answer.json()["error"]["code"] == "model_unsupported"
