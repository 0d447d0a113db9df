"""Training of segmentation models: it learns, goes on after a kill, and measures as the definitions say."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from backends import needs_training, to_numpy
from make_hub_references import HUB
from typer.testing import CliRunner

from convnext_keras import create_model, segmentation, training
from convnext_keras.cli import app
from convnext_keras.data.augmentation import JointAugmentation
from convnext_keras.data.transforms import ImageTransform
from convnext_keras.training.segmentation import segmentation_batches

pytestmark = needs_training
TRANSFORM = ImageTransform(32, resize_mode="squash", interpolation="bilinear")
CONFIG = training.TrainingConfig(
    epochs=2, batch_size=4, auxiliary_weight=0.4, dice_weight=0.5, scale_range=(0.7, 1.5), hflip_prob=0.5, ema_decay=0.9
)
NAMES = ["background", "left", "right"]


def scenes(count=12, size=32, seed=0):
    """Bright boxes on noise, whose class is the half of the image that they are in."""
    random = np.random.default_rng(seed)
    images, masks = random.integers(0, 80, (count, size, size, 3), "uint8"), np.zeros((count, size, size), "uint8")
    for image, mask in zip(images, masks, strict=True):
        for label in (1, 2):
            top, left = random.integers(2, size // 2 - 4, 2)
            left += (label - 1) * size // 2
            image[top : top + 12, left : left + 9] = random.integers(150, 255, 3)
            mask[top : top + 12, left : left + 9] = label
    return images, masks


def run(folder=None, config=CONFIG, weights="convnext_mini.digits", **options):
    options = {"decoder": "fpn", "hidden_size": 8, "class_names": NAMES, "size": 32, **options}
    return training.fine_tune_segmentation(weights, scenes(), config, state=folder, **options)


def without_time(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


@pytest.mark.slow
def test_training_learns_and_the_model_knows_its_classes(tmp_path):
    config = dataclasses.replace(CONFIG, epochs=25, learning_rate=3e-3, scale_range=(1.0, 1.0), hflip_prob=0.0)
    trained = training.fine_tune_segmentation(
        "convnext_mini.digits", scenes(32), config, decoder="fpn", hidden_size=16, class_names=NAMES, size=32
    )
    assert trained.evaluation.mean_iou > 0.7
    assert trained.model.pretrained_info.class_names == tuple((name, name) for name in NAMES)
    training.save_segmentation_result(trained, tmp_path / "model")
    again = create_model(tmp_path / "model")
    images, _ = scenes(2, seed=5)
    for mine, theirs in zip(
        segmentation.segment(trained.model, images), segmentation.segment(again, images), strict=True
    ):
        np.testing.assert_array_equal(mine.labels, theirs.labels)
        assert theirs.class_names == tuple(NAMES)
    files = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"README.md", "curves.png", "examples.png", "history.csv", "model.keras", "results.json"} <= files
    assert "| left |" in (tmp_path / "model" / "README.md").read_text()


class Killed(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise RuntimeError("killed")


@pytest.mark.slow
def test_interrupted_training_gives_the_same_history(tmp_path):
    config = dataclasses.replace(CONFIG, epochs=3, drop_path_rate=0.1)
    whole = run(config=config)
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path / "state", config, callbacks=[Killed()])
    resumed = run(tmp_path / "state", config)
    assert without_time(resumed.history) == without_time(whole.history)
    for mine, theirs in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.slow
def test_training_starts_from_published_segmentation_models():
    names = ["a red fox", "<b>owl</b>", "Bär", "owl", "42"]
    masks = np.random.default_rng(0).integers(0, 5, (6, 64, 64)).astype("uint8")
    images = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), "uint8")
    config = dataclasses.replace(CONFIG, epochs=1, learning_rate=1e-12, warmup_ratio=0.0, ema_decay=None)
    same = training.fine_tune_segmentation(
        HUB / "upernet_v1", (images, masks), config, class_names=names, reduce_labels=False
    )
    before, after = (
        model.get_layer("upernet_decoder_classifier") for model in (create_model(HUB / "upernet_v1"), same.model)
    )
    np.testing.assert_allclose(before.get_weights()[0], after.get_weights()[0], atol=1e-6)
    other = training.fine_tune_segmentation(HUB / "upernet_v1", (images, masks), config, reduce_labels=False)
    assert (
        np.abs(other.model.get_layer("upernet_decoder_classifier").get_weights()[0] - before.get_weights()[0]).max()
        > 0.1
    )


def test_loss_equals_its_definition():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(2, 5, 6, 4)), random.integers(0, 4, (2, 5, 6))
    labels[0, :2] = 255
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    valid = labels != 255
    right = np.take_along_axis(probabilities, np.where(valid, labels, 0)[..., None], -1)[..., 0]
    expected = -np.log(right[valid]).mean()
    arrays = labels.astype("int32"), logits.astype("float32")
    assert float(to_numpy(training.SegmentationLoss()(*arrays))) == pytest.approx(expected, rel=1e-5)
    targets = np.eye(4)[np.where(valid, labels, 0)] * valid[..., None]
    parts = probabilities * valid[..., None]
    dice = np.mean([2 * (parts * targets)[..., c].sum() / (parts + targets)[..., c].sum() for c in range(4)])
    found = float(to_numpy(training.SegmentationLoss(dice_weight=0.3)(*arrays)))
    assert found == pytest.approx(expected + 0.3 * (1 - dice), rel=1e-5)
    smoothed = -(np.log(probabilities).mean(-1) * 0.2 + np.log(right) * 0.8)[valid].mean()
    found = float(to_numpy(training.SegmentationLoss(label_smoothing=0.2)(*arrays)))
    assert found == pytest.approx(smoothed, rel=1e-5)


@pytest.mark.any_backend
def test_metrics_equal_their_definitions():
    """The definitions, pixel by pixel, without the ones that are ignored."""
    model = create_model(HUB / "upernet_v1")
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (3, 40, 50, 3), "uint8")
    masks = random.integers(0, 5, (3, 40, 50)).astype("uint8")
    masks[:, :5] = 255
    dataset = training.load_segmentation_dataset((images, masks), [*"abcde"])
    result = training.evaluate_segmentation(segmentation.Segmenter(model), dataset)
    found = np.stack([row.labels for row in segmentation.segment(model, images)])
    valid = masks != 255
    ious = [((found == c) & (masks == c)).sum() / (((found == c) | (masks == c)) & valid).sum() for c in range(5)]
    assert result.mean_iou == pytest.approx(np.mean(ious))
    assert result.pixel_accuracy == pytest.approx((found == masks)[valid].mean())
    assert result.confusion_matrix.sum() == valid.sum()
    assert len(result.image_ious) == 3
    wrong = training.load_segmentation_dataset((images, np.minimum(masks, 1)))
    with pytest.raises(ValueError, match="The model has 5 classes, the masks 2"):
        training.evaluate_segmentation(segmentation.Segmenter(model), wrong)


@pytest.mark.any_backend
def test_augmentation_moves_image_and_mask_together():
    """The image is bright where the mask is of a class, after any crop, scale and flip."""
    images, masks = scenes(1)
    augment = JointAugmentation(TRANSFORM, (0.5, 2.0), 0.5)
    for seed in range(30):
        pixels, mask = augment(images[0], masks[0].astype("uint16"), np.random.default_rng(seed))
        assert pixels.shape == (32, 32, 3)
        inner = keras_erode((mask == 1) | (mask == 2))
        outer = keras_erode(mask == 0)
        assert not inner.any() or pixels.max(axis=-1)[inner].min() > 100
        assert not outer.any() or pixels.max(axis=-1)[outer].max() < 120
        assert (pixels[mask == 255] == 0).all()


def keras_erode(mask):
    """The positions whose neighbors two steps away are of the mask too."""
    inner = mask.copy()
    for rows in range(-2, 3):
        for columns in range(-2, 3):
            inner &= np.roll(mask, (rows, columns), (0, 1))
    inner[:2] = inner[-2:] = inner[:, :2] = inner[:, -2:] = False
    return inner


@pytest.mark.any_backend
def test_batches_depend_on_seed_and_epoch_only():
    dataset = training.load_segmentation_dataset(scenes(), NAMES)
    whole = segmentation_batches(dataset, CONFIG, TRANSFORM, seed=3)
    rows = [next(whole) for _ in range(6)]
    later = segmentation_batches(dataset, CONFIG, TRANSFORM, seed=3, first_epoch=1)
    for mine, theirs in zip(rows[3:], later, strict=False):
        np.testing.assert_array_equal(mine[0], theirs[0])
        np.testing.assert_array_equal(mine[1][0], theirs[1][0])


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 0.01}, "validation must leave images on both sides"),
        ({"config": dataclasses.replace(CONFIG, mixup=0.5)}, "mixup must be 0 for segmentation"),
        ({"config": dataclasses.replace(CONFIG, lora_rank=4)}, "lora_rank must be 0 for segmentation"),
    ],
)
def test_bad_options_are_reported(options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)


@pytest.mark.any_backend
def test_a_model_of_other_classes_is_refused():
    with pytest.raises(ValueError, match="with classes=3"):
        run(weights=create_model(HUB / "upernet_v1"), reduce_labels=False)


@pytest.mark.slow
def test_commands_train_segment_and_evaluate(tmp_path):
    from PIL import Image

    for number, (image, mask) in enumerate(zip(*scenes(), strict=True)):
        for name, pixels in (("images", image), ("masks", mask)):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number:02}.png")
    data, output = tmp_path / "data", tmp_path / "model"
    words = ["train", str(data / "images"), "--masks", str(data / "masks"), "--weights", "convnext_mini.digits"]
    words += ["--output", str(output), "--classes", ",".join(NAMES), "--decoder", "fpn", "--size", "32"]
    result = CliRunner().invoke(app, [*words, "--set", "epochs=1", "--set", "batch_size=4"])
    assert result.exit_code == 0, result.output
    assert "Mean IoU" in result.output
    result = CliRunner().invoke(app, ["evaluate", str(output), str(data), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["num_images"] == 12
    image = str(data / "images" / "00.png")
    targets = ["--output", str(tmp_path / "map.png"), "--overlay", str(tmp_path / "overlay.png")]
    result = CliRunner().invoke(app, ["segment", image, "--weights", str(output), *targets, "--json"])
    assert result.exit_code == 0, result.output
    areas = json.loads(result.stdout)[0]["areas"]
    assert sum(areas.values()) == pytest.approx(1)
    with Image.open(tmp_path / "map.png") as drawn, Image.open(tmp_path / "overlay.png") as over:
        assert drawn.size == (32, 32)
        assert over.height > 32
    folder = str(tmp_path / "maps")
    result = CliRunner().invoke(app, ["segment", str(data / "images"), "--weights", str(output), "--output", folder])
    assert result.exit_code == 0, result.output
    assert len([*(tmp_path / "maps").glob("*.png")]) == 12
    result = CliRunner().invoke(app, ["segment", image, "--weights", str(output), "--output", "map.jpg"])
    assert "must be a .png file for one image" in str(result.exception)
