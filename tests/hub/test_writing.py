"""Models written as repositories, and read back: the same bits, or an error that says which format can."""

import json

import keras
import numpy as np
import pytest
from backends import randomize
from hub_stand_in import Hub
from make_hub_references import HUB, OPEN_CLIP
from typer.testing import CliRunner

from convnext_keras import ConvNeXt, clip, create_model, fold_for_inference, push_to_hub, save_pretrained, segmentation
from convnext_keras.cli import app
from convnext_keras.data.transforms import ImageTransform, NormalizationStats

pytestmark = pytest.mark.any_backend

SMALL = {"depths": (1, 1, 2, 1), "dims": (4, 8, 12, 16), "classes": 5, "input_shape": (64, 64, 3)}
# Each kind of model, and the formats that can say it beside `keras`.
KINDS = {
    "v1": ({}, "timm transformers"),
    "v2": ({"use_grn": True, "layer_scale": False}, "timm transformers"),
    "both": ({"use_grn": True}, "timm"),
    "zepto": ({"stem": "overlap_gelu", "stem_width": 4, "norm": "simple"}, "timm"),
    "tiered_hidden": ({"stem": "overlap", "stem_width": 8, "head_hidden_size": 7}, "timm"),
    "biasless_max": ({"conv_bias": False, "head_pooling": "max", "activation": "mish"}, "timm"),
    "both_poolings": ({"head_norm_first": True, "head_pooling": "catavgmax"}, "timm"),
    "small_patch": ({"patch_size": 2}, "transformers"),
    "small_patch_of_timm": ({"patch_size": 2, "first_downsampling": True}, "timm"),
    "last_epsilon": ({"head_epsilon": 1e-2}, "transformers"),
    "unpooled": ({"head_pooling": "none"}, "timm"),
    "dilated": ({"output_stride": 8}, "timm"),
    "rms_multi_label": ({"norm": "rms", "classifier_activation": "sigmoid"}, "timm"),
    "maps": ({"include_top": False}, "timm"),
    "vectors": ({"include_top": False, "pooling": "avg"}, "timm transformers"),
    "three_stages": ({"depths": (1, 2, 1), "dims": (4, 8, 12)}, "transformers"),
    "isotropic": ({"depths": (2,), "dims": (8,), "patch_size": 16, "stem_norm": False, "kernel_sizes": (7,)}, ""),
}


SEGMENTATION = sorted(path.stem for path in HUB.glob("upernet_*.npz"))


@pytest.mark.parametrize("name", SEGMENTATION)
@pytest.mark.parametrize("form", ["transformers", "keras"])
@pytest.mark.parametrize("auxiliary", [False, True])
def test_segmentation_models_are_read_back_with_the_same_bits(name, form, auxiliary, tmp_path):
    has_auxiliary = json.loads((HUB / name / "config.json").read_text())["use_auxiliary_head"]
    options = {"auxiliary_output": auxiliary and has_auxiliary}
    model = create_model(HUB / name, **options)
    save_pretrained(model, tmp_path / "saved", form)
    again = create_model(tmp_path / "saved", **options)
    channels = model.input_shape[-1]
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 64, 96, channels)).astype("float32")
    for mine, theirs in zip(*(keras.tree.flatten(one(pixels)) for one in (model, again)), strict=True):
        np.testing.assert_array_equal(*(np.asarray(keras.ops.convert_to_numpy(part)) for part in (mine, theirs)))
    mine, theirs = model.pretrained_info, again.pretrained_info
    assert mine.class_names == theirs.class_names
    assert mine.reduce_labels == theirs.reduce_labels
    assert mine.transform._replace(statistics="half") == theirs.transform._replace(statistics="half")
    if form == "transformers":  # the names that transformers itself wrote
        written = json.loads((tmp_path / "saved" / "config.json").read_text())
        published = json.loads((HUB / name / "config.json").read_text())
        assert written["hidden_size"] == published["hidden_size"]
        assert written["id2label"] == published.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
        assert "UperNetForSemanticSegmentation" in (tmp_path / "saved" / "README.md").read_text()


@pytest.mark.parametrize("decoder", ["fpn", "unet"])
def test_decoders_that_transformers_lacks(decoder, tmp_path):
    sizes = {"depths": (1, 1, 2, 1), "dims": (4, 8, 12, 16), "include_top": False, "input_shape": (None, None, 3)}
    model = randomize(segmentation.UPerNet(ConvNeXt(**sizes), 3, decoder=decoder, hidden_size=8))
    save_pretrained(model, tmp_path / "saved", "keras", class_names=["a", "b", "c"])
    again = create_model(tmp_path / "saved")
    np.testing.assert_array_equal(outputs(again), outputs(model))
    for form in ("timm", "transformers"):
        with pytest.raises(ValueError, match=rf"The format '{form}' cannot say .*Use .*keras"):
            save_pretrained(model, tmp_path / form, form)


def outputs(model):
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    return np.asarray(keras.ops.convert_to_numpy(model(pixels)))


@pytest.mark.parametrize("kind", KINDS)
def test_read_back_with_the_same_bits(kind, tmp_path):
    options, formats = KINDS[kind]
    model = randomize(ConvNeXt(**{**SMALL, **options}))
    for form in ("timm", "transformers", "keras"):
        if form in (*formats.split(), "keras"):
            save_pretrained(model, tmp_path / form, form)
            np.testing.assert_array_equal(outputs(create_model(tmp_path / form)), outputs(model))
            assert (tmp_path / form / "model.safetensors").stat().st_mode & 0o777 == 0o644
        else:
            with pytest.raises(ValueError, match=rf"The format '{form}' cannot say .*Use .*keras"):
                save_pretrained(model, tmp_path / form, form)
    assert {path.name for path in tmp_path.iterdir()} == {*formats.split(), "keras"}


@pytest.mark.parametrize("form", ["timm", "transformers", "keras"])
def test_transfer_models_are_written(form, tmp_path):
    backbone = ConvNeXt(**{**SMALL, "include_top": False, "pooling": "avg"})
    dropout, dense = keras.layers.Dropout(0.2), keras.layers.Dense(3, use_bias=False)
    sequential = keras.Sequential([backbone, dropout, dense, keras.layers.Softmax()])
    sequential.build((None, 64, 64, 3))
    maps = ConvNeXt(**{**SMALL, "include_top": False})
    x = keras.layers.GlobalAveragePooling2D()(maps.output)
    functional = keras.Model(maps.input, keras.layers.Dense(3, activation="softmax")(x))
    for name, model in {"sequential": sequential, "functional": functional}.items():
        if (name, form) == ("functional", "transformers"):  # The norm stands before the pooling.
            continue
        save_pretrained(randomize(model), tmp_path / name, form, class_names=["a", "b", "c"])
        again = create_model(tmp_path / name)
        # Keras' own Dense multiplies in another order than the library's.
        np.testing.assert_allclose(outputs(again), outputs(model), rtol=1e-6)
        assert again.pretrained_info.class_names == (("a", "a"), ("b", "b"), ("c", "c"))


@pytest.mark.parametrize("kind", OPEN_CLIP)
@pytest.mark.parametrize("form", ["open_clip", "keras"])
def test_clip_repositories_are_read_back(kind, form, tmp_path):
    model = clip.create_model(HUB / f"open_clip_{kind}")
    save_pretrained(model, tmp_path / "saved", form)
    again = clip.create_model(tmp_path / "saved")
    assert again.transform == model.transform
    np.testing.assert_array_equal(again.encode_image(HUB / "image.png"), model.encode_image(HUB / "image.png"))
    np.testing.assert_array_equal(again.encode_text("a b"), model.encode_text("a b"))
    with pytest.raises(ValueError, match="ConvNeXt-CLIP"):
        save_pretrained(model, tmp_path / "other", "timm")


@pytest.mark.parametrize("form", ["timm", "transformers", "keras"])
@pytest.mark.parametrize(
    "transform",
    [
        ImageTransform(64, 0.9),
        ImageTransform(64, resize_size=73, crop_rounding="down", interpolation="bilinear"),
        ImageTransform((64, 64), resize_mode="squash", statistics=NormalizationStats((0.1, 0.2, 0.3), (0.3, 0.2, 0.4))),
    ],
)
@pytest.mark.filterwarnings("ignore:.*may be shifted by one")
def test_transforms_are_read_back(transform, form, tmp_path):
    model = ConvNeXt(**SMALL)
    save_pretrained(model, tmp_path / "saved", form, transform=transform)
    again = create_model(tmp_path / "saved").pretrained_info.transform
    image = HUB / "image.png"
    rounding = {"timm": "half_even", "transformers": "down"}.get(form, transform.crop_rounding)
    np.testing.assert_array_equal(again(image), transform._replace(crop_rounding=rounding)(image))


def test_pretrained_info_is_written(tmp_path):
    model = create_model(HUB / "timm_v2")
    save_pretrained(
        model, tmp_path / "saved", "timm", intended_use="Foxes only.", metrics={"accuracy": 0.91}, license="mit"
    )
    again = create_model(tmp_path / "saved")
    assert again.pretrained_info.class_names == model.pretrained_info.class_names
    assert again.pretrained_info.license == "mit"
    assert again.pretrained_info.transform == model.pretrained_info.transform
    text = (tmp_path / "saved" / "README.md").read_text()
    for words in ("license: mit", "Foxes only.", "| accuracy | 0.91 |", model.pretrained_info.sha256):
        assert words in text


def test_timm_configs_have_no_nulls(tmp_path):
    """The timm_wrapper of transformers drops them, and takes timm's own defaults in their place."""
    for kind, (options, formats) in KINDS.items():
        if "timm" in formats:
            save_pretrained(ConvNeXt(**{**SMALL, **options}), tmp_path / kind, "timm")
            assert "null" not in (tmp_path / kind / "config.json").read_text()


def test_classes_of_a_backbone_are_not_those_of_the_head_on_it(tmp_path):
    backbone = create_model(HUB / "timm_v2", include_top=False, pooling="avg")
    model = keras.Sequential([backbone, keras.layers.Dense(5)])
    save_pretrained(model, tmp_path / "saved", "keras")
    again = create_model(tmp_path / "saved").pretrained_info
    assert again.class_names is None
    assert again.transform == backbone.pretrained_info.transform


def test_a_last_norm_of_another_kind_is_refused(tmp_path):
    maps = ConvNeXt(**{**SMALL, "include_top": False, "norm": "rms"})
    inner = maps.layers[-2].output  # before the last norm
    model = keras.Model(maps.input, keras.layers.Dense(3)(keras.layers.LayerNormalization()(inner)))
    with pytest.raises(ValueError, match="of another kind than the norms of the blocks, 'rms'"):
        save_pretrained(model, tmp_path / "saved", "keras")


def test_sharded_repositories_are_read_back(tmp_path):
    model = randomize(ConvNeXt(**SMALL))
    save_pretrained(model, tmp_path / "saved", "transformers", max_shard_bytes=20_000)
    index = json.loads((tmp_path / "saved" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    np.testing.assert_array_equal(outputs(create_model(tmp_path / "saved")), outputs(model))


def test_failed_save_leaves_no_files(tmp_path, monkeypatch):
    model = ConvNeXt(**SMALL)
    monkeypatch.setattr("convnext_keras.hub.saving.write_safetensors", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_pretrained(model, tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_save_pretrained_rejects_directories_with_files(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        save_pretrained(ConvNeXt(**SMALL), tmp_path)


def unlike(kind):
    model = ConvNeXt(**SMALL)
    if kind == "folded":
        return fold_for_inference(model)
    if kind == "rescaled":
        inputs = keras.Input((64, 64, 3))
        return ConvNeXt(**{**SMALL, "input_shape": None, "input_tensor": keras.layers.Rescaling(2.0)(inputs)})
    if kind == "activation":
        return ConvNeXt(**SMALL, classifier_activation="tanh")
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("folded", "folded"),
        ("rescaled", "before the stem cannot be represented"),
        ("activation", "activation 'tanh'"),
        ("another", "has no ConvNeXt in it"),
    ],
)
def test_unsupported_models_are_rejected(kind, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_pretrained(unlike(kind), tmp_path / "saved", "keras")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onnx"}, r"format must be one of \['timm', 'transformers', 'open_clip', 'keras'\]"),
        ({"format": "open_clip"}, "of ConvNeXt-CLIPs. Use timm, transformers or keras"),
        ({"class_names": ["a"]}, "class_names must be 5, one for each class. Received: 1"),
    ],
)
def test_save_pretrained_rejects_invalid_arguments(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_pretrained(ConvNeXt(**SMALL), tmp_path / "saved", **options)


def test_push_to_hub_and_read_it_from_there(hub_server, monkeypatch):
    monkeypatch.setattr(Hub, "missing_entries", True)
    monkeypatch.setattr(Hub, "files", {})
    model = randomize(ConvNeXt(**SMALL))
    with pytest.raises(ValueError, match="cannot say"):
        push_to_hub(ConvNeXt(**SMALL, norm="rms"), "me/small", "transformers", token="hf_x")
    assert not Hub.requests
    address = push_to_hub(model, "me/small", "transformers", private=True, token="hf_x")
    assert "/me/small/commit/" in address
    names = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    assert Hub.files.keys() == {f"me/small/{name}" for name in names}
    np.testing.assert_array_equal(outputs(create_model("hf://me/small")), outputs(model))


def test_save_command_writes_a_repository(tmp_path):
    names = [str(HUB / "timm_gray_relu"), str(tmp_path / "saved")]
    result = CliRunner().invoke(app, ["save", *names, "--format", "keras"])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == names[1]
    np.testing.assert_array_equal(
        create_model(tmp_path / "saved").pretrained_info.transform(HUB / "image.png"),
        create_model(HUB / "timm_gray_relu").pretrained_info.transform(HUB / "image.png"),
    )
