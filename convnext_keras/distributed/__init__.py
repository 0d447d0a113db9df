"""Beyond one machine: any number of pictures on Ray, training on many devices, and the server in replicas."""

from convnext_keras.distributed.jobs import Summary, classify, embed, zero_shot
from convnext_keras.distributed.model_parallel import Rematerialized, layout_map, rematerialized
from convnext_keras.distributed.ray_serve import application

__all__ = ["Rematerialized", "Summary", "application", "classify", "embed", "layout_map", "rematerialized", "zero_shot"]
