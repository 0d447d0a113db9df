"""Classification with any labels."""

import keras
import numpy as np
import pytest
from backends import BACKEND, outputs, to_numpy

from convnext_keras import clip

SAME = 1e-5


def test_classifier_is_the_mean_of_prompts(model, held_out):
    images, labels = held_out[0][:5], ["a red circle", "a blue star", "green"]
    classifier = clip.ZeroShotClassifier(model, labels, ["{}", "an image of {}"])
    texts = model.encode_text([template.replace("{}", label) for label in labels for template in classifier.templates])
    mean = texts.reshape(3, 2, -1).mean(axis=1)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    cosines = model.encode_image(images) @ mean.T
    np.testing.assert_allclose(classifier.cosine_similarity(images), cosines, atol=SAME)
    expected = to_numpy(keras.ops.softmax(cosines * model.logit_scale))
    np.testing.assert_allclose(classifier.predict_proba(images, batch_size=2), expected, atol=1e-4)
    warmer = clip.ZeroShotClassifier(model, labels, ["{}", "an image of {}"], logit_scale=1.0)
    np.testing.assert_allclose(warmer.predict_proba(images), to_numpy(keras.ops.softmax(cosines)), atol=SAME)
    best = classifier.predict(images, top_k=2)
    assert [len(rows) for rows in best] == [2] * 5
    for rows, row in zip(best, expected, strict=True):
        assert rows[0].label == labels[row.argmax()]
        assert rows[0].probability == pytest.approx(row.max(), abs=1e-4)


@pytest.mark.any_backend
def test_threshold_returns_no_label(model, held_out):
    images, captions = held_out[0][:8], held_out[1][:8]
    own = clip.ZeroShotClassifier(model, captions, "{}", threshold=0.5)
    cosines = own.cosine_similarity(images).max(axis=1)
    assert [rows[0].label is None for rows in own.predict(images)] == (cosines < 0.5).tolist()
    never = clip.ZeroShotClassifier(model, captions, "{}", threshold=1.1)
    assert [(len(rows), rows[0].label) for rows in never.predict(images)] == [(1, None)] * 8


def test_to_keras_model_equals_predict_proba(model, held_out, tmp_path):
    classifier = clip.ZeroShotClassifier(model, held_out[1][:4], "{}")
    single = classifier.to_keras_model()
    pixels = held_out[0][:6].astype("float32")
    np.testing.assert_allclose(outputs(single, pixels), classifier.predict_proba(pixels), atol=1e-4)
    single.save(tmp_path / "single.keras")
    loaded = keras.saving.load_model(tmp_path / "single.keras")
    np.testing.assert_allclose(outputs(loaded, pixels), outputs(single, pixels), atol=SAME)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a SavedModel needs TensorFlow")
def test_zero_shot_classifier_is_exported(model, held_out, tmp_path):
    import tensorflow as tf

    single = clip.ZeroShotClassifier(model, ["a red circle", "a blue star"], "{}").to_keras_model()
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
def test_invalid_labels_and_templates_raise(model):
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
    with pytest.raises(ValueError, match="top_k must be 1"):
        clip.ZeroShotClassifier(model, ["cat", "dog"]).predict(np.zeros((64, 64, 3), "uint8"), top_k=0)
    hostile = clip.ZeroShotClassifier(model, ["{0.__class__}", "{}"], "a {}")
    assert hostile.labels == ("{0.__class__}", "{}")
    with pytest.raises(ValueError, match=r"\[80, 7\]. Received: count=8"):
        clip.imagenet_templates(8)


@pytest.mark.any_backend
def test_repr_shows_labels_and_model(model):
    classifier = clip.ZeroShotClassifier(model, ["red", "blue"])
    assert repr(classifier) == "<ZeroShotClassifier: ['red', 'blue'], model='clip_convnext_mini'>"
