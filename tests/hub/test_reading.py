"""Repositories that the peers wrote, read from their own files and compared with what the peers computed."""

import json
import re
import shutil

import numpy as np
import pytest
from compare_hub import differences
from make_hub_references import HUB, TABLES

from convnext_keras import WeightsError, clip, create_model, decode_predictions, hub
from convnext_keras.checkpoints import WeightSet
from convnext_keras.convnext import ConvNeXt, ConvNeXtTiny
from convnext_keras.hub.repository import parse_repository

FOLDERS = sorted(path.stem for path in HUB.glob("*.npz"))


@pytest.mark.parametrize("name", FOLDERS)
def test_pixels_and_outputs_equal_the_peers(name):
    worst = differences(HUB / name, HUB / "image.png")
    assert worst.pop("pixels") <= 1
    assert max(worst.values()) < 1e-4, worst


@pytest.mark.any_backend
def test_backbones_of_transformers_give_the_outputs_of_their_stages():
    model = create_model(HUB / "backbone_v1")
    assert [shape[-1] for shape in model.output_shape] == [8, 16]
    assert model.pretrained_info.weights_name == str(HUB / "backbone_v1")
    assert create_model(HUB / "backbone_v1", weights=None).pretrained_info is None
    with pytest.raises(WeightsError, match="is a backbone with outputs of its stages"):
        ConvNeXtTiny(weights=str(HUB / "backbone_v1"), include_top=False)


@pytest.mark.any_backend
def test_there_are_at_least_five_of_each_form():
    assert min(len(TABLES[form]) for form in ("timm", "transformers", "upernet", "open_clip")) >= 5
    assert len(FOLDERS) == sum(map(len, TABLES.values()))


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("timm_v2", (("fox", "a red fox"), ("owl", "owl"), ("2", "2"), ("3", "3"), ("bear", "bear"))),
        ("timm_gray_relu", (("a red fox",) * 2, ("<b>owl</b>",) * 2, ("Bär",) * 2)),
        ("timm_biasless_border", None),
        ("transformers_v1_cropped", tuple((name, name) for name in ("a red fox", "<b>owl</b>", "Bär", "owl", "42"))),
        ("transformers_bfloat16_patch_2", tuple((f"LABEL_{number}",) * 2 for number in range(4))),
    ],
)
def test_class_names_of_configs(name, labels):
    model = create_model(HUB / name)
    assert model.pretrained_info.class_names == labels
    if labels:
        decoded = decode_predictions(np.eye(len(labels)), top=1, class_names=model.pretrained_info.class_names)
        assert [row[0][:2] for row in decoded] == list(labels)


@pytest.mark.any_backend
def test_pretrained_info_names_the_repository():
    model = create_model(str(HUB / "timm_dilated_hidden"))
    assert model.pretrained_info.weights_name == str(HUB / "timm_dilated_hidden")
    assert model.pretrained_info.license == "cc-by-4.0"
    again = type(model).from_config(model.get_config())
    assert again.pretrained_info.transform == model.pretrained_info.transform
    assert again.pretrained_info.class_names == model.pretrained_info.class_names


@pytest.mark.any_backend
def test_arguments_override_the_config():
    with pytest.warns(UserWarning, match="fresh random weights"):
        tuned = create_model(HUB / "timm_v2", classes=2, input_shape=(64, 64, 3))
    assert tuned.output_shape == (None, 2)
    assert tuned.pretrained_info.class_names is None
    features = create_model(HUB / "timm_v2", include_top=False, pooling="avg")
    assert features.output_shape == (None, 20)
    assert create_model(HUB / "timm_v2", weights=None).pretrained_info is None


@pytest.mark.any_backend
def test_a_constructor_takes_a_repository_of_its_own_architecture():
    small = {"depths": (1, 1, 2, 1), "dims": (4, 8, 12, 16), "head_epsilon": 1e-2}
    model = ConvNeXt(**small, weights=HUB / "transformers_v1_cropped", classes=5)
    assert model.pretrained_info.class_names[1] == ("<b>owl</b>", "<b>owl</b>")
    with pytest.raises(WeightsError, match=r"of another architecture: depths=\(1, 1, 2, 1\)"):
        ConvNeXtTiny(weights=str(HUB / "transformers_v1_cropped"))


@pytest.mark.any_backend
def test_each_kind_of_model_names_the_function_for_the_other():
    with pytest.raises(WeightsError, match=r"use convnext_keras\.clip\.create_model"):
        create_model(HUB / "open_clip_linear")
    with pytest.raises(WeightsError, match=r"use convnext_keras\.create_model"):
        clip.create_model(HUB / "timm_v2")


@pytest.fixture
def edited(tmp_path):
    """A copy of a reference whose description is changed: `edited(name, file, function)`."""

    def edit(name, change, file="config.json"):
        folder = tmp_path / name
        if not folder.exists():
            shutil.copytree(HUB / name, folder)
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))
        return folder

    return edit


def setting(**values):
    return lambda content: content.update(values)


def argument(**values):
    return lambda content: content["model_args"].update(values)


def fact(**values):
    return lambda content: content["pretrained_cfg"].update(values)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (argument(depths="7"), r"config\.json: model_args\.depths is '7'; it must be a list of 4"),
        (argument(depths=[1, 2, 1, True]), r"depths is .*whole number"),
        (argument(depths=[1, 2, 1, 10**4]), r"depths is .*whole number 1\.\.1000"),
        (argument(dims=[10**6] * 4), r"dims is .*whole number 1\.\.8192"),
        (argument(dims=[8, 12, 16, 24]), "holds .* numbers, but the description says"),
        (argument(kernel_sizes=6), "kernel_sizes is 6; it must be odd"),
        (argument(act_layer="prelu"), "act_layer is 'prelu'; it must be one of 'gelu'"),
        (argument(act_layer=None), "act_layer is None"),
        (argument(norm_layer="batchnorm2d"), "norm_layer is 'batchnorm2d'"),
        (argument(pretrained_strict=False), r"pretrained_strict is no argument of timm's ConvNeXt"),
        (argument(features_only=True), "features_only is no argument"),
        (argument(norm_eps=-1.0), "norm_eps is -1.0"),
        (argument(num_classes=7), "num_classes is 5; it must be 7, as model_args says"),
        (argument(global_pool="catavgmax"), "global_pool is 'catavgmax'"),
        (argument(output_stride=4), "output_stride is 4"),
        (setting(architecture="vit_base_patch16_224"), "architecture is 'vit_base_patch16_224'"),
        (setting(label_names=["a"]), "label_names is .*names of the 5 classes"),
        (setting(label_names={"x": "a"}), "label_names"),
        (setting(problem_type="other"), "problem_type is 'other'"),
        (fact(std=[0.0]), r"pretrained_cfg\.std is \[0\.0\]"),
        (fact(std=[0.1, 0.2]), "std is .*one for each channel"),
        (fact(crop_pct=0.01), "crop_pct is 0.01"),
        (fact(interpolation="random"), "interpolation is 'random'"),
        (fact(input_size=[3, 10**6, 64]), "input_size"),
    ],
)
def test_invalid_timm_configs_are_rejected(change, message, edited):
    with pytest.raises(WeightsError, match=message):
        create_model(edited("timm_v2", change))


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setting(model_type="vit"), "not of a ConvNeXt: model_type is 'vit'"),
        (setting(model_type="my_net", auto_map={"AutoModel": "x.Y"}), "code of its own .* never run"),
        (setting(num_stages=3), "num_stages is 3; it must be 4"),
        (setting(hidden_sizes=[4, 8, 12]), "hidden_sizes"),
        (setting(hidden_act="prelu"), "hidden_act is 'prelu'"),
        (setting(layer_norm_eps=0), "layer_norm_eps is 0"),
        (setting(id2label={"a": "b"}), "id2label"),
        (setting(num_labels=4), "num_labels is 4; it must be 5"),
        (setting(architectures=["ConvNextForDepth"]), "architectures is .*ForDepth"),
        (setting(patch_size=[4, 2]), "patch_size"),
    ],
)
def test_invalid_transformers_configs_are_rejected(change, message, edited):
    with pytest.raises(WeightsError, match=message):
        create_model(edited("transformers_v1_cropped", change))


@pytest.mark.any_backend
def test_an_unknown_map_to_code_is_ignored_beside_a_known_type(edited):
    folder = edited("transformers_v1_cropped", setting(auto_map={"AutoModel": "modeling.Evil"}))
    (folder / "modeling.py").write_text("raise SystemExit('run')")
    assert create_model(folder).output_shape == (None, 5)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setting(image_processor_type="FancyProcessor"), "image_processor_type is 'FancyProcessor'"),
        (setting(do_resize=False), "do_resize is False"),
        (setting(size={"height": 3, "width": 4}), "size is"),
        (setting(crop_pct=0.01), "crop_pct is 0.01"),
        (setting(image_std=[0, 1, 1]), "image_std"),
    ],
)
def test_invalid_image_processors_are_rejected(change, message, edited):
    with pytest.raises(WeightsError, match=rf"preprocessor_config\.json: {message}"):
        create_model(edited("transformers_v1_cropped", change, "preprocessor_config.json"))


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["model_cfg"].update(multimodal_cfg={}), "multimodal_cfg"),
        (lambda content: content["model_cfg"].update(embed_dim="x"), "embed_dim is 'x'"),
        (lambda content: content["model_cfg"]["vision_cfg"].update(timm_model_name="resnet50"), "timm_model_name"),
        (lambda content: content["model_cfg"]["vision_cfg"].update(timm_pool="rot_attn"), "timm_pool is 'rot_attn'"),
        (lambda content: content["model_cfg"]["text_cfg"].update(hf_model_name="bert"), "hf_model_name is 'bert'"),
        (lambda content: content["model_cfg"]["text_cfg"].update(hf_tokenizer_name="t5-base"), "hf_tokenizer_name"),
        (lambda content: content["model_cfg"]["text_cfg"].update(heads=3), "heads is 3; it must be a divisor"),
        (lambda content: content["preprocess_cfg"].update(mode="L"), "mode is 'L'"),
    ],
)
def test_invalid_open_clip_configs_are_rejected(change, message, edited):
    with pytest.raises(WeightsError, match=rf"open_clip_config\.json: .*{message}"):
        clip.create_model(edited("open_clip_linear", change, "open_clip_config.json"))


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1, 2]", "must be an object of JSON"),
        (b'{"architecture": "a", "architecture": "b"}', "twice"),
        (b'{"architecture": NaN}', "no number of JSON"),
        (b"\xef\xbb\xbf{}", "broken or not JSON"),
        (b'{"a": ' * 5000 + b"1" + b"}" * 5000, "not JSON|nested"),
        (b'{"a": ' * 40 + b"1" + b"}" * 40, "nested more than 20 deep"),
        (b'{"a": "' + b"x" * 10_000_001 + b'"}', "more than 10000000 bytes"),
        (b"", "broken or not JSON"),
    ],
)
def test_hostile_json_is_rejected(content, message, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match=rf"config\.json: .*({message})"):
        create_model(tmp_path)


@pytest.mark.any_backend
@pytest.mark.parametrize("name", ["transformers_gray", "transformers_headless_shards", "upernet_v1"])
def test_files_of_a_variant_are_read(name, edited):
    """`save_pretrained(variant="fp16")` of transformers puts the variant into all names of weight files."""
    folder = edited(name, setting())
    for path in [*folder.glob("model*.safetensors"), *folder.glob("model*.json")]:
        if path.suffix == ".json":
            path.write_text(re.sub(r"model(-[\d-]+of-\d+)", r"model.fp16\1", path.read_text()))
            new = "model.safetensors.index.fp16.json"
        else:
            new = path.name.replace("model", "model.fp16", 1)
        path.rename(folder / new)
    for mine, expected in zip(create_model(folder).weights, create_model(HUB / name).weights, strict=True):
        np.testing.assert_array_equal(mine, expected)


@pytest.mark.any_backend
def test_missing_files_are_named(edited, tmp_path):
    folder = edited("timm_v2", setting())
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"none of model\.safetensors.*pytorch_model\.bin once by 'convnext-keras"):
        create_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"none of convnext_keras\.json or open_clip_config\.json or config\.json"):
        create_model(folder)
    outside = tmp_path / "elsewhere.safetensors"
    shutil.copy(HUB / "timm_v2" / "model.safetensors", outside)
    folder = edited("timm_gray_relu", setting())
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(outside)
    with pytest.raises(WeightsError, match="link to elsewhere"):
        create_model(folder)


@pytest.mark.any_backend
def test_older_timm_configs_load(edited):
    def flatten(content):
        facts = content.pop("pretrained_cfg")
        content.update({key: value for key, value in facts.items() if key != "num_classes"})

    before = create_model(HUB / "timm_gray_relu")
    after = create_model(edited("timm_gray_relu", flatten))
    assert after.pretrained_info.transform == before.pretrained_info.transform
    assert after.pretrained_info.class_names == before.pretrained_info.class_names


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "name", ["hf://owner", "hf://a/b/c", "hf://a/../b", "hf://a/b@..", "hf://a%2f/b", "hf://a/b@c@d"]
)
def test_invalid_repository_names_raise(name):
    with pytest.raises(ValueError, match="hf://owner/name"):
        parse_repository(name)


@pytest.mark.any_backend
def test_a_weight_set_comes_before_a_folder_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert isinstance(hub.resolve_weights("digits", "convnext_mini"), WeightSet)
