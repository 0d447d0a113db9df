"""Distributed work: jobs on Ray, training on many devices, and replicas of the server."""

from convnext_keras.distributed.jobs import JobSummary, classify, embed, zero_shot
from convnext_keras.distributed.model_parallel import RematModel, layout_map, with_rematerialization
from convnext_keras.distributed.ray_serve import serve_deployment

__all__ = [
    "JobSummary",
    "RematModel",
    "classify",
    "embed",
    "layout_map",
    "serve_deployment",
    "with_rematerialization",
    "zero_shot",
]
