"""An OpenAI-compatible server of ConvNeXt-CLIP; needs the extra `server`."""

from convnext_keras.server.app import create_app
from convnext_keras.server.image_fetching import Policy
from convnext_keras.server.limits import Limits
from convnext_keras.server.main import serve

__all__ = ["Limits", "Policy", "create_app", "serve"]
