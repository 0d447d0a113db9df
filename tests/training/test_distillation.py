"""Students that learn from classifiers, features and ConvNeXt-CLIP."""

import numpy as np
import pytest
from backends import needs_training
from PIL import Image
from typer.testing import CliRunner

from convnext_keras import clip, create_model, reset_classifier, samples, training
from convnext_keras.cli import app
from convnext_keras.convnext import ConvNeXt
from convnext_keras.problem_types import MULTI_LABEL, REGRESSION

pytestmark = [needs_training, pytest.mark.any_backend]
TEACHER = "convnext_mini.digits"


def small(**options):
    return ConvNeXt((1, 1, 1, 1), (8, 16, 16, 32), include_top=False, input_shape=(32, 32, 3), pooling="avg", **options)


def digits(count):
    pixels, labels = samples.load_digits()
    return [np.repeat(image[..., None], 3, axis=2) for image in pixels[:count]], labels[:count]


def test_teacher_labels_are_its_probabilities_at_the_temperature():
    images, _ = digits(6)
    model = create_model(TEACHER)
    pixels = np.stack([model.pretrained_info.transform(image) for image in images]).astype("float32")
    scores = np.asarray(model.predict_on_batch(pixels), "float64")
    expected = np.exp(np.log(scores) / 3)
    expected /= expected.sum(axis=1, keepdims=True)
    soft = training.teacher_labels(model, images, temperature=3)
    np.testing.assert_allclose(soft.labels, expected, atol=1e-4)
    assert soft.class_names[3] == "three"


def test_label_weight_mixes_the_true_labels():
    images, labels = digits(6)
    names = [name for _, name in create_model(TEACHER).pretrained_info.class_names]
    true = training.ImageDataset(images, np.array(labels), tuple(names))
    mixed = training.teacher_labels(TEACHER, true, label_weight=0.75)
    soft = training.teacher_labels(TEACHER, images)
    np.testing.assert_allclose(mixed.labels, 0.75 * np.eye(10)[labels] + 0.25 * soft.labels, atol=1e-6)
    wrong = training.ImageDataset(images[:2], np.array([0, 1]), ("cat", "dog"))
    with pytest.raises(ValueError, match="does not know the classes cat"):
        training.teacher_labels(TEACHER, wrong, label_weight=0.5)


@pytest.mark.parametrize("kind", ["backbone", "clip", "image_encoder"])
def test_features_are_the_values_of_a_regression(kind):
    images = [np.full((64, 64, 3), level, "uint8") for level in (0, 128, 255)]
    towers = clip.create_model("convnext_mini.shapes")
    teacher = {"backbone": small(), "clip": towers, "image_encoder": towers.image_encoder}[kind]
    examples = training.teacher_labels(teacher, images)
    assert examples.problem_type == REGRESSION
    assert examples.labels.shape == (3, 32 if kind == "backbone" else towers.embed_dim)
    if kind == "clip":
        np.testing.assert_allclose(examples.labels, towers.encode_image(images), atol=1e-5)


def test_multi_label_teachers_keep_their_problem_type():
    teacher = ConvNeXt(
        (1, 1, 1, 1), (8, 16, 16, 32), classes=3, classifier_activation="sigmoid", input_shape=(32, 32, 3)
    )
    soft = training.teacher_labels(teacher, digits(4)[0], temperature=2)
    assert (soft.problem_type, soft.class_names) == (MULTI_LABEL, ("0", "1", "2"))
    assert ((soft.labels > 0) & (soft.labels < 1)).all()


@pytest.mark.slow
def test_a_student_learns_features_in_the_teachers_units():
    images, _ = digits(48)
    teacher = reset_classifier(create_model(TEACHER), 0)
    config = training.TrainingConfig(epochs=8, batch_size=8, learning_rate=3e-3)
    result = training.distill(small(), images, teacher, config, size=32)
    assert result.evaluation.r2 > 0.2
    student = reset_classifier(result.model, 0)
    assert student.output_shape == (None, 32)


@pytest.mark.slow
def test_the_command_distills_a_folder_without_labels(tmp_path):
    images, labels = digits(120)
    (tmp_path / "images").mkdir()
    for number, image in enumerate(images[:100]):
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
    arguments = ["train", tmp_path / "images", "--weights", TEACHER, "--teacher", TEACHER, "--output", tmp_path / "out"]
    result = CliRunner().invoke(app, [*map(str, arguments), "--epochs", "1", "--batch-size", "16"])
    assert result.exit_code == 0, result.exception
    model = create_model(tmp_path / "out")
    pixels = np.stack([model.pretrained_info.transform(image) for image in images[100:]]).astype("float32")
    assert (np.asarray(model.predict_on_batch(pixels)).argmax(axis=1) == labels[100:]).mean() > 0.8


def test_invalid_arguments_raise():
    images = digits(2)[0]
    with pytest.raises(ValueError, match="temperature must be above 0"):
        training.teacher_labels(TEACHER, images, temperature=0)
    maps = ConvNeXt((1, 1, 1, 1), (8, 16, 16, 32), include_top=False, input_shape=(32, 32, 3))
    with pytest.raises(ValueError, match="needs pooling='avg'"):
        training.teacher_labels(maps, images)
