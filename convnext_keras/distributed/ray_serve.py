"""The server in replicas under Ray Serve (https://docs.ray.io/en/latest/serve): the same application, on many machines.

Ray Serve starts replicas, spreads requests, and replaces what dies. Indexes in Lance, in a file system or object store
that all replicas read, are the same for all; see `retrieval.LanceIndex`.
"""

from typing import Any

from convnext_keras.clip.constructors import BUNDLED_CLIP
from convnext_keras.distributed.ray_cluster import worker_env

MAX_ONGOING_REQUESTS = 64  # requests that a replica has in work, which it runs in batches
HEALTH_SECONDS = 2


def serve_deployment(
    model: str = BUNDLED_CLIP,
    *,
    replicas: int | tuple[int, int] = 1,
    processors: float = 1,
    gpus: float = 0,
    queue: int = 1024,
    **options: Any,
) -> Any:
    """Returns an application for `ray.serve.run`, which answers as `server.create_app` does.

    Args:
        model: Name of the model, see `create_app`; every machine must find the same under it.
        replicas: Number of them; or the least and the most, between which Ray Serve chooses by how many requests wait.
        processors: Processors of each replica.
        gpus: Gpus of each replica.
        queue: Maximum number of requests that wait; more are refused with the status 503.
        **options: Options of `create_app`, such as `api_keys` and `indexes`.

    Raises:
        ValueError: If Ray Serve is missing, or a number is not valid.

    Example:
        >>> from convnext_keras import distributed
        >>> distributed.serve_deployment("convnext_mini.shapes", replicas=0)
        Traceback (most recent call last):
        ...
        ValueError: replicas must be 1 or more, or the least and the most. Received: replicas=0
    """
    least, most = replicas if isinstance(replicas, tuple) else (replicas, replicas)
    if not 1 <= least <= most:
        raise ValueError(f"replicas must be 1 or more, or the least and the most. Received: replicas={replicas}")
    try:
        from ray import serve
    except ImportError as error:
        raise ValueError('Replicas need Ray Serve: pip install "convnext-keras[ray,server]"') from error

    def build() -> Any:
        from convnext_keras.server import create_app

        return create_app(model, **options)

    variables = {**worker_env(), "OMP_NUM_THREADS": str(max(1, int(processors)))}
    number: dict[str, Any] = {"num_replicas": least}
    if least < most:
        scaling = {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": MAX_ONGOING_REQUESTS // 2}
        number = {"autoscaling_config": scaling}
    deployment: Any = serve.deployment(
        serve.ingress(build)(),
        name="convnext_keras",
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        max_queued_requests=queue,
        health_check_period_s=HEALTH_SECONDS,
        ray_actor_options={"num_cpus": processors, "num_gpus": gpus, "runtime_env": {"env_vars": variables}},
        **number,
    )
    return deployment.bind()
