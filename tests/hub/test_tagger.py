"""WD taggers: timm's files with `selected_tags.csv`, against the publisher's procedure."""

import json
import shutil

import numpy as np
import pytest
from make_hub_references import HUB
from make_references import arrays_of
from PIL import Image
from typer.testing import CliRunner

from convnext_keras import WeightsError, create_model, hub, save_pretrained
from convnext_keras.checkpoints import find_weight_set
from convnext_keras.cli import app
from convnext_keras.data.transforms import ImageTransform
from convnext_keras.model import get_problem_type
from convnext_keras.problem_types import MULTI_LABEL

TAGGER = HUB / "tagger_wd"
THRESHOLDS = {"rating": 0.5, "character": 0.75, "general": 0.35}


def published_procedure(path, size):
    """The publisher's preparation in PIL and NumPy: white background, white square, bicubic resize, BGR."""
    image = Image.open(path)
    if image.mode not in ("RGB", "RGBA"):
        image = image.convert("RGBA") if "transparency" in image.info else image.convert("RGB")
    if image.mode == "RGBA":
        canvas = Image.new("RGBA", image.size, (255, 255, 255))
        canvas.alpha_composite(image)
        image = canvas.convert("RGB")
    edge = max(image.size)
    square = Image.new("RGB", (edge, edge), (255, 255, 255))
    square.paste(image, ((edge - image.width) // 2, (edge - image.height) // 2))
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))[:, :, ::-1]


def write_image(path, mode, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 4), "uint8")
    image = Image.fromarray(pixels, "RGBA") if mode == "RGBA" else Image.fromarray(pixels[..., :3]).convert(mode)
    image.save(path)


@pytest.mark.cross_backend
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
@pytest.mark.parametrize("shape", [(41, 90), (90, 41), (64, 64), (5, 4)], ids=str)
def test_transform_and_scores_equal_the_publishers_procedure(mode, shape, tmp_path):
    write_image(tmp_path / "image.png", mode, shape)
    model = create_model(TAGGER)
    expected = published_procedure(tmp_path / "image.png", 64)
    pixels = model.pretrained_info.transform(tmp_path / "image.png")
    np.testing.assert_array_equal(pixels, expected)
    scores = np.asarray(model.predict_on_batch(pixels[None].astype("float32")))
    assert ((scores > 0) & (scores < 1)).all()
    assert abs(scores.sum() - 1) > 0.1  # no softmax


@pytest.mark.any_backend
def test_labels_categories_and_thresholds_come_from_the_table():
    known = create_model(TAGGER).pretrained_info
    assert known.class_names[:2] == (("9000", "tag_0"), ("9001", "tag_1"))
    assert known.categories[:7] == ("rating",) * 4 + ("general", "general", "character")
    assert known.thresholds == tuple(THRESHOLDS[category] for category in known.categories)
    assert known.problem_type == MULTI_LABEL
    assert known.transform == ImageTransform(
        64, 1.0, "pad", statistics="half", fill_color=255, background=(255, 255, 255), bgr=True
    )


@pytest.mark.any_backend
def test_classify_prints_the_tags_above_their_thresholds(tmp_path):
    write_image(tmp_path / "image.png", "RGB", (50, 70))
    result = CliRunner().invoke(app, ["classify", str(tmp_path / "image.png"), "--weights", str(TAGGER), "--json"])
    (found,) = json.loads(result.stdout)
    model = create_model(TAGGER)
    pixels = published_procedure(tmp_path / "image.png", 64)
    (scores,) = np.asarray(model.predict_on_batch(pixels[None].astype("float32")))
    above = [index for index in np.argsort(-scores) if scores[index] > model.pretrained_info.thresholds[index]]
    assert [row["name"] for row in found["predictions"]] == [f"tag_{index}" for index in above]
    assert found["predictions"][0]["category"] in THRESHOLDS
    np.testing.assert_allclose([row["score"] for row in found["predictions"]], scores[above], rtol=1e-4)
    table = CliRunner().invoke(
        app, ["classify", str(tmp_path / "image.png"), "--weights", str(TAGGER), "--threshold", "1"]
    )
    assert "no label above" in table.stdout


@pytest.mark.any_backend
def test_taggers_keep_everything_in_native_folders(tmp_path):
    model = create_model(TAGGER)
    save_pretrained(model, tmp_path / "saved", "keras")
    again = create_model(tmp_path / "saved")
    for name in ("class_names", "categories", "thresholds", "problem_type", "transform"):
        assert getattr(again.pretrained_info, name) == getattr(model.pretrained_info, name), name
    pixels = arrays_of(HUB / "tagger_wd.npz")["pixels"][None].astype("float32")
    np.testing.assert_allclose(again.predict_on_batch(pixels), model.predict_on_batch(pixels), rtol=1e-6)
    with pytest.raises(ValueError, match="resize='pad'"):
        save_pretrained(model, tmp_path / "timm", "timm")


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tag_id,name\n1,a\n", "has no column 'category'"),
        ("tag_id,name,category,count\n1,a,0,1\n", "has 1 tags, but the classifier has 40 outputs"),
        ("tag_id,name,category,count\n1\n", "fewer columns than the heading"),
        ("", "has no column"),
        (b"\xff\xfe\xff", "cannot be read as a table"),
    ],
)
def test_damaged_tables_raise(content, message, tmp_path):
    folder = shutil.copytree(TAGGER, tmp_path / "tagger")
    path = folder / "selected_tags.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(WeightsError, match=message):
        create_model(folder)


@pytest.mark.any_backend
def test_one_class_never_gets_softmax_and_the_users_activation_counts(tmp_path):
    model = create_model(HUB / "timm_v2", classifier_activation="sigmoid")
    assert get_problem_type(model) == MULTI_LABEL
    assert get_problem_type(create_model(HUB / "timm_v2")) == "single_label_classification"


@pytest.mark.any_backend
def test_the_row_of_the_registry_has_the_transform():
    row = find_weight_set("convnext_base.wd_tagger_v3")
    assert row.repository == "SmilingWolf/wd-convnext-tagger-v3"
    assert row.transform == hub.load_model_info(TAGGER).transform._replace(size=448)


@pytest.mark.any_backend
def test_padding_refuses_squares_beyond_the_limit():
    with pytest.raises(ValueError, match="Padded to a square it has"):
        ImageTransform(8, resize_mode="pad")(np.zeros((1, 60_000, 3), "uint8"))
