"""An OpenAI-compatible server of ConvNeXt-CLIP; needs the extra `server`."""

from convnext_keras.server.app import create_app
from convnext_keras.server.image_fetching import ImageURLPolicy
from convnext_keras.server.limits import ServerLimits
from convnext_keras.server.main import serve

__all__ = ["ImageURLPolicy", "ServerLimits", "create_app", "serve"]
