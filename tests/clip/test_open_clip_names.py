"""OpenCLIP's names do what they do there, on this library's models."""

import numpy as np
import pytest
from PIL import Image

from convnext_keras import clip

pytestmark = pytest.mark.any_backend


def test_a_program_for_open_clip_runs():
    model, train, preprocess = clip.create_model_and_transforms("convnext_mini", pretrained="shapes")
    tokenizer = clip.get_tokenizer("convnext_mini")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 100, 3), "uint8"))
    texts = ["a red circle", "a blue star"]
    features = model.encode_image(preprocess(image)[None]), model.encode_text(tokenizer(texts))
    np.testing.assert_allclose(features[0], model.encode_image(image), atol=1e-6)
    np.testing.assert_allclose(features[1], model.encode_text(texts), atol=1e-6)
    assert train(image).shape == preprocess(image).shape == (64, 64, 3)
    np.testing.assert_array_equal(tokenizer(texts), model.tokenizer(texts))


def test_weight_sets_and_errors():
    names = clip.list_weights()
    assert [f"{model}.{tag}" for model, tag in clip.list_pretrained()] == names
    assert clip.list_pretrained(as_str=True)[0] == names[0].replace(".", ":", 1)
    model, *_ = clip.create_model_and_transforms("convnext_mini", force_image_size=96)
    assert model.pretrained_info is None
    assert model.transform.shape == (96, 96, 3)
    assert clip.get_tokenizer("hf-hub:laion/x", context_length=32)("a").shape == (1, 32)
    with pytest.raises(ValueError, match="model_name must be one of"):
        clip.create_model_and_transforms("ViT-B-32", "openai")
    with pytest.raises(ValueError, match="precision must be"):
        clip.create_model_and_transforms("convnext_mini", "shapes", precision="fp16")
    with pytest.raises(ValueError, match="its own weights"):
        clip.create_model_and_transforms("hf-hub:laion/x", "laion2b")
