"""Zero-shot classification, search, the bundled ConvNeXt-CLIP, and the scripts that measure and tune it."""

import csv
import sys

import evaluate_zero_shot
import fine_tune_clip
import keras
import numpy as np
import pyarrow.parquet
import pytest
import safetensors.numpy
import shapes
import train_shapes_clip
from conftest import BACKEND, needs_training, outputs, to_numpy
from PIL import Image

from convnext_keras import WeightsError, clip, sheets
from convnext_keras.clip.retrieval import index_weights, picture_files, write_vectors

SAME = 1e-5


@pytest.fixture(scope="module")
def model():
    return clip.create_model("shapes")


@pytest.fixture(scope="module")
def held_out():
    return sheets.held_out_shapes()


@pytest.fixture
def folder(held_out, tmp_path):
    """Twelve pictures in two folders, named by their captions."""
    for number, (pixels, caption) in enumerate(zip(*held_out, strict=True)):
        if number < 12:
            path = tmp_path / "pictures" / str(number % 2) / f"{caption.replace(' ', '-')}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path / "pictures"


def test_the_bundled_model_reaches_what_its_card_says(model):
    """On combinations of attributes that were never in training."""
    training, held_out = shapes.split()
    assert not set(training) & set(held_out)
    assert len(held_out) == 864
    found = train_shapes_clip.measure(model)
    assert found["zero-shot accuracy"] >= 90
    assert found["recall@1 of text to image"] >= 90


def test_classifier_is_the_mean_of_prompts(model, held_out):
    pictures, labels = held_out[0][:5], ["a red circle", "a blue star", "green"]
    classifier = clip.ZeroShotClassifier(model, labels, ["{}", "a picture of {}"])
    texts = model.encode_text([template.replace("{}", label) for label in labels for template in classifier.templates])
    mean = texts.reshape(3, 2, -1).mean(axis=1)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    cosines = model.encode_image(pictures) @ mean.T
    np.testing.assert_allclose(classifier.cosines(pictures), cosines, atol=SAME)
    expected = to_numpy(keras.ops.softmax(cosines * model.scale))
    np.testing.assert_allclose(classifier.probabilities(pictures, batch_size=2), expected, atol=1e-4)
    warmer = clip.ZeroShotClassifier(model, labels, ["{}", "a picture of {}"], temperature=1.0)
    np.testing.assert_allclose(warmer.probabilities(pictures), to_numpy(keras.ops.softmax(cosines)), atol=SAME)
    best = classifier.predict(pictures, top=2)
    assert [len(rows) for rows in best] == [2] * 5
    for rows, row in zip(best, expected, strict=True):
        assert rows[0].label == labels[row.argmax()]
        assert rows[0].probability == pytest.approx(row.max(), abs=1e-4)


def test_none_of_these(model, held_out):
    pictures, captions = held_out[0][:8], held_out[1][:8]
    own = clip.ZeroShotClassifier(model, captions, "{}", threshold=0.5)
    cosines = own.cosines(pictures).max(axis=1)
    assert [rows[0].label is None for rows in own.predict(pictures)] == (cosines < 0.5).tolist()
    never = clip.ZeroShotClassifier(model, captions, "{}", threshold=1.1)
    assert [(len(rows), rows[0].label) for rows in never.predict(pictures)] == [(1, None)] * 8


def test_classifier_as_one_model(model, held_out, tmp_path):
    classifier = clip.ZeroShotClassifier(model, held_out[1][:4], "{}")
    single = classifier.as_model()
    pixels = held_out[0][:6].astype("float32")
    np.testing.assert_allclose(outputs(single, pixels), classifier.probabilities(pixels), atol=1e-4)
    single.save(tmp_path / "single.keras")
    loaded = keras.saving.load_model(tmp_path / "single.keras")
    np.testing.assert_allclose(outputs(loaded, pixels), outputs(single, pixels), atol=SAME)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a SavedModel needs TensorFlow")
def test_export(model, held_out, tmp_path):
    import tensorflow as tf

    single = clip.ZeroShotClassifier(model, ["a red circle", "a blue star"], "{}").as_model()
    tokens = model.tokenizer(held_out[1][:2])
    pixels = held_out[0][:3].astype("float32")
    for name, exported, inputs in (
        ("single", single, pixels),
        ("image", model.image_encoder, pixels),
        ("text", model.text_encoder, tokens),
    ):
        exported.export(tmp_path / name, verbose=False)
        loaded = tf.saved_model.load(str(tmp_path / name))
        np.testing.assert_allclose(loaded.serve(inputs), outputs(exported, inputs), atol=1e-4)


@pytest.mark.any_backend
def test_bad_labels_and_templates(model):
    with pytest.raises(ValueError, match="at least one string"):
        clip.ZeroShotClassifier(model, [])
    with pytest.raises(ValueError, match=r"Received one string: 'cat'. Use labels=\['cat'\]"):
        clip.ZeroShotClassifier(model, "cat")
    with pytest.raises(ValueError, match="not empty. Received: ''"):
        clip.ZeroShotClassifier(model, ["cat", " "])
    with pytest.raises(ValueError, match=r"\{\} in the place of the label. Received: 'a photo'"):
        clip.ZeroShotClassifier(model, ["cat", "dog"], "a photo")
    with pytest.raises(ValueError, match="at least one string"):
        clip.ZeroShotClassifier(model, ["cat", "dog"], [])
    with pytest.warns(UserWarning, match="one label 'cat' every probability is 1"):
        clip.ZeroShotClassifier(model, ["cat"])
    with pytest.warns(UserWarning, match=r"more than once share.*\['cat'\]"):
        clip.ZeroShotClassifier(model, ["cat", "dog", "cat"])
    with pytest.raises(ValueError, match="top must be 1"):
        clip.ZeroShotClassifier(model, ["cat", "dog"]).predict(np.zeros((64, 64, 3), "uint8"), top=0)
    hostile = clip.ZeroShotClassifier(model, ["{0.__class__}", "{}"], "a {}")
    assert hostile.labels == ("{0.__class__}", "{}")
    with pytest.raises(ValueError, match=r"\[80, 7\]. Received: number=8"):
        clip.imagenet_templates(8)


def test_search_is_exact(model, held_out):
    pictures, captions = held_out
    index = clip.ImageIndex(model)
    assert index.add(pictures, names=captions) == len(index) == 48
    query = "a small red circle on the left"
    cosines = model.encode_image(pictures) @ model.encode_text(query)[0]
    hits = index.search(query, top=7)
    assert [hit.name for hit in hits] == [captions[place] for place in np.argsort(-cosines, kind="stable")[:7]]
    np.testing.assert_allclose([hit.cosine for hit in hits], np.sort(cosines)[::-1][:7], atol=SAME)
    assert index.search(pictures[3], top=1)[0].name == captions[3]
    assert index.search(pictures[3], top=1)[0].cosine == pytest.approx(1, abs=SAME)
    assert len(index.search(query, top=1000)) == 48


@pytest.mark.any_backend
def test_index_grows_without_being_rewritten(model, folder, held_out, tmp_path):
    index = clip.ImageIndex(model)
    assert index.add(folder) == 12
    assert index.names == [str(path) for path in picture_files(folder)]
    index.save(tmp_path / "index")
    first = (tmp_path / "index" / "0000.safetensors").stat()
    index.save(tmp_path / "index")
    index.add(held_out[0][20:23])
    index.save(tmp_path / "index")
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [
        "0000.csv", "0000.safetensors", "0001.csv", "0001.safetensors",
    ]  # fmt: skip
    assert (tmp_path / "index" / "0000.safetensors").stat() == first
    loaded = clip.ImageIndex.load(tmp_path / "index", model)
    assert loaded.names == [*index.names[:12], "picture 12", "picture 13", "picture 14"]
    np.testing.assert_array_equal(loaded.vectors, index.vectors)
    assert index_weights(tmp_path / "index") == "convnext_mini.shapes"
    with pytest.raises(ValueError, match="holds another index"):
        clip.ImageIndex(model).save(tmp_path / "index")


@pytest.mark.any_backend
def test_indexes_of_other_models_and_broken_ones_are_refused(model, folder, tmp_path):
    index = clip.ImageIndex(model)
    index.add(folder)
    index.save(tmp_path / "index")
    other = clip.create_model("convnext_mini", weights=None)
    with pytest.raises(WeightsError, match="made by another model"):
        clip.ImageIndex.load(tmp_path / "index", other)
    table = tmp_path / "index" / "0000.csv"
    table.write_text("name\nonly one\n")
    with pytest.raises(WeightsError, match="12 vectors, but its table 1 names"):
        clip.ImageIndex.load(tmp_path / "index", model)
    (tmp_path / "index" / "0000.safetensors").write_bytes(b"broken")
    with pytest.raises(WeightsError, match="broken or not an index"):
        clip.ImageIndex.load(tmp_path / "index", model)
    with pytest.raises(WeightsError, match="holds no index"):
        clip.ImageIndex.load(tmp_path, model)
    with pytest.raises(WeightsError, match="holds no index"):
        index_weights(tmp_path)
    index = clip.ImageIndex(other)
    index.add(folder)
    index.save(tmp_path / "other")
    with pytest.raises(WeightsError, match="without published weights"):
        index_weights(tmp_path / "other")


@pytest.mark.any_backend
def test_adding_pictures_is_all_or_nothing(model, folder, tmp_path):
    index = clip.ImageIndex(model)
    broken = next(folder.rglob("*.png"))
    broken.write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=f"{broken.name} cannot be read"):
        index.add(folder)
    assert len(index) == len(index.vectors) == 0
    with pytest.warns(UserWarning, match=f"Skipped: .*{broken.name}"):
        assert index.add(folder, on_error="skip") == 11
    assert str(broken) not in index.names
    assert len(index.vectors) == 11
    with pytest.raises(ValueError, match="zip"):
        index.add([np.zeros((4, 4, 3), "uint8")] * 2, names=["one"])
    assert len(index) == 11
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no pictures"):
        index.add(tmp_path / "empty")
    with pytest.raises(ValueError, match="text to search for is empty"):
        index.search("  ")
    with pytest.raises(ValueError, match="index is empty"):
        clip.ImageIndex(model).search("a")
    with pytest.raises(ValueError, match="top must be 1"):
        index.search("a", top=0)


@pytest.mark.any_backend
def test_vectors_are_written_whole_or_not_at_all(model, folder, tmp_path):
    path = tmp_path / "vectors.safetensors"
    assert write_vectors(path, model.image_batches(folder.rglob("*.png"), batch_size=5), model) == 12
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata()["weights"] == "convnext_mini.shapes"
        np.testing.assert_allclose(file.get_tensor("vectors"), model.encode_image(folder.rglob("*.png")), atol=SAME)
    table = tmp_path / "vectors.parquet"
    assert write_vectors(table, model.image_batches(picture_files(folder), batch_size=5), model) == 12
    rows = pyarrow.parquet.read_table(table)
    assert rows["name"].to_pylist() == [str(path) for path in picture_files(folder)]
    np.testing.assert_allclose(rows["vector"].to_pylist(), model.encode_image(picture_files(folder)), atol=SAME)
    assert rows.schema.metadata[b"weights"] == b"convnext_mini.shapes"
    (folder / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"broken\.png"):
        write_vectors(tmp_path / "new.safetensors", model.image_batches(picture_files(folder)), model)
    with pytest.raises(ValueError, match=r"end in .safetensors or .parquet"):
        write_vectors(tmp_path / "new.npy", [], model)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("new")]


@pytest.mark.any_backend
def test_evaluation_by_folders(folder, tmp_path, monkeypatch, capsys):
    pictures, captions = sheets.held_out_shapes()
    for pixels, caption in zip(pictures, captions, strict=True):
        path = tmp_path / "classes" / caption.split()[2] / f"{caption}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    command = ["evaluate", "--weights", "shapes", "--images", str(tmp_path / "classes"), "--template", "a {} shape"]
    monkeypatch.setattr(sys, "argv", [*command, "--state", str(tmp_path / "state")])
    evaluate_zero_shot.main()
    first = capsys.readouterr().out
    assert "pictures: 48\nclasses: 6\ntemplates: 1\n" in first
    assert float(first.split("top-1: ")[1].split(" %")[0]) > 90  # chance: 17
    assert float(first.split("top-5: ")[1].split(" %")[0]) > 97
    monkeypatch.setattr(clip.CLIP, "encode_image", None)  # Nothing is computed twice.
    evaluate_zero_shot.main()
    assert capsys.readouterr().out == first


@pytest.mark.any_backend
def test_evaluation_by_captions(tmp_path, monkeypatch, capsys):
    pictures, captions = sheets.held_out_shapes()
    with (tmp_path / "captions.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "caption"])
        for number, (pixels, caption) in enumerate(zip(pictures, captions, strict=True)):
            Image.fromarray(pixels).save(tmp_path / f"{number}.png")
            writer.writerows([[f"{number}.png", caption], [f"{number}.png", f"a picture of {caption}"]])
    command = ["evaluate", "--weights", "shapes", "--images", str(tmp_path), "--state", str(tmp_path / "state")]
    monkeypatch.setattr(sys, "argv", [*command, "--captions", str(tmp_path / "captions.csv")])
    evaluate_zero_shot.main()
    found = dict(line.split(": ") for line in capsys.readouterr().out.splitlines()[1:])
    assert (found["pictures"], found["captions"]) == ("48", "96")
    for direction in ("text to image", "image to text"):
        one, five, ten = (float(found[f"{direction} recall@{rank}"].removesuffix(" %")) for rank in (1, 5, 10))
        assert 90 <= one <= five <= ten <= 100


@needs_training
@pytest.mark.skipif(BACKEND == "jax", reason="compiling takes a minute and shows nothing that the others do not")
def test_fine_tuning_learns_new_classes(model, monkeypatch):
    monkeypatch.setattr(shapes, "COLOURS", {**shapes.COLOURS, "pink": (245, 130, 190)})
    monkeypatch.setattr(shapes, "SHAPES", {**shapes.SHAPES, "heart": 24})
    random = np.random.default_rng(0)
    scenes = fine_tune_clip.new_scenes()
    order = random.permutation(len(scenes))
    training, held_out = [scenes[index] for index in order[100:]], [scenes[index] for index in order[:100]]
    pictures = [shapes.draw(scene, random) for scene in held_out]
    before = fine_tune_clip.accuracy(model, held_out, pictures)
    tuned = fine_tune_clip.fine_tune(model, training, random, steps=20)
    assert fine_tune_clip.accuracy(tuned, held_out, pictures) > before
