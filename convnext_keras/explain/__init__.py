"""Looking inside: where in an image a model sees a class or a text, and what its channels answer to.

Grad-CAM (https://arxiv.org/abs/1610.02391v4) weighs the channels of a stage by the gradient of what is asked for;
LayerCAM (https://doi.org/10.1109/TIP.2021.3089943) weighs each place of each channel, which suits the finer maps of
early stages; occlusion (https://arxiv.org/abs/1311.2901v3) covers one part of the image after another and looks at
what is lost, without gradients. None says why a model decides as it does; all show where to look.
"""

from convnext_keras.explain.api import METHODS, explain_images, plot_feature_maps
from convnext_keras.explain.cam import HeatMap, grad_cam, layer_cam, occlusion

__all__ = ["METHODS", "HeatMap", "explain_images", "grad_cam", "layer_cam", "occlusion", "plot_feature_maps"]
