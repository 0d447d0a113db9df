"""The constructors of ConvNeXt-CLIP, by name and size."""

import keras
import numpy as np
import pytest
from backends import BACKEND
from clip_models import SAME, load, variant
from make_clip_references import images

from convnext_keras import checkpoints, clip
from convnext_keras.checkpoints import CLIP_REGISTRY
from convnext_keras.configs import CLIP_CONFIGS


def test_other_image_sizes(clip_checkpoints):
    larger = load("linear", clip_checkpoints, image_size=96)
    assert larger.transform.size == 96
    assert larger.encode_image(images()).shape == (3, 16)
    with pytest.raises(ValueError, match="at least 32 pixels"):
        clip.CLIPConvNeXt(variant("linear"), image_size=16)


def test_channels_first(clip_checkpoints):
    expected = load("linear", clip_checkpoints).encode_image(images())
    keras.config.set_image_data_format("channels_first")
    found = load("linear", clip_checkpoints).encode_image(images())
    np.testing.assert_allclose(found, expected, atol=SAME)


@pytest.mark.skipif(BACKEND != "torch", reason="counts need no numbers, and only PyTorch makes tensors without them")
@pytest.mark.parametrize("name", CLIP_CONFIGS)
def test_parameter_counts_are_the_published_ones(name):
    with keras.device("meta"):
        built = clip.create_model(name, weights=None)
    assert built.count_params() == CLIP_CONFIGS[name].num_params


@pytest.mark.any_backend
def test_names_of_models():
    for name in clip.list_weights():
        row = checkpoints.load_registry(CLIP_REGISTRY)[name]
        assert checkpoints.resolve_weights(row.repository or row.tag, row.variant, CLIP_REGISTRY) == row
        assert checkpoints.resolve_weights(row.tag.upper().replace("_", "-"), row.variant, CLIP_REGISTRY) == row
    with pytest.raises(ValueError, match=r"Did you mean 'convnext_base_w'\?"):
        clip.create_model("convnext_basew")
    with pytest.raises(ValueError, match=r"laion2b_s13b_b82k_augreg.*Did you mean 'laion2b_s13b_b82k'"):
        clip.CLIPConvNeXtBaseW("laion2b_s13b_b82")
    with pytest.raises(ValueError, match="one of"):
        clip.CLIPConvNeXtBaseW("laion400m_s13b_b51k")
