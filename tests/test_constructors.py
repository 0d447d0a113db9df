"""Models by name."""

import pytest

from convnext_keras import checkpoints, create_model, list_models, list_weights
from convnext_keras.configs import CONVNEXT_CONFIGS

pytestmark = pytest.mark.any_backend


def test_names_are_listed_and_filtered():
    assert list_models() == [*CONVNEXT_CONFIGS]
    assert list_models("*mini") == ["convnext_mini"]
    assert list_models("resnet*") == []


def test_create_model_by_variant():
    model = create_model("convnext_mini", weights=None, classes=3, pooling="max", include_top=False)
    assert (model.name, model.output_shape, model.pretrained_info) == ("convnext_mini", (None, 128), None)


@pytest.mark.parametrize(
    "name",
    ["convnext_mini.digits", "CONVNEXT-MINI.DIGITS", "digits", "convnext_mini"],
)
def test_create_model_by_weight_set(name):
    model = create_model(name)
    assert model.pretrained_info.weights_name == "convnext_mini.digits"
    assert (model.input_shape, model.output_shape) == ((None, 32, 32, 3), (None, 10))


def test_a_weight_set_itself_is_not_looked_up_again(monkeypatch):
    row = checkpoints.load_registry()["convnext_mini.digits"]
    monkeypatch.setattr(checkpoints.registry, "load_registry", None)
    monkeypatch.setattr(checkpoints, "find_weight_set", None)
    assert create_model(row).pretrained_info.weights_name == row.name


def test_every_weight_set_is_found_by_its_name():
    for name in list_weights():
        row = checkpoints.find_weight_set(name)
        assert row is not None
        assert row.name == name
        assert checkpoints.resolve_weights(row.tag, row.variant) == row


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnext_tinny", "Did you mean 'convnext_tiny'"),
        ("convnext_mini.digit", r"Did you mean 'convnext_mini\.digits'"),
        ("resnet50", r"list_models\(\) or list_weights\(\).*Received: name='resnet50'"),
        ("fb_in1k", r"list_models\(\) or list_weights\(\)"),  # a tag that many variants have
    ],
)
def test_create_model_suggests_names(name, message):
    with pytest.raises(ValueError, match=message):
        create_model(name)
