"""The constructors. The first part is the ConvNeXt part of Keras' own test suite of applications, rewritten."""

import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest
from backends import BACKEND, needs_training, outputs, randomize, to_numpy
from clip_models import variant
from waiting import TIMEOUT

import convnext_keras
from convnext_keras import ConvNeXt, ConvNeXtTiny, clip
from convnext_keras.configs import CONVNEXT_CONFIGS
from convnext_keras.data.transforms import NORMALIZATION_STATS, normalize

CONSTRUCTORS = ("ConvNeXtTiny", "ConvNeXtSmall", "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtXLarge")
DEPTHS, DIMS = (1, 1, 2, 1), (8, 12, 16, 24)
ANY_SIZE = (None, None, 3)


def small(**arguments):
    return ConvNeXt(DEPTHS, DIMS, **{"classes": 5, "input_shape": ANY_SIZE, **arguments})


def some_pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype("float32")


def test_application_base():
    assert ConvNeXtTiny(weights=None).output_shape == (None, 1000)


@pytest.mark.cross_backend
@pytest.mark.parametrize("order", ["channels_last", "channels_first"])
def test_application_notop(order):
    keras.config.set_image_data_format(order)
    model = ConvNeXtTiny(weights=None, include_top=False)
    expected = (None, None, None, 768) if order == "channels_last" else (None, 768, None, None)
    assert model.output_shape == expected


@pytest.mark.cross_backend
@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_application_pooling(pooling):
    assert ConvNeXtTiny(weights=None, include_top=False, pooling=pooling).output_shape == (None, 768)


@pytest.mark.cross_backend
@pytest.mark.parametrize("channels", [1, 4])
def test_application_variable_input_channels(channels):
    """Keras leaves the normalization out in silence for other channel counts; here a warning says so."""
    arguments = {"weights": None, "include_top": False, "input_shape": (None, None, channels)}
    with pytest.warns(UserWarning, match=f"no statistics for {channels} channels"):
        warned = small(**arguments)
    for model in (warned, small(**arguments, include_preprocessing=False)):
        assert model.output_shape == (None, None, None, DIMS[-1])
        assert not any(isinstance(layer, keras.layers.Normalization) for layer in model.layers)


@pytest.mark.parametrize("size", [32, 47, 224])
def test_variable_input_size(size):
    model = small()
    assert outputs(model, some_pixels(1, size, size + 3, 3)).shape == (1, 5)


def test_input_tensor():
    inputs = keras.Input((64, 64, 3))
    model = small(input_tensor=inputs, input_shape=(64, 64, 3))
    assert model.input is inputs


def test_two_backbones_fit_in_one_model(tmp_path):
    inputs = keras.Input((32, 32, 3))
    left, right = (
        small(name="left", include_top=False, pooling="avg"),
        small(name="right", include_top=False, pooling="avg"),
    )
    both = randomize(keras.Model(inputs, keras.layers.Concatenate()([left(inputs), right(inputs)])))
    both.save(tmp_path / "both.keras")
    again = keras.saving.load_model(tmp_path / "both.keras")
    pixels = some_pixels(1, 32, 32, 3)
    np.testing.assert_array_equal(outputs(again, pixels), outputs(both, pixels))


def test_input_tensor_of_another_layer():
    inputs = keras.Input((64, 64, 3))
    model = small(input_tensor=keras.layers.Rescaling(2.0)(inputs), input_shape=None)
    plain = small(name="plain")
    plain.set_weights(model.get_weights())
    pixels = some_pixels(1, 64, 64, 3)
    assert model.inputs[0] is inputs
    np.testing.assert_allclose(outputs(model, pixels), outputs(plain, 2 * pixels), atol=1e-6)


@pytest.mark.cross_backend
@pytest.mark.parametrize("activation", ["softmax", None, "relu"])
def test_classifier_activation(activation):
    model = randomize(small(classifier_activation=activation))
    assert model.layers[-1].activation is keras.activations.get(activation)
    found = outputs(model, some_pixels(2, 32, 32, 3))
    assert (activation == "softmax") == np.allclose(found.sum(axis=1), 1, atol=1e-5)


def test_positional_arguments_are_those_of_keras():
    ours = inspect.signature(ConvNeXtTiny).parameters
    theirs = inspect.signature(keras.applications.ConvNeXtTiny).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    assert [ours[name].default for name in theirs] == [theirs[name].default for name in theirs]
    assert all(ours[name].kind == inspect.Parameter.KEYWORD_ONLY for name in list(ours)[len(theirs) :])


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_constructors_are_named(name):
    constructor = getattr(convnext_keras, name)
    assert constructor.__name__ == name
    assert inspect.signature(constructor).parameters["name"].default in CONVNEXT_CONFIGS
    assert inspect.signature(constructor).parameters["weights"].default == "imagenet"


@pytest.mark.cross_backend
def test_layer_names_and_weight_order_are_those_of_keras():
    ours, theirs = ConvNeXtTiny(weights=None), keras.applications.ConvNeXtTiny(weights=None)
    names = {layer.name for layer in ours.layers}
    assert {layer.name for layer in theirs.layers} - names <= {theirs.layers[0].name}
    assert [weight.shape for weight in ours.weights] == [weight.shape for weight in theirs.weights]
    assert "convnext_tiny_stage_3_block_2_add" in names
    inner = ours.get_layer("convnext_tiny_downsampling_block_1").layers
    assert [layer.name for layer in inner] == [
        "convnext_tiny_downsampling_layernorm_1",
        "convnext_tiny_downsampling_conv_1",
    ]


def test_initial_values_follow_the_paper():
    model = ConvNeXtTiny(weights=None, include_top=False)
    kernels = [to_numpy(weight.value).ravel() for weight in model.weights if weight.name == "kernel"]
    values = np.concatenate(kernels)
    assert abs(values.std() - 0.02) < 1e-4
    assert abs(values.mean()) < 1e-4
    for weight in model.weights:
        fresh = {"bias": 0.0, "beta": 0.0}.get(weight.name)
        if weight.name == "gamma":
            fresh = 1e-6 if "layer_scale" in weight.path else 1.0
        if fresh is not None:
            np.testing.assert_allclose(to_numpy(weight.value), fresh)


def test_no_two_kernels_begin_with_the_same_numbers():
    """Also not in other shapes, as an initializer that two layers share would give them."""
    overlap = {"stem": "overlap", "stem_width": 8, "use_grn": True, "layer_scale": False}
    for model in (small(), small(head_hidden_size=24), small(**overlap), clip.CLIPConvNeXt(variant("mlp"))):
        starts = [to_numpy(weight.value).ravel()[:4] for weight in model.weights if len(weight.shape) > 1]
        ratios = {tuple(np.round(start / start[0], 4)) for start in starts}
        assert len(ratios) == len(starts) > 10


def test_stochastic_depth_rises_linearly_and_drops_samples():
    model = small(drop_path_rate=0.4)
    drops = [layer for layer in model.layers if layer.name.endswith("_stochastic_depth")]
    np.testing.assert_allclose([layer.rate for layer in drops], [0.1, 0.2, 0.3, 0.4])
    assert [layer.name for layer in model.layers if layer.name.endswith("_identity")] == [
        "convnext_stage_0_block_0_identity"
    ]
    if BACKEND != "openvino":
        dropped = to_numpy(drops[-1](np.ones((64, 2, 2, 3), "float32"), training=True))
        per_sample = dropped.reshape(64, -1)
        assert (per_sample == per_sample[:, :1]).all()
        np.testing.assert_allclose(np.unique(per_sample), [0, 1 / 0.6], rtol=1e-6)


def test_include_preprocessing_false_expects_normalized_pixels():
    inside, outside = small(), small(include_preprocessing=False, name="outside")
    outside.set_weights(randomize(inside).get_weights())
    pixels = some_pixels(2, 40, 32, 3)
    np.testing.assert_allclose(outputs(outside, normalize(pixels)), outputs(inside, pixels), atol=1e-5)


@pytest.mark.cross_backend
def test_embedded_statistics():
    layer = small().get_layer("convnext_prestem_normalization")
    mean, std = NORMALIZATION_STATS["imagenet"]
    np.testing.assert_allclose(np.ravel(layer.input_mean), np.array(mean) * 255, rtol=1e-6)
    np.testing.assert_allclose(np.ravel(layer.input_variance), (np.array(std) * 255) ** 2, rtol=1e-6)


def test_uint8_pixels_are_accepted():
    model = randomize(small())
    pixels = some_pixels(1, 32, 32, 3)
    np.testing.assert_allclose(outputs(model, pixels.astype("uint8")), outputs(model, pixels), atol=1e-6)


@pytest.mark.cross_backend
def test_channels_first_has_equal_outputs():
    last = randomize(small(include_top=False))
    keras.config.set_image_data_format("channels_first")
    first = small(include_top=False, name="first", input_shape=(3, None, None))
    first.set_weights(last.get_weights())
    pixels = some_pixels(2, 64, 32, 3)
    found = outputs(first, pixels.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(found.transpose(0, 2, 3, 1), outputs(last, pixels), atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("arguments", [{}, {"include_top": False}, {"include_top": False, "pooling": "avg"}])
@pytest.mark.parametrize("by_argument", [False, True])
def test_mixed_precision(policy, arguments, by_argument):
    if not by_argument:
        keras.config.set_dtype_policy(policy)
    model = randomize(small(**arguments, dtype=policy if by_argument else None))
    assert model.get_layer("convnext_stage_0_block_0_pointwise_conv_1").compute_dtype == policy.removeprefix("mixed_")
    full = small(**arguments, dtype="float32", name="full")
    full.set_weights(model.get_weights())
    for level in (0.0, 255.0):
        found = model(np.full((1, 32, 32, 3), level, "float32"))
        assert keras.backend.standardize_dtype(found.dtype) == "float32"
        expected = outputs(full, np.full((1, 32, 32, 3), level, "float32"))
        spread = np.abs(expected).max()
        np.testing.assert_allclose(to_numpy(found), expected, atol=0.15 * spread)


@pytest.mark.cross_backend
@needs_training
@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)] if BACKEND == "tensorflow" else ["auto"]
)
def test_fit_learns(jit_compile):
    """The model separates eight bright from eight dark images after a few steps."""
    labels = np.arange(16) % 2
    pixels = some_pixels(16, 32, 32, 3) * np.where(labels, 1.0, 0.3)[:, None, None, None]
    options = {"classes": 2, "input_shape": (32, 32, 3), "drop_path_rate": 0.1, "layer_scale_init_value": 0.1}
    model = ConvNeXt((1, 1), (8, 16), **options)
    model.compile(keras.optimizers.AdamW(3e-3), "sparse_categorical_crossentropy", jit_compile=jit_compile)
    history = model.fit(pixels, labels, epochs=20, batch_size=16, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "mean", "include_top": False}, "None, 'avg', 'max'.*'mean'"),
        ({"pooling": "mean"}, "None, 'avg', 'max'.*'mean'"),
        ({"input_shape": (31, 32, 3)}, "at least 32 pixels.*31"),
        ({"input_shape": (32, 32, 0)}, "a number of channels.*32, 32, 0"),
        ({"input_shape": (3, 32, 32)}, "at least 32 pixels"),
        ({"input_shape": (32, 32)}, r"\(H, W, C\).*\(32, 32\)"),
        ({"input_shape": 224}, r"\(H, W, C\).*224"),
        ({"input_shape": ("a", "b", 3)}, r"\(H, W, C\)"),
        ({"input_tensor": np.zeros((1, 32, 32, 3))}, "input_tensor must be the output of a Keras layer.*ndarray"),
        ({"classes": 0}, "classes must be a positive.*0"),
        ({"classes": -3}, "classes must be a positive"),
        ({"classes": 2.5}, "classes must be a positive"),
        ({"classes": True}, "classes must be a positive"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"drop_path_rate": -0.1}, "drop_path_rate"),
        ({"weights": "imagnet"}, r"one of \[.*'imagenet'.*'imagnet'.*Did you mean 'imagenet'"),
        ({"weights": "digits"}, r"one of \[.*'imagenet'.* for convnext_tiny"),
        ({"weights": "dinov3_lvd1689m"}, "no classifier. Use include_top=False"),
        ({"weights": "imagenet@main"}, r"one of \["),
        ({"weights": 3}, "None, the name of a weight set, or a path.*3"),
        ({"weights": "imagenet", "classifier_activation": "relu"}, "None, 'softmax' or 'sigmoid'.*'relu'"),
    ],
)
def test_constructors_reject_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConvNeXtTiny(**{"weights": None, **arguments})


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((64, 64, 3), {"input_shape": (32, 32, 3)}, "disagrees with input_shape"),
        ((16, 16, 3), {}, "at least 32 pixels"),
        ((32, 3), {}, r"\(N, H, W, C\)"),
    ],
)
def test_constructors_reject_invalid_input_tensors(shape, arguments, message):
    with pytest.raises(ValueError, match=message):
        ConvNeXtTiny(**{"weights": None, "input_tensor": keras.Input(shape), **arguments})


@pytest.mark.parametrize("weights", [None, "imagenet"])
def test_invalid_arguments_download_nothing(weights, monkeypatch):
    monkeypatch.setattr("convnext_keras.checkpoints.fetch_weights", None)
    with pytest.raises(ValueError, match="pooling"):
        ConvNeXtTiny(weights=weights, pooling="mean")


IN_A_FRESH_PROCESS = """
import sys, numpy as np, keras, convnext_keras
folder, *forms = sys.argv[1:]
pixels = np.load(f"{{folder}}/pixels.npy")
for form in forms:
    if form.endswith(".weights.h5"):
        model = convnext_keras.ConvNeXt({depths}, {dims}, classes=5, drop_path_rate=0.2, input_shape=(None, None, 3))
        model.load_weights(f"{{folder}}/{{form}}")
    else:
        model = keras.saving.load_model(f"{{folder}}/{{form}}", compile=False)
    np.save(f"{{folder}}/{{form}}.npy", keras.ops.convert_to_numpy(model(pixels)))
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_saved_models_keep_outputs_in_a_new_process(tmp_path):
    forms = ["model.keras", "model.h5", "model.weights.h5"]
    if BACKEND == "openvino":  # Keras 3.15 cannot write a model with a Normalization layer to .h5 there.
        forms.remove("model.h5")
    model = randomize(small(drop_path_rate=0.2))
    for form in forms:
        (model.save_weights if "weights" in form else model.save)(tmp_path / form)
    pixels = some_pixels(2, 32, 32, 3)
    np.save(tmp_path / "pixels.npy", pixels)
    command = [sys.executable, "-c", IN_A_FRESH_PROCESS.format(depths=DEPTHS, dims=DIMS), str(tmp_path), *forms]
    subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
    for form in forms:
        np.testing.assert_array_equal(np.load(tmp_path / f"{form}.npy"), outputs(model, pixels), err_msg=form)


@pytest.mark.cross_backend
@pytest.mark.parametrize(
    "again", [lambda model: keras.models.model_from_json(model.to_json()), keras.models.clone_model]
)
def test_copies_keep_outputs(again):
    model = randomize(small(drop_path_rate=0.2))
    copied = again(model)
    copied.set_weights(model.get_weights())
    pixels = some_pixels(2, 32, 32, 3)
    np.testing.assert_array_equal(outputs(copied, pixels), outputs(model, pixels))


def test_clone_model_states_both_sizes_if_the_input_has_another():
    """As with keras.applications: a model of fixed size cannot be cloned to another one."""
    model = ConvNeXt((1, 1, 1, 1), (8, 16, 24, 32), weights=None, classes=4, input_shape=(32, 32, 3))
    assert keras.models.clone_model(model, input_tensors=keras.Input((32, 32, 3))).output_shape == (None, 4)
    with pytest.raises(ValueError, match=r"expected shape=\(None, 32, 32, 3\), found shape=\(None, 64, 64, 3\)"):
        keras.models.clone_model(model, input_tensors=keras.Input((64, 64, 3)))
    free = ConvNeXt((1, 1, 1, 1), (8, 16, 24, 32), weights=None, classes=4, input_shape=(None, None, 3))
    assert keras.models.clone_model(free, input_tensors=keras.Input((64, 64, 3))).output_shape == (None, 4)
