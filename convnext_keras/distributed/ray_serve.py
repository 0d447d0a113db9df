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
    min_replicas: int = 1,
    max_replicas: int | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
    max_queued_requests: int = 1024,
    **options: Any,
) -> Any:
    """Returns an application for `ray.serve.run`, which answers as `server.create_app` does.

    Args:
        model: Name of the model, see `create_app`. Every machine must be able to load it under this name.
        min_replicas: Minimum number of replicas. Defaults to 1.
        max_replicas: Maximum number of replicas. Ray Serve chooses a number by the requests in the queue. Defaults to
            `min_replicas`.
        num_cpus: CPU cores per replica.
        num_gpus: GPUs per replica.
        max_queued_requests: Maximum number of requests in the queue. More are rejected with status 503.
        **options: Options of `create_app`, such as `api_keys` and `indexes`.

    Raises:
        ValueError: If Ray Serve is not installed, or a number is invalid.

    Example:
        >>> from convnext_keras import distributed
        >>> distributed.serve_deployment("convnext_mini.shapes", min_replicas=0)
        Traceback (most recent call last):
        ...
        ValueError: Required: 1 <= min_replicas <= max_replicas. Received: min_replicas=0, max_replicas=0
    """
    max_replicas = min_replicas if max_replicas is None else max_replicas
    if not 1 <= min_replicas <= max_replicas:
        raise ValueError(
            "Required: 1 <= min_replicas <= max_replicas. "
            f"Received: min_replicas={min_replicas}, max_replicas={max_replicas}"
        )
    try:
        from ray import serve
    except ImportError as error:
        raise ValueError('Replicas need Ray Serve: pip install "convnext-keras[ray,server]"') from error

    def build() -> Any:
        from convnext_keras.server import create_app

        return create_app(model, **options)

    variables = {**worker_env(), "OMP_NUM_THREADS": str(max(1, int(num_cpus)))}
    number: dict[str, Any] = {"num_replicas": min_replicas}
    if min_replicas < max_replicas:
        scaling = {"min_replicas": min_replicas, "max_replicas": max_replicas}
        number = {"autoscaling_config": {**scaling, "target_ongoing_requests": MAX_ONGOING_REQUESTS // 2}}
    deployment: Any = serve.deployment(
        serve.ingress(build)(),
        name="convnext_keras",
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        max_queued_requests=max_queued_requests,
        health_check_period_s=HEALTH_SECONDS,
        ray_actor_options={"num_cpus": num_cpus, "num_gpus": num_gpus, "runtime_env": {"env_vars": variables}},
        **number,
    )
    return deployment.bind()
