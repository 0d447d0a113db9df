"""A server of a classifier: its own classes for images, and clear words for what it cannot do."""

import base64

import numpy as np
import pytest
from backends import BACKEND, outputs
from PIL import Image
from serving import asked, data_uri, png

from convnext_keras import create_model, export, hub, predictors, samples
from convnext_keras.data.class_names import load_class_names
from convnext_keras.server import create_app

NAME = "convnext_mini.digits"


@pytest.fixture(scope="module")
def digits():
    pixels, labels = samples.load_digits()
    return [np.repeat(pixels[place][..., None], 3, axis=2) for place in range(0, 350, 50)], labels[0:350:50]


def answered(model, digits, **body):
    items = [{"image": data_uri(png(each))} for each in digits]
    return asked(create_app(model), "/v1/classify", {"input": items, **body})


def test_classify_returns_the_model_classes(digits):
    images, labels = digits
    answer = answered(NAME, images)
    assert answer.status_code == 200
    body, model = answer.json(), create_model(NAME)
    assert body["model"] == NAME
    assert body["usage"] == {"prompt_tokens": 0, "total_tokens": 0, "num_images": len(images)}
    pixels = np.stack([model.pretrained_info.transform(Image.fromarray(image)) for image in images]).astype("float32")
    for row, expected in zip(body["data"], outputs(model, pixels), strict=True):
        scores = {best["id"]: best["score"] for best in row["predictions"]}
        assert [*scores] == [str(place) for place in np.argsort(-expected, kind="stable")]
        np.testing.assert_allclose([scores[str(place)] for place in range(10)], expected, atol=1e-5)
    names = [name for _, name in load_class_names("digits")]
    assert np.mean([row["prediction"] == names[label] for row, label in zip(body["data"], labels, strict=True)]) > 0.8
    assert [len(row["predictions"]) for row in answered(NAME, images, top_k=2).json()["data"]] == [2] * len(images)


@pytest.mark.any_backend
def test_models_route_lists_capabilities():
    (facts,) = asked(create_app(NAME), "/v1/models", None).json()["data"]
    assert (facts["capabilities"], facts["classes"]) == (
        ["image", "classify"],
        [name for _, name in load_class_names("digits")],
    )
    assert asked(create_app(NAME), "/health/ready", None).status_code == 200


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/v1/classify", {"input": "a five", "model": NAME}, "text_unsupported"),
        ("/v1/classify", {"input": [{"image": "AAAA"}], "labels": ["a", "b"]}, "labels_unsupported"),
        ("/v1/embeddings", {"input": "a five"}, "model_unsupported"),
        ("/v1/similarity", {"image": "AAAA", "texts": ["a"]}, "model_unsupported"),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}, "model_unsupported"),
        ("/v1/score", {"queries": "a", "documents": ["b"]}, "model_unsupported"),
        (
            "/hf/zero-shot-image-classification",
            {"inputs": "AAAA", "parameters": {"candidate_labels": ["a"]}},
            "model_unsupported",
        ),
    ],
)
def test_classifier_rejects_text_routes(path, body, code):
    answer = asked(create_app(NAME), path, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


@pytest.mark.any_backend
def test_labels_of_a_convnext_clip_must_be_given(model):
    body = {"input": [{"image": base64.b64encode(png(np.zeros((8, 8, 3), "uint8"))).decode()}]}
    answer = asked(create_app(model), "/v1/classify", body)
    assert answer.json()["error"]["code"] == "missing_required_parameter"


def test_models_are_served_from_files(digits, tmp_path):
    model = create_model(NAME)
    model.save(tmp_path / "mine.keras")
    expected = answered(NAME, digits[0]).json()["data"]
    sources = [tmp_path / "mine.keras"]
    if BACKEND == "openvino":
        export.export(model, tmp_path / "mine.xml")
        sources.append(tmp_path / "mine.xml")
    for source in sources:
        found = answered(str(source), digits[0]).json()
        assert found["model"] == source.name
        assert [row["prediction"] for row in found["data"]] == [row["prediction"] for row in expected]


@pytest.mark.any_backend
def test_clip_and_classifier_names_are_distinguished():
    """A variant that classifiers and ConvNeXt-CLIP share is of the one that a command is about."""
    for name, (of_hub, of_server) in {
        "convnext_base": (False, True),
        "convnext_base_w": (True, True),
        "convnext_base.laion400m_s13b_b51k": (True, True),
        "convnext_tiny": (False, False),
        NAME: (False, False),
    }.items():
        assert (hub.is_clip_repo(name), predictors.is_clip_name(name)) == (of_hub, of_server), name


@pytest.mark.any_backend
def test_create_app_rejects_invalid_models(tmp_path):
    with pytest.raises(ValueError, match="indexes are of a ConvNeXt-CLIP; convnext_mini.digits is a classifier"):
        create_app(NAME, indexes={"photos": tmp_path})
    with pytest.raises(ValueError, match="runtime requires a ConvNeXt-CLIP. Export convnext_mini.digits"):
        create_app(NAME, runtime="openvino")
    with pytest.raises(ValueError, match="streams require a runtime.* Received: streams=2"):
        create_app(NAME, streams=2)
    create_model(NAME, include_top=False).save(tmp_path / "body.keras")
    with pytest.raises(ValueError, match=r"body.keras gives features. Name a classifier"):
        create_app(str(tmp_path / "body.keras"))
