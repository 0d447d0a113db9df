"""The table of architectures, and the checks of its words."""

import keras
import pytest
from backends import BACKEND

from convnext_keras import ConvNeXt, create_model
from convnext_keras.configs import CONVNEXT_CONFIGS


@pytest.mark.skipif(BACKEND != "torch", reason="counts need no numbers, and only PyTorch makes tensors without them")
@pytest.mark.parametrize("variant", CONVNEXT_CONFIGS)
def test_parameters_are_the_published_ones(variant):
    with keras.device("meta"):
        model = create_model(variant, weights=None, classes=1000)
    assert model.count_params() == CONVNEXT_CONFIGS[variant].num_params


@pytest.mark.parametrize(
    ("depths", "dims", "kernel_sizes"),
    [((1, 1), (8, 12, 16), (7, 7, 7)), ((), (), ()), ((1,) * 5, (8,) * 5, (7,) * 4)],
)
def test_invalid_stages_raise(depths, dims, kernel_sizes):
    with pytest.raises(ValueError, match="one number for each stage"):
        ConvNeXt(depths, dims, kernel_sizes=kernel_sizes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "batch"}, r"norm must be one of \('layer', 'rms', 'simple'\). Received: norm='batch'"),
        (
            {"activation": "prelu"},
            r"activation must be one of \('gelu', .*Received: .*'prelu'.* mean 'relu'",
        ),
        ({"stem": "overlaps"}, r"stem must be one of .*'overlaps'.*Did you mean 'overlap'\?"),
        ({"stem": "overlap"}, "stem_width must be positive and whole. Received: stem_width=0"),
        ({"drop_path": 0.1}, r"'drop_path' is no option of a ConvNeXt.*Did you mean 'drop_path_rate'\?"),
        ({"depths": (1, 1.5)}, r"depths must be positive and whole. Received: depths=\(1, 1.5\)"),
        ({"dims": (8, 0)}, r"dims must be positive and whole. Received: dims=\(8, 0\)"),
        ({"kernel_sizes": 7}, "kernel_sizes must have one number for each stage. Received: kernel_sizes=7"),
        ({"kernel_sizes": (7, 4)}, r"kernel_sizes must be odd. Received: kernel_sizes=\(7, 4\)"),
        ({"norm": ["layer"]}, r"norm must be one of"),
        ({"epsilon": 0}, "epsilon must be a number above 0. Received: epsilon=0"),
    ],
)
def test_invalid_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        ConvNeXt(**{"depths": (1, 1), "dims": (8, 12), **options})
