"""ConvNeXt-CLIP against OpenCLIP, from pixels and strings to logits, and what it is used for."""

import keras
import numpy as np
import pytest
import safetensors.numpy
from backends import BACKEND, outputs, to_numpy
from clip_models import COSINE, LOGITS, SAME, load, random_images, variant
from make_clip_references import KINDS, SIZE, TEXTS, images
from make_references import REFERENCES, SMALL, arrays_of
from PIL import Image

from convnext_keras import ConvNeXt, WeightsError, clip, feature_extractor, load_weights


@pytest.mark.cross_backend
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_equal_open_clip(kind, clip_checkpoints):
    expected = arrays_of(REFERENCES / f"clip_{kind}.npz")
    loaded = load(kind, clip_checkpoints)
    image, text = loaded.encode_image(images()), loaded.encode_text(TEXTS, truncate="silent")
    assert (image * expected["image"]).sum(axis=1).min() >= COSINE
    assert (text * expected["text"]).sum(axis=1).min() >= COSINE
    assert loaded.logit_scale == pytest.approx(100)
    np.testing.assert_allclose(loaded.scores(image, text).logits, expected["logits"], atol=LOGITS)
    inputs = {
        "images": np.stack([loaded.transform(source_image) for source_image in images()]).astype("float32"),
        "tokens": loaded.tokenizer(TEXTS, truncate="silent"),
    }
    np.testing.assert_allclose(outputs(loaded, inputs), expected["logits"], atol=LOGITS)


@pytest.mark.any_backend
@pytest.mark.parametrize("kind", KINDS)
def test_towers_load_separately(kind, clip_checkpoints, tmp_path):
    """Also with the prefix of distributed training, and into the plain ConvNeXt."""
    expected = arrays_of(REFERENCES / f"clip_{kind}.npz")
    tensors = safetensors.numpy.load_file(clip_checkpoints / f"{kind}.safetensors")
    tensors["logit_scale"] = tensors["logit_scale"].reshape(1)
    path = tmp_path / "module.safetensors"
    safetensors.numpy.save_file({f"module.{name}": tensor for name, tensor in tensors.items()}, path)
    pixels = np.stack([load(kind, clip_checkpoints, weights=None).transform(image) for image in images()])
    for tower, file in (("image", clip_checkpoints / f"{kind}.safetensors"), ("text", path)):
        fresh = load(kind, clip_checkpoints, weights=None)
        encoder = getattr(fresh, f"{tower}_encoder")
        load_weights(encoder, file)
        found = fresh.encode_image(images()) if tower == "image" else fresh.encode_text(TEXTS, truncate="silent")
        assert (found * expected[tower]).sum(axis=1).min() >= COSINE
    assert load(kind, clip_checkpoints, weights=path).logit_scale == pytest.approx(100)
    trunk = ConvNeXt(
        **SMALL, epsilon=KINDS[kind]["epsilon"], weights=path, include_top=False, pooling="avg",
        include_preprocessing=False, input_shape=(SIZE, SIZE, 3),
    )  # fmt: skip
    whole = load(kind, clip_checkpoints).image_encoder
    features = keras.Model(whole.input, whole.get_layer("image_stage_3_block_0_add").output)
    normalized = whole.get_layer("image_prestem_normalization")(pixels.astype("float32"))
    mine = keras.Model(trunk.input, trunk.get_layer("convnext_stage_3_block_0_add").output)
    np.testing.assert_allclose(outputs(mine, normalized), outputs(features, pixels), atol=1e-4)


@pytest.mark.any_backend
@pytest.mark.parametrize("kind", KINDS)
def test_mismatched_file_is_rejected(kind, clip_checkpoints, tmp_path):
    tensors = safetensors.numpy.load_file(clip_checkpoints / f"{kind}.safetensors")
    prefix = "text." if KINDS[kind]["of"] == "CustomTextCLIP" else ""
    depth = KINDS[kind]["text"][2]
    faults = {
        "1 missing": {key: value for key, value in tensors.items() if key != "visual.trunk.head.norm.weight"},
        "1 not expected": {**tensors, f"{prefix}transformer.resblocks.{depth}.ln_1.weight": np.ones(16, "float32")},
        "1 unfit": {**tensors, f"{prefix}positional_embedding": np.ones((16, 77), "float32")},
        "not finite": {**tensors, f"{prefix}ln_final.bias": np.full(KINDS[kind]["text"][0], np.nan, "float32")},
    }
    fresh = load(kind, clip_checkpoints, weights=None)
    before = fresh.get_weights()
    for message, changed in faults.items():
        safetensors.numpy.save_file(changed, tmp_path / "changed.safetensors")
        with pytest.raises(WeightsError, match=message):
            load_weights(fresh, tmp_path / "changed.safetensors")
    for old, new in zip(before, fresh.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.any_backend
def test_a_checkpoint_of_another_size_and_a_pickle_are_refused(clip_checkpoints, tmp_path):
    with pytest.raises(WeightsError, match="unfit"):
        clip.CLIPConvNeXt(variant("custom_text"), weights=clip_checkpoints / "linear.safetensors")
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(WeightsError, match=r"pickle.*convnext-keras convert"):
        clip.CLIPConvNeXt(variant("linear"), weights=tmp_path / "open_clip_pytorch_model.bin")


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 32])
def test_batches_do_not_change_embeddings(batch_size, small_clip):
    texts = ["a", "a much longer text than the others " * 2, *TEXTS[:3], "b", "c"]
    pixels = random_images(7)
    together = small_clip.encode_image(pixels), small_clip.encode_text(texts)
    np.testing.assert_allclose(small_clip.encode_image(pixels, batch_size), together[0], atol=SAME)
    np.testing.assert_allclose(small_clip.encode_image(iter(pixels), batch_size), together[0], atol=SAME)
    np.testing.assert_allclose(small_clip.encode_text(texts, batch_size), together[1], atol=SAME)
    np.testing.assert_allclose(np.linalg.norm(together[0], axis=1), 1, atol=SAME)
    np.testing.assert_allclose(np.linalg.norm(together[1], axis=1), 1, atol=SAME)


def test_encode_accepts_one_and_zero_items(small_clip, tmp_path):
    (source_image,) = random_images(1)
    Image.fromarray(source_image).save(tmp_path / "image.png")
    expected = small_clip.encode_image([source_image])
    for image in (
        source_image,
        Image.fromarray(source_image),
        tmp_path / "image.png",
        str(tmp_path / "image.png"),
        source_image[None],
    ):
        np.testing.assert_allclose(small_clip.encode_image(image), expected, atol=SAME)
    assert small_clip.encode_text("one").shape == (1, 16)
    assert small_clip.encode_text([]).shape == small_clip.encode_image([]).shape == (0, 16)


@pytest.mark.any_backend
def test_encode_image_skips_broken_images(small_clip, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    first, last = random_images(2)
    images = [first, tmp_path / "broken.png", last]
    with pytest.raises(ValueError, match=r"broken\.png cannot be read"):
        small_clip.encode_image(images)
    with pytest.warns(UserWarning, match=r"Skipped: .*broken\.png"):
        found = small_clip.encode_image(images, on_error="skip")
    np.testing.assert_allclose(found, small_clip.encode_image([first, last]), atol=SAME)
    with pytest.raises(ValueError, match="'raise' or 'skip'.*'ignore'"):
        small_clip.encode_image(images, on_error="ignore")
    with pytest.raises(ValueError, match="batch_size must be 1 or more"):
        small_clip.encode_image(images, batch_size=0)


def test_similarity_keeps_cosines_logits_and_probabilities_apart(small_clip):
    scores = small_clip.similarity(random_images(2), ["a", "b", "c"])
    assert np.abs(scores.cosine).max() <= 1 + SAME
    np.testing.assert_allclose(scores.logits, scores.cosine * small_clip.logit_scale, rtol=1e-5)
    np.testing.assert_allclose(scores.probs.sum(axis=1), 1, atol=SAME)
    np.testing.assert_allclose(scores.probs, to_numpy(keras.ops.softmax(scores.logits)), atol=SAME)


def test_new_weights_are_used_after_the_first_call(clip_checkpoints):
    fresh = load("linear", clip_checkpoints, weights=None)
    fresh.encode_text("a")
    load_weights(fresh, clip_checkpoints / "linear.safetensors")
    np.testing.assert_allclose(fresh.encode_text("a"), load("linear", clip_checkpoints).encode_text("a"), atol=SAME)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_ends_in_float32(policy, clip_checkpoints):
    if BACKEND == "openvino" and policy == "mixed_bfloat16":
        pytest.skip("OpenVINO has no bfloat16 of its own for every operation")
    mixed = load("linear", clip_checkpoints, dtype=policy)
    assert mixed.output.dtype == mixed.image_encoder.output.dtype == mixed.text_encoder.output.dtype == "float32"
    exact = load("linear", clip_checkpoints)
    for name, inputs in (("encode_image", images()), ("encode_text", TEXTS[:4])):
        found, expected = getattr(mixed, name)(inputs), getattr(exact, name)(inputs)
        assert np.isfinite(found).all()
        assert (found * expected).sum(axis=1).min() > 0.999


def assert_same(found, expected):
    """Equal weights, and outputs but for the order in which TensorFlow's threads add."""
    for old, new in zip(expected.get_weights(), found.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_allclose(found.encode_image(random_images(1)), expected.encode_image(random_images(1)), atol=SAME)
    np.testing.assert_allclose(found.encode_text(TEXTS[:3]), expected.encode_text(TEXTS[:3]), atol=SAME)


@pytest.mark.cross_backend
@pytest.mark.parametrize("extension", ["keras", "weights.h5", "h5"])
def test_saved_model_keeps_outputs(extension, small_clip, tmp_path):
    if extension == "h5" and BACKEND == "openvino":
        pytest.skip("Keras cannot write a Normalization layer to a whole-model .h5 under OpenVINO")
    path = tmp_path / f"small_clip.{extension}"
    if extension == "weights.h5":
        small_clip.save_weights(path)
        found = clip.CLIPConvNeXt(variant("linear"))
        found.load_weights(path)
    else:
        small_clip.save(path)
        found = keras.saving.load_model(path)
    assert isinstance(found, clip.CLIP)
    assert_same(found, small_clip)


def test_towers_are_saved_separately(small_clip, tmp_path):
    for tower in ("image_encoder", "text_encoder"):
        encoder = getattr(small_clip, tower)
        encoder.save(tmp_path / f"{tower}.keras")
        inputs = np.ones((1, SIZE, SIZE, 3), "float32") if tower == "image_encoder" else small_clip.tokenizer("a dog")
        found = keras.saving.load_model(tmp_path / f"{tower}.keras")
        np.testing.assert_allclose(outputs(found, inputs), outputs(encoder, inputs), atol=SAME)


def test_clones_and_features(small_clip):
    clone = keras.models.clone_model(small_clip)
    clone.set_weights(small_clip.get_weights())
    assert_same(clone, small_clip)
    shapes = [shape[1:] for shape in feature_extractor(small_clip.image_encoder).output_shape]
    assert shapes == [(16, 16, 4), (8, 8, 8), (4, 4, 12), (2, 2, 16)]
