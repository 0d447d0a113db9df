"""Repositories of the hub, played by a server on this machine: what is asked for, and what goes wrong."""

import json
import time

import pytest
from hub_stand_in import Hub
from make_hub_references import HUB
from typer.testing import CliRunner

from convnext_keras import WeightsError, clip, create_model, hub
from convnext_keras.cli import app

pytestmark = pytest.mark.any_backend


@pytest.fixture
def published(hub_server, monkeypatch):
    """Repositories `someone/NAME` of the committed folders."""
    monkeypatch.setattr(Hub, "missing_entries", True)
    paths = [path for path in HUB.rglob("*") if path.is_file() and path.parent != HUB]
    monkeypatch.setattr(Hub, "files", {f"someone/{path.relative_to(HUB)}": path.read_bytes() for path in paths})
    return Hub


def fetched():
    return {request.rpartition("/")[2] for request in Hub.requests if request.startswith("GET")}


def test_a_model_by_name_and_again_offline(published, monkeypatch):
    model = create_model("hf://someone/timm_v2@v2")
    assert model.pretrained_info.weights_name == "hf://someone/timm_v2@v2"
    assert "/snapshots/" + "b" * 40 in str(model.pretrained_info.weights_file)
    monkeypatch.setenv("CONVNEXT_KERAS_OFFLINE", "1")
    published.requests.clear()
    assert create_model("hf://someone/timm_v2@v2").output_shape == model.output_shape
    assert not published.requests


def test_shards_are_fetched_with_their_index(published):
    assert create_model("hf://someone/transformers_headless_shards").output_shape == (None, 16)
    assert {"model.safetensors.index.json", "config.json", "preprocessor_config.json"} <= fetched()
    assert sum(name.startswith("model-0000") for name in fetched()) > 1


def test_a_clip_by_name(published):
    assert clip.create_model("hf://someone/open_clip_linear").embed_dim == 12


def test_configs_are_validated_before_weights_are_downloaded(published, monkeypatch):
    description = json.loads(Hub.files["someone/timm_v2/config.json"])
    description["model_args"]["dims"] = [10**9] * 4
    monkeypatch.setitem(Hub.files, "someone/timm_v2/config.json", json.dumps(description).encode())
    with pytest.raises(WeightsError, match="dims is"):
        create_model("hf://someone/timm_v2")
    assert fetched() <= {"config.json", "README.md"}


def test_indexes_outside_the_repository_are_rejected(published, monkeypatch):
    index = json.dumps({"weight_map": {"a": "../../timm_v2/model.safetensors"}}).encode()
    monkeypatch.setitem(Hub.files, "someone/transformers_headless_shards/model.safetensors.index.json", index)
    with pytest.raises(WeightsError, match="bare name"):
        create_model("hf://someone/transformers_headless_shards")
    assert not any("timm_v2" in request for request in Hub.requests)


@pytest.mark.parametrize("fault", [401, 403, 404, 500])
def test_hub_errors_are_reported(fault, published, monkeypatch):
    monkeypatch.setattr(Hub, "fault", fault)
    monkeypatch.setattr(Hub, "missing_entries", False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(WeightsError, match=r"hf://someone/timm_v2: .*could not be had.*HF_TOKEN"):
        create_model("hf://someone/timm_v2")


def test_missing_repositories_are_reported(published, monkeypatch):
    with pytest.raises(WeightsError, match=r"hf://someone/nothing: convnext_keras\.json or .*could not be had"):
        create_model("hf://someone/nothing")
    monkeypatch.delitem(Hub.files, "someone/timm_v2/model.safetensors")
    with pytest.raises(WeightsError, match=r"model\.safetensors of .*convnext-keras convert"):
        create_model("hf://someone/timm_v2")
    monkeypatch.setenv("CONVNEXT_KERAS_OFFLINE", "1")
    with pytest.raises(WeightsError, match="CONVNEXT_KERAS_OFFLINE"):
        create_model("hf://someone/timm_gray_relu")


def test_the_license_of_the_card_comes_first(published, monkeypatch):
    card = b"---\nlibrary_name: timm\nlicense: mit\n---\n# A model\n"
    monkeypatch.setitem(Hub.files, "someone/timm_dilated_hidden/README.md", card)
    assert hub.load_model_info("hf://someone/timm_dilated_hidden").license == "mit"
    assert hub.load_model_info(HUB / "timm_dilated_hidden").license == "cc-by-4.0"


def test_segmentation_models_of_a_pull_request(published):
    model = create_model("hf://someone/upernet_v1@refs/pr/1")
    assert model.output_shape == (None, None, None, 5)
    assert model.pretrained_info.weights_name == "hf://someone/upernet_v1@refs/pr/1"
    assert any("refs%2Fpr%2F1" in request for request in Hub.requests)


def test_inspect_fetches_no_weights(published):
    result = CliRunner().invoke(app, ["inspect", "hf://someone/timm_gray_relu", "--json"])
    facts = json.loads(result.stdout)
    assert facts["format"] == "timm"
    assert facts["dims"] == [4, 8, 12, 16]
    assert facts["classes"] == "3 a red fox, <b>owl</b>, Bär"
    assert facts["transform: channels"] == 1
    assert fetched() <= {"config.json", "README.md"}


def test_commands_accept_repositories(published, tmp_path):
    image, run = str(HUB / "image.png"), CliRunner().invoke
    result = run(app, ["classify", image, "--weights", "hf://someone/transformers_v1_cropped", "--json"])
    assert json.loads(result.stdout)[0]["predictions"][0]["name"] == "<b>owl</b>"
    assert run(app, ["fetch", "hf://someone/timm_v2"]).stdout.strip().endswith("model.safetensors")
    vectors = tmp_path / "vectors.safetensors"
    command = ["embed", image, "--weights", "hf://someone/open_clip_linear", "--output", str(vectors)]
    assert "1 vectors of 12" in run(app, command).stdout
