"""Pairs in every form, batches of near ones, and a ConvNeXt-CLIP that learns them."""

import csv
import dataclasses
import io
import json
import re
import tarfile
import tracemalloc

import numpy as np
import pytest
from backends import needs_training
from make_hub_references import HUB
from PIL import Image
from typer.testing import CliRunner

from convnext_keras import clip, training
from convnext_keras.cli import app
from convnext_keras.data.augmentation import Augmentation
from convnext_keras.data.transforms import ImageTransform
from convnext_keras.training.image_text import NUM_NEIGHBORS, NearestGroups, is_image_text_data, pair_batches
from convnext_keras.training.retrieval_metrics import retrieval_ranks

pytestmark = [needs_training, pytest.mark.any_backend]
COLORS = {"pink": (245, 130, 190), "cyan": (40, 220, 230), "olive": (120, 130, 10)}


def images(count=12, seed=0):
    random = np.random.default_rng(seed)
    names = [[*COLORS][number % 3] for number in range(count)]
    noise = random.normal(0, 8, (count, 64, 64, 3))
    pixels = np.clip(np.stack([np.full((64, 64, 3), COLORS[name]) for name in names]) + noise, 0, 255)
    return pixels.astype("uint8"), names


def test_a_table_and_shards_hold_the_same_pairs(tmp_path):
    pixels, names = images(6)
    table = written(tmp_path / "table", 6)
    with tarfile.open(tmp_path / "pairs.tar", "w") as archive:
        for number, name in enumerate(names):
            archive.add(table.parent / f"{number}.png", f"{number:04}.png")
            text = f"a {name} background".encode()
            member = tarfile.TarInfo(f"{number:04}.txt")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    for source in (table, tmp_path / "pairs.tar", [str(tmp_path / "pairs.tar")]):
        pairs = training.load_image_text_pairs(source)
        assert [row[0] for row in pairs.texts] == [f"a {name} background" for name in names]
        assert pairs.groups.tolist() == [0, 1, 2, 0, 1, 2]
        shown = np.asarray(
            pairs.images[2] if isinstance(pairs.images[2], Image.Image) else Image.open(table.parent / "2.png")
        )
        np.testing.assert_array_equal(shown, pixels[2])


def written(folder, count, seed=0):
    """Writes a table with a number of pairs."""
    pixels, names = images(count, seed)
    folder.mkdir()
    with (folder / "pairs.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["path", "caption"])
        for number, (row, name) in enumerate(zip(pixels, names, strict=True)):
            Image.fromarray(row).save(folder / f"{number}.png")
            rows.writerow([f"{number}.png", f"a {name} background"])
    return folder / "pairs.csv"


@pytest.mark.slow
def test_the_command_trains_on_a_table_of_pairs(tmp_path):
    table, more = written(tmp_path / "pairs", 18), written(tmp_path / "more", 6, seed=1)
    output = tmp_path / "tuned"
    changes = ("epochs=4", "batch_size=6", "learning_rate=0.002", "clip_norm=1.0")
    options = [part for change in changes for part in ("--set", change)]
    arguments = ["train", str(table), "--weights", "convnext_mini.shapes", "--output", str(output), *options]
    shown = CliRunner().invoke(
        app, [*arguments, "--validation", str(more), "--freeze-tower", "image"], catch_exceptions=False
    )
    before, after = re.findall(r"(?:before|after)\D+([\d.]+) %", shown.stdout)
    assert float(after) > float(before)
    tuned = clip.create_model(output)
    measured = training.RetrievalRecall(training.load_image_text_pairs(more)).evaluate(tuned)
    assert f"{100 * measured:.1f}" == after
    refused = {"--preset": "fine_tune", "--size": "64"}
    for option in refused.items():
        with pytest.raises(ValueError, match="is not for image-text pairs"):
            CliRunner().invoke(app, [*arguments[:-9], str(tmp_path / "new"), *option], catch_exceptions=False)
    with pytest.raises(ValueError, match="--freeze-tower is not for images with labels"):
        CliRunner().invoke(
            app,
            ["train", str(tmp_path), *arguments[2:5], str(tmp_path / "new"), "--freeze-tower", "text"],
            catch_exceptions=False,
        )
    with pytest.raises(ValueError, match="leaves 18 pairs to train on, and 0"):
        CliRunner().invoke(app, [*arguments[:5], str(tmp_path / "new"), "--validation", "0"], catch_exceptions=False)


def test_tables_of_classes_are_no_pairs(tmp_path):
    for heading, expected in (("path,caption", True), ("path,class", False), ("path,class,caption", False)):
        (tmp_path / "table.csv").write_text(f"{heading}\n")
        assert is_image_text_data(tmp_path / "table.csv") == expected, heading
    assert is_image_text_data(tmp_path / "pairs.tar")
    assert not is_image_text_data(tmp_path)


def test_invalid_pairs_raise(tmp_path):
    (tmp_path / "bad.csv").write_text("path,words\na.png,a cat\n")
    with pytest.raises(ValueError, match="must have a column 'caption', 'text' or 'title'. Received: path, words"):
        training.load_image_text_pairs(tmp_path / "bad.csv")
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    with pytest.raises(ValueError, match="empty.tar has no pairs"):
        training.load_image_text_pairs(tmp_path / "empty.tar")
    with pytest.raises(ValueError, match="Pairs are a .csv or .tsv file, .tar shards or"):
        training.load_image_text_pairs(tmp_path)
    with pytest.raises(ValueError, match="a text for each. Received: 6 and 2"):
        training.load_image_text_pairs((images(6)[0], ["a", "b"]))
    examples = training.load_dataset(images(6))
    with pytest.raises(ValueError, match="sentences with {} for the name"):
        training.class_prompts(examples, ["a photo"])
    with pytest.raises(ValueError, match="freeze_tower must be None, 'image' or 'text'"):
        training.fine_tune_clip(clip.create_model("shapes"), training.class_prompts(examples), freeze_tower="both")


def test_batches_have_one_source_and_hard_negatives(shapes_model):
    first = training.load_image_text_pairs(
        (images(6)[0], [f"a {word} circle" for word in ("red", "blue", "green")] * 2)
    )
    second = training.class_prompts(training.load_dataset(images(9)))
    batches = pair_batches([first, second], shapes_model, Augmentation(shapes_model.transform), 4, seed=1)
    taken = [next(batches) for _ in range(4)]
    again = next(pair_batches([first, second], shapes_model, Augmentation(shapes_model.transform), 4, seed=1))
    np.testing.assert_array_equal(taken[0][0]["images"], again[0]["images"])
    circle = shapes_model.tokenizer(["circle"])[0, 1]
    for number, (inputs, groups) in enumerate(taken):
        assert inputs["images"].shape == (4, 64, 64, 3)
        assert groups.shape == (4,)
        assert (inputs["tokens"] == circle).any(axis=1).all() == (number % 2 == 0)


def test_near_groups_are_those_of_the_whole_matrix(shapes_model):
    texts = [
        f"{number} {color} {shape}" for number in ("one", "two") for color in COLORS for shape in ("star", "circle")
    ]
    near = NearestGroups(training.load_image_text_pairs((["x.png"] * len(texts), texts)), shapes_model)
    vectors = shapes_model.encode_text(texts)
    for group, row in enumerate(vectors @ vectors.T):
        others = [other for other in np.argsort(-row, kind="stable") if other != group]
        assert near(group).tolist() == others[: NUM_NEIGHBORS - 1]


class CountingModel:
    """Vectors of texts without a network; counts the texts."""

    encoded = 0

    def encode_text(self, texts):
        self.encoded += len(texts)
        return np.random.default_rng(0).normal(size=(len(texts), 16)).astype("float32")

    def tokenizer(self, texts):
        return np.zeros((len(texts), 8), "int32")


@pytest.mark.parametrize("hard_negative_ratio", [0.0, 0.5])
def test_first_batch_of_100_000_captions_needs_linear_memory(hard_negative_ratio):
    count = 100_000
    captions = [f"caption {number}" for number in range(count)]
    pairs = training.load_image_text_pairs((np.broadcast_to(np.uint8(0), (count, 8, 8, 3)), captions))
    model = CountingModel()
    tracemalloc.start()
    batches = pair_batches([pairs], model, Augmentation(ImageTransform(8)), 64, hard_negative_ratio=hard_negative_ratio)
    inputs, groups = next(batches)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    batches.close()
    assert (inputs["images"].shape, groups.shape) == ((64, 8, 8, 3), (64,))
    assert model.encoded == (count if hard_negative_ratio else 0)
    assert peak < 1000 * count  # bytes; the full matrix would have 4 * count**2


@pytest.fixture(scope="module")
def shapes_model():
    return clip.create_model("convnext_mini.shapes")


RECIPE = training.TrainingConfig(epochs=4, batch_size=6, learning_rate=2e-3, clip_norm=1.0)


@needs_training
def test_layers_that_the_caller_froze_stay_frozen(shapes_model):
    frozen = shapes_model.image_encoder.layers[2]
    frozen.trainable = False
    try:
        examples = training.class_prompts(training.load_dataset(images(6)))
        config = training.TrainingConfig(epochs=1, batch_size=6, learning_rate=1e-5)
        tuned = training.fine_tune_clip(shapes_model, examples, config, freeze_tower="text")
        kept = next(layer for layer in tuned.image_encoder.layers if layer.name == frozen.name)
        assert not kept.trainable_weights
        assert all(layer.trainable for layer in tuned.text_encoder.layers)
    finally:
        frozen.trainable = True


def margin(model, examples):
    """Returns the mean margin of the logits of the true classes."""
    scores = model.similarity(examples.images, [f"a {name} background" for name in examples.class_names]).logits
    right = np.eye(len(examples.class_names), dtype=bool)[examples.labels]
    return scores[right].mean() - scores[~right].mean()


@pytest.mark.slow
@pytest.mark.parametrize("freeze_tower", [None, "image", "text"])
def test_fine_tune_clip_learns_new_words_with_a_frozen_tower(freeze_tower, shapes_model):
    pixels, names = images(24)
    examples, unseen = training.load_dataset((pixels, names)), training.load_dataset(images(12, seed=1))
    callbacks = [
        training.ZeroShotAccuracy(unseen, "a {} background"),
        training.RetrievalRecall(training.class_prompts(unseen, ["a {} background"])),
    ]
    before = [value.copy() for value in shapes_model.get_weights()]
    tuned = training.fine_tune_clip(
        shapes_model,
        training.class_prompts(examples, ["a {} background"]),
        RECIPE,
        freeze_tower=freeze_tower,
        callbacks=callbacks,
    )
    for old, same in zip(before, shapes_model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, same)
    towers = {"image": "image_encoder", "text": "text_encoder"}
    for name, tower in towers.items():
        pairs = zip(getattr(shapes_model, tower).get_weights(), getattr(tuned, tower).get_weights(), strict=True)
        assert all(np.array_equal(*pair) for pair in pairs) == (name == freeze_tower)
    if freeze_tower is None:  # These words are as good as equal to a text tower that stays.
        assert training.zero_shot_accuracy(tuned, unseen, "a {} background") == 1
    assert margin(tuned, unseen) > margin(shapes_model, unseen)
    choice = training.select_interpolation(shapes_model, tuned, unseen, unseen, (0.0, 1.0), "a {} background")
    best = max(choice.metrics, key=lambda row: (row[1], row[0]))
    assert choice.weight == best[0]
    assert [row[0] for row in choice.metrics] == [0, 1]


def test_fine_tune_clip_with_lora(shapes_model):
    examples = training.load_dataset(images(24))
    config = dataclasses.replace(RECIPE, lora_rank=4, learning_rate=1e-2)
    tuned = training.fine_tune_clip(shapes_model, training.class_prompts(examples), config)
    assert isinstance(tuned, clip.CLIP)
    assert len(tuned.weights) == len(shapes_model.weights)


@pytest.mark.slow
def test_sigmoid_loss_trains_models_with_a_logit_bias_only():
    pixels = [np.full((64, 64, 3), level, "uint8") for level in (10, 90, 170, 250)]
    pairs, config = (pixels, ["a", "b", "c", "d"]), training.TrainingConfig(epochs=3, batch_size=4, loss="sigmoid")
    with pytest.raises(ValueError, match="needs a model with a logit bias"):
        training.fine_tune_clip(clip.create_model("convnext_mini.shapes"), pairs, config)
    plain = training.TrainingConfig(loss="mse")
    with pytest.raises(ValueError, match="loss must be None or 'sigmoid'"):
        training.fine_tune_clip(clip.create_model("convnext_mini.shapes"), pairs, plain)
    model = clip.create_model(HUB / "open_clip_sigmoid_loss")
    before = model.logit_bias
    tuned = training.fine_tune_clip(model, pairs, config)
    assert tuned.logit_bias != before
    assert np.isfinite(tuned.logit_bias)


@pytest.mark.any_backend
def test_retrieval_ranks_equal_a_full_sort():
    rng = np.random.default_rng(0)
    queries, rows, groups = rng.normal(size=(40, 5)), rng.normal(size=(40, 5)), rng.integers(0, 15, 40)
    expected = []
    for query, group in zip(queries, groups, strict=True):
        order = np.argsort(-(rows @ query))
        expected.append(1 + int(np.flatnonzero(groups[order] == group)[0]))
    assert retrieval_ranks(queries, rows, groups, block=7).tolist() == expected


@pytest.mark.slow
def test_the_command_evaluates_retrieval_on_pairs(tmp_path):
    table = written(tmp_path / "pairs", 12)
    shown = CliRunner().invoke(app, ["evaluate", "convnext_mini.shapes", str(table), "--json"], catch_exceptions=False)
    found = json.loads(shown.stdout)
    expected = training.retrieval_metrics(
        clip.create_model("convnext_mini.shapes"), training.load_image_text_pairs(table)
    )
    assert found == pytest.approx(expected)
    assert 0 < found["text_to_image_recall_at_1"] <= found["text_to_image_recall_at_5"] <= 1
