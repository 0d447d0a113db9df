"""Starts a cluster of Ray on this machine, prints its address, and ends it when its input ends.

Run as a program by the fixture `cluster`.
"""

import sys

import ray

# Stated, so that the same tests run on machines with other numbers of cores.
ray.init(num_cpus=4, num_gpus=0, object_store_memory=2**28, include_dashboard=False, log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
ray.shutdown()
