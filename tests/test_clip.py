"""ConvNeXt-CLIP against OpenCLIP, from pixels and strings to logits, and what it is used for."""

import math

import keras
import numpy as np
import pytest
import safetensors.numpy
from conftest import BACKEND, needs_training, outputs, randomise, to_numpy
from make_clip_references import KINDS, SIZE, TEXTS, TOKEN_EMBEDDING, images, token_embedding
from make_references import REFERENCES, SMALL
from PIL import Image

from convnext_keras import ConvNeXt, WeightsError, clip, feature_extractor, load_weights
from convnext_keras import weights as weight_sets
from convnext_keras.clip.models import CLIP_VARIANTS
from convnext_keras.variants import Variant

COSINE, LOGITS = 0.99999, 1e-3
# Float32 sums of another number of rows or columns.
SAME = 1e-5


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """The reference models' files, whole."""
    folder = tmp_path_factory.mktemp("clip")
    for kind, row in KINDS.items():
        tensors = safetensors.numpy.load_file(REFERENCES / f"clip_{kind}.safetensors")
        prefix = "text." if row["of"] == "CustomTextCLIP" else ""
        tensors[prefix + TOKEN_EMBEDDING] = token_embedding(row["text"][0])
        safetensors.numpy.save_file(tensors, folder / f"{kind}.safetensors")
    return folder


def variant(kind):
    row = KINDS[kind]
    hidden = 2 * row["embedding"] if row["projection"] == "mlp" else None
    trunk = Variant(**SMALL, epsilon=row["epsilon"])
    return clip.ClipVariant(trunk, clip.TextTower(*row["text"]), row["embedding"], SIZE, projection_hidden=hidden)


def load(kind, folder, **arguments):
    return clip.CLIPConvNeXt(variant(kind), **{"weights": folder / f"{kind}.safetensors", **arguments})


@pytest.fixture(scope="module")
def model():
    """A small model with random weights, which no test changes."""
    return randomise(clip.CLIPConvNeXt(variant("linear")))


def pictures(number):
    return [np.random.default_rng(seed).integers(0, 256, (70, 80, 3), "uint8") for seed in range(number)]


@pytest.mark.parametrize("kind", KINDS)
def test_from_pixels_and_strings_to_logits(kind, checkpoints):
    expected = np.load(REFERENCES / f"clip_{kind}.npz")
    loaded = load(kind, checkpoints)
    image, text = loaded.encode_image(images()), loaded.encode_text(TEXTS, truncate="silent")
    assert (image * expected["image"]).sum(axis=1).min() >= COSINE
    assert (text * expected["text"]).sum(axis=1).min() >= COSINE
    assert loaded.scale == pytest.approx(100)
    np.testing.assert_allclose(loaded.scores(image, text).logits, expected["logits"], atol=LOGITS)
    inputs = {
        "images": np.stack([loaded.recipe(picture) for picture in images()]).astype("float32"),
        "tokens": loaded.tokenizer(TEXTS, truncate="silent"),
    }
    np.testing.assert_allclose(outputs(loaded, inputs), expected["logits"], atol=LOGITS)


@pytest.mark.parametrize("kind", KINDS)
def test_towers_load_apart(kind, checkpoints, tmp_path):
    """Also with the prefix of distributed training, and into the plain ConvNeXt."""
    expected = np.load(REFERENCES / f"clip_{kind}.npz")
    tensors = safetensors.numpy.load_file(checkpoints / f"{kind}.safetensors")
    tensors["logit_scale"] = tensors["logit_scale"].reshape(1)
    path = tmp_path / "module.safetensors"
    safetensors.numpy.save_file({f"module.{name}": tensor for name, tensor in tensors.items()}, path)
    pixels = np.stack([load(kind, checkpoints, weights=None).recipe(picture) for picture in images()])
    for tower, file in (("image", checkpoints / f"{kind}.safetensors"), ("text", path)):
        fresh = load(kind, checkpoints, weights=None)
        encoder = getattr(fresh, f"{tower}_encoder")
        load_weights(encoder, file)
        found = fresh.encode_image(images()) if tower == "image" else fresh.encode_text(TEXTS, truncate="silent")
        assert (found * expected[tower]).sum(axis=1).min() >= COSINE
    assert load(kind, checkpoints, weights=path).scale == pytest.approx(100)
    trunk = ConvNeXt(
        **SMALL, epsilon=KINDS[kind]["epsilon"], weights=path, include_top=False, pooling="avg",
        include_preprocessing=False, input_shape=(SIZE, SIZE, 3),
    )  # fmt: skip
    whole = load(kind, checkpoints).image_encoder
    features = keras.Model(whole.input, whole.get_layer("image_stage_3_block_0_add").output)
    normalised = whole.get_layer("image_prestem_normalization")(pixels.astype("float32"))
    mine = keras.Model(trunk.input, trunk.get_layer("convnext_stage_3_block_0_add").output)
    np.testing.assert_allclose(outputs(mine, normalised), outputs(features, pixels), atol=1e-4)


@pytest.mark.any_backend
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_does_not_fit_is_refused(kind, checkpoints, tmp_path):
    tensors = safetensors.numpy.load_file(checkpoints / f"{kind}.safetensors")
    prefix = "text." if KINDS[kind]["of"] == "CustomTextCLIP" else ""
    depth = KINDS[kind]["text"][2]
    faults = {
        "1 missing": {key: value for key, value in tensors.items() if key != "visual.trunk.head.norm.weight"},
        "1 not expected": {**tensors, f"{prefix}transformer.resblocks.{depth}.ln_1.weight": np.ones(16, "float32")},
        "1 unfit": {**tensors, f"{prefix}positional_embedding": np.ones((16, 77), "float32")},
        "not finite": {**tensors, f"{prefix}ln_final.bias": np.full(KINDS[kind]["text"][0], np.nan, "float32")},
    }
    fresh = load(kind, checkpoints, weights=None)
    before = fresh.get_weights()
    for message, changed in faults.items():
        safetensors.numpy.save_file(changed, tmp_path / "changed.safetensors")
        with pytest.raises(WeightsError, match=message):
            load_weights(fresh, tmp_path / "changed.safetensors")
    for old, new in zip(before, fresh.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.any_backend
def test_a_checkpoint_of_another_size_and_a_pickle_are_refused(checkpoints, tmp_path):
    with pytest.raises(WeightsError, match="unfit"):
        clip.CLIPConvNeXt(variant("custom_text"), weights=checkpoints / "linear.safetensors")
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(WeightsError, match=r"pickle.*convert_checkpoint\.py"):
        clip.CLIPConvNeXt(variant("linear"), weights=tmp_path / "open_clip_pytorch_model.bin")


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 32])
def test_batches_do_not_change_embeddings(batch_size, model):
    texts = ["a", "a much longer text than the others " * 2, *TEXTS[:3], "b", "c"]
    pixels = pictures(7)
    together = model.encode_image(pixels), model.encode_text(texts)
    np.testing.assert_allclose(model.encode_image(pixels, batch_size), together[0], atol=SAME)
    np.testing.assert_allclose(model.encode_image(iter(pixels), batch_size), together[0], atol=SAME)
    np.testing.assert_allclose(model.encode_text(texts, batch_size), together[1], atol=SAME)
    np.testing.assert_allclose(np.linalg.norm(together[0], axis=1), 1, atol=SAME)
    np.testing.assert_allclose(np.linalg.norm(together[1], axis=1), 1, atol=SAME)


def test_single_items_and_none_at_all(model, tmp_path):
    (picture,) = pictures(1)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    expected = model.encode_image([picture])
    for image in (
        picture,
        Image.fromarray(picture),
        tmp_path / "picture.png",
        str(tmp_path / "picture.png"),
        picture[None],
    ):
        np.testing.assert_allclose(model.encode_image(image), expected, atol=SAME)
    assert model.encode_text("one").shape == (1, 16)
    assert model.encode_text([]).shape == model.encode_image([]).shape == (0, 16)


@pytest.mark.any_backend
def test_broken_pictures_are_named_and_skipped_if_asked(model, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    first, last = pictures(2)
    images = [first, tmp_path / "broken.png", last]
    with pytest.raises(ValueError, match=r"broken\.png cannot be read"):
        model.encode_image(images)
    with pytest.warns(UserWarning, match=r"Skipped: .*broken\.png"):
        found = model.encode_image(images, on_error="skip")
    np.testing.assert_allclose(found, model.encode_image([first, last]), atol=SAME)
    with pytest.raises(ValueError, match="'raise' or 'skip'.*'ignore'"):
        model.encode_image(images, on_error="ignore")
    with pytest.raises(ValueError, match="batch_size must be 1 or more"):
        model.encode_image(images, batch_size=0)


def test_similarity_keeps_cosines_logits_and_probabilities_apart(model):
    scores = model.similarity(pictures(2), ["a", "b", "c"])
    assert np.abs(scores.cosine).max() <= 1 + SAME
    np.testing.assert_allclose(scores.logits, scores.cosine * model.scale, rtol=1e-5)
    np.testing.assert_allclose(scores.probs.sum(axis=1), 1, atol=SAME)
    np.testing.assert_allclose(scores.probs, to_numpy(keras.ops.softmax(scores.logits)), atol=SAME)


def test_new_weights_are_used_after_the_first_call(checkpoints):
    fresh = load("linear", checkpoints, weights=None)
    fresh.encode_text("a")
    load_weights(fresh, checkpoints / "linear.safetensors")
    np.testing.assert_allclose(fresh.encode_text("a"), load("linear", checkpoints).encode_text("a"), atol=SAME)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_ends_in_float32(policy, checkpoints):
    if BACKEND == "openvino" and policy == "mixed_bfloat16":
        pytest.skip("OpenVINO has no bfloat16 of its own for every operation")
    mixed = load("linear", checkpoints, dtype=policy)
    assert mixed.output.dtype == mixed.image_encoder.output.dtype == mixed.text_encoder.output.dtype == "float32"
    exact = load("linear", checkpoints)
    for name, inputs in (("encode_image", images()), ("encode_text", TEXTS[:4])):
        found, expected = getattr(mixed, name)(inputs), getattr(exact, name)(inputs)
        assert np.isfinite(found).all()
        assert (found * expected).sum(axis=1).min() > 0.999


def assert_same(found, expected):
    """Equal weights, and outputs but for the order in which TensorFlow's threads add."""
    for old, new in zip(expected.get_weights(), found.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_allclose(found.encode_image(pictures(1)), expected.encode_image(pictures(1)), atol=SAME)
    np.testing.assert_allclose(found.encode_text(TEXTS[:3]), expected.encode_text(TEXTS[:3]), atol=SAME)


@pytest.mark.parametrize("extension", ["keras", "weights.h5", "h5"])
def test_saving(extension, model, tmp_path):
    if extension == "h5" and BACKEND == "openvino":
        pytest.skip("Keras cannot write a Normalization layer to a whole-model .h5 under OpenVINO")
    path = tmp_path / f"model.{extension}"
    if extension == "weights.h5":
        model.save_weights(path)
        found = clip.CLIPConvNeXt(variant("linear"))
        found.load_weights(path)
    else:
        model.save(path)
        found = keras.saving.load_model(path)
    assert isinstance(found, clip.CLIP)
    assert_same(found, model)


def test_towers_are_saved_apart(model, tmp_path):
    for tower in ("image_encoder", "text_encoder"):
        encoder = getattr(model, tower)
        encoder.save(tmp_path / f"{tower}.keras")
        inputs = np.ones((1, SIZE, SIZE, 3), "float32") if tower == "image_encoder" else model.tokenizer("a dog")
        found = keras.saving.load_model(tmp_path / f"{tower}.keras")
        np.testing.assert_allclose(outputs(found, inputs), outputs(encoder, inputs), atol=SAME)


def test_clones_and_features(model):
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert_same(clone, model)
    shapes = [shape[1:] for shape in feature_extractor(model.image_encoder).output_shape]
    assert shapes == [(16, 16, 4), (8, 8, 8), (4, 4, 12), (2, 2, 16)]


def test_other_picture_sizes(checkpoints):
    larger = load("linear", checkpoints, image_size=96)
    assert larger.recipe.size == 96
    assert larger.encode_image(images()).shape == (3, 16)
    with pytest.raises(ValueError, match="at least 32 pixels"):
        clip.CLIPConvNeXt(variant("linear"), image_size=16)


def test_channels_first(checkpoints):
    expected = load("linear", checkpoints).encode_image(images())
    keras.config.set_image_data_format("channels_first")
    found = load("linear", checkpoints).encode_image(images())
    np.testing.assert_allclose(found, expected, atol=SAME)


@pytest.mark.skipif(BACKEND != "torch", reason="counts need no numbers, and only PyTorch makes tensors without them")
@pytest.mark.parametrize("name", CLIP_VARIANTS)
def test_parameter_counts_are_the_published_ones(name):
    with keras.device("meta"):
        built = clip.create_model(name, weights=None)
    assert built.count_params() == CLIP_VARIANTS[name].parameters


@pytest.mark.any_backend
def test_names_of_models():
    for name in clip.list_weights():
        row = weight_sets.registry("clip")[name]
        assert weight_sets.find(row.repository or row.tag, row.variant, "clip") == row
        assert weight_sets.find(row.tag.upper().replace("_", "-"), row.variant, "clip") == row
    with pytest.raises(ValueError, match=r"Did you mean 'convnext_base_w'\?"):
        clip.create_model("convnext_basew")
    with pytest.raises(ValueError, match=r"laion2b_s13b_b82k_augreg.*Did you mean 'laion2b_s13b_b82k'"):
        clip.CLIPConvNeXtBaseW("laion2b_s13b_b82")
    with pytest.raises(ValueError, match="one of"):
        clip.CLIPConvNeXtBaseW("laion400m_s13b_b51k")


@needs_training
def test_training_keeps_the_scale_and_frozen_towers(model):
    tuned = keras.models.clone_model(model)
    tuned.set_weights(model.get_weights())
    tuned.image_encoder.trainable = False
    tuned.get_layer("similarity").logit_scale.assign(math.log(99.9))
    tuned.compile(keras.optimizers.SGD(0.5), clip.ContrastiveLoss())
    inputs = {
        "images": np.stack([model.recipe(picture) for picture in pictures(4)]).astype("float32"),
        "tokens": model.tokenizer(["a", "b", "c", "d"]),
    }
    frozen = tuned.image_encoder.get_weights()
    texts = tuned.text_encoder.get_weights()
    tuned.fit(inputs, batch_size=4, epochs=5, verbose=0)
    assert tuned.scale <= 100 * (1 + 1e-6)
    for before, after in zip(frozen, tuned.image_encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert not np.array_equal(texts[0], tuned.text_encoder.get_weights()[0])


def numpy_loss(logits, groups):
    """Twice the cross-entropy with the target shared evenly by the rows of a group, in float64."""
    targets = (groups[:, None] == groups[None]).astype(float)
    targets /= targets.sum(axis=1, keepdims=True)
    total = 0.0
    for side in (logits.astype(float), logits.T.astype(float)):
        total -= (targets * (side - np.log(np.exp(side).sum(axis=1, keepdims=True)))).sum(axis=1).mean()
    return total / 2


@pytest.mark.parametrize("groups", [[0, 1, 2, 3], [0, 1, 0, 3], [0, 0, 0, 0]])
def test_loss_shares_the_target_among_equal_captions(groups):
    groups = np.array(groups)
    logits = np.random.default_rng(0).normal(0, 3, (4, 4)).astype("float32")
    loss = to_numpy(clip.ContrastiveLoss()(groups, logits))
    assert loss == pytest.approx(numpy_loss(logits, groups), rel=1e-5)


def test_equal_texts_are_found_in_the_tokens(model):
    tokens = model.tokenizer(["a", "b", "a", "c"])
    inputs = {
        "images": np.stack([model.recipe(picture) for picture in pictures(4)]).astype("float32"),
        "tokens": tokens,
    }
    logits = outputs(model, inputs)
    clone = keras.models.clone_model(model)
    clone.compile(loss=clip.ContrastiveLoss())
    found = clone.compute_loss(
        x={"tokens": keras.ops.convert_to_tensor(tokens)}, y_pred=keras.ops.convert_to_tensor(logits)
    )
    assert to_numpy(found) == pytest.approx(numpy_loss(logits, np.array([0, 1, 0, 3])), rel=1e-5)


@pytest.mark.any_backend
def test_interpolation_ends_are_exact(model):
    other = randomise(clip.CLIPConvNeXt(variant("linear")), seed=2)
    for weight, end in ((0, model), (1, other)):
        for found, expected in zip(
            clip.interpolate(model, other, weight).get_weights(), end.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(found, expected)
    half = clip.interpolate(model, other, 0.5).get_weights()
    np.testing.assert_allclose(half[5], (model.get_weights()[5] + other.get_weights()[5]) / 2, atol=1e-6)
    with pytest.raises(ValueError, match="0 to 1"):
        clip.interpolate(model, other, 2)
    with pytest.raises(ValueError, match="same variant"):
        clip.interpolate(model, clip.CLIPConvNeXt(variant("custom_text")), 0.5)


@pytest.mark.any_backend
def test_augmentation_crops_and_erases():
    picture = np.zeros((60, 80, 3), "uint8")
    erased = [clip.RandomCropAndErase(32, erase=1.0, seed=seed)(picture) for seed in range(20)]
    parts = [np.mean(pixels.any(axis=-1)) for pixels in erased]
    assert min(parts) >= 0.01
    assert max(parts) < 0.4
    assert not clip.RandomCropAndErase(32, erase=0.0)(picture).any()
    gradient = np.tile(np.linspace(0, 255, 80).astype("uint8")[None, :, None], (60, 1, 3))
    means = [clip.RandomCropAndErase(32, erase=0.0, seed=seed)(gradient).mean() for seed in range(20)]
    assert np.std(means) > 5
