"""Compares jobs in this process and on Ray, on the same cores: images per second, memory, equality of the rows.

python benchmarks/benchmark_jobs.py            # 5,000 and 20,000 images; five minutes

Images are made up, JPEG files of 128 x 128 pixels in archives of 1,000; the model is the bundled one. Each run is a
process of its own. The rate is of the time from the first shard on, without the start of models and cluster, which the
table lists separately.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet
from benchmark_report import machine
from PIL import Image

MODEL, SHARD = "convnext_mini.shapes", 1000
CONTENDERS = {"this process": None, "Ray, two actors": "ray"}


def archives(folder: Path, images: int) -> None:
    random = np.random.default_rng(0)
    for first in range(0, images, SHARD):
        with tarfile.open(folder / f"{first // SHARD:05}.tar", "w") as archive:
            for number in range(first, min(first + SHARD, images)):
                pixels = random.integers(0, 255, (8, 8, 3), "uint8").repeat(16, 0).repeat(16, 1)
                content = io.BytesIO()
                Image.fromarray(pixels).save(content, "JPEG")
                member = tarfile.TarInfo(f"{number:09}.jpg")
                member.size = len(content.getvalue())
                archive.addfile(member, io.BytesIO(content.getvalue()))


def memory_of(process: psutil.Process) -> float:
    """MB of the process that holds the model: of the largest, if there are several."""
    sizes = [0.0]
    for each in (process, *process.children(recursive=True)):
        try:
            sizes.append(each.memory_full_info().uss / 1e6)
        except psutil.Error:
            continue
    return max(sizes)


def measured(contender: str, shards: str, output: Path) -> dict[str, float]:
    """Images a second, seconds of the start, and MB at most."""
    code = (
        "import json, sys, time; start = time.time()\n"
        "from convnext_keras import distributed; from convnext_keras.distributed import jobs\n"
        "do, begun = jobs._run_shards, []\n"
        "def timed(*arguments):\n"
        "    begun.append(time.time()); result = do(*arguments); begun.append(time.time()); return result\n"
        "jobs._run_shards = timed\n"
        "options = {'cluster': 'ray', 'devices': 'cpu:2'} if sys.argv[3] else {}\n"
        f"summary = distributed.embed('{MODEL}', sys.argv[1], sys.argv[2], **options)\n"
        "print(json.dumps([summary.images / (begun[1] - begun[0]), begun[0] - start]))"
    )
    command = [sys.executable, "-c", code, shards, str(output), CONTENDERS[contender] or ""]
    sizes: list[float] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:

        def watch() -> None:
            while process.poll() is None:
                sizes.append(memory_of(psutil.Process(process.pid)))
                time.sleep(0.5)

        watcher = threading.Thread(target=watch)
        watcher.start()
        rate, start = json.loads(process.communicate()[0].splitlines()[-1])
        watcher.join()
    return {"rate": rate, "start": start, "MB": max(sizes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[5000, 20000])
    options = parser.parse_args()
    print(machine(), "\n")
    print("| images | contender | start in s | images/s | MB at most of a process | rows |")
    print("|---:|---|---:|---:|---:|---|")
    for images in options.images:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            archives(folder, images)
            tables = []
            for contender in CONTENDERS:
                output = folder / contender.split()[0]
                result = measured(contender, str(folder / "*.tar"), output)
                tables.append(pyarrow.parquet.read_table(output))
                same = "equal, byte by byte" if tables[0].equals(tables[-1]) else "DIFFER"
                rows = f"{len(tables[-1])}" if len(tables) == 1 else same
                cells = f"{result['start']:.1f} | {result['rate']:.0f} | {result['MB']:.0f} | {rows}"
                print(f"| {images} | {contender} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
