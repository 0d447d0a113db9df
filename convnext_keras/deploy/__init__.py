"""Models on their way to where they run: folded for inference."""

from convnext_keras.deploy.folding import fold_for_inference

__all__ = ["fold_for_inference"]
