"""Serves the bundled model in two replicas until its input ends. Run as a program by `test_serve.py`."""

import sys

import ray
from ray import serve
from ray.serve._private import client
from waiting import TIMEOUT

from convnext_keras import distributed

address, port, key, index = sys.argv[1:]
setattr(client, "HTTP_PROXY_TIMEOUT", TIMEOUT)  # noqa: B010 - Ray's own is 60 s, without an option
ray.init(address, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
serve.run(
    distributed.serve_deployment("convnext_mini.shapes", min_replicas=2, api_keys=[key], indexes={"shapes": index})
)
print("ready", flush=True)
sys.stdin.read()
serve.shutdown()
