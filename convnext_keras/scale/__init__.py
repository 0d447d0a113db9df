"""Beyond one machine: any number of pictures on Ray, training on many devices, and the server in replicas."""

from convnext_keras.scale.jobs import Summary, classify, embed, zero_shot

__all__ = ["Summary", "classify", "embed", "zero_shot"]
