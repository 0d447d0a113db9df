"""Serves the bundled model in two replicas until its input ends. Run as a program by `test_serve.py`."""

import sys

import ray
from ray import serve

from convnext_keras import scale

ray.init(include_dashboard=False, log_to_driver=False, num_cpus=3)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
serve.run(scale.application("convnext_mini.shapes", replicas=2, keys=[sys.argv[2]], indexes={"shapes": sys.argv[3]}))
print("ready", flush=True)
sys.stdin.read()
serve.shutdown()
ray.shutdown()
