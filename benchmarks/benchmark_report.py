"""Describes the machine and writes tables into docs/benchmarks.md."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "docs" / "benchmarks.md"
# By the flag of the processor, the widest vectors first.
VECTORS = {"amx_tile": "AMX", "avx512f": "AVX-512", "avx2": "AVX2"}


def processor() -> tuple[str, str]:
    """Its name and its widest vector instructions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    fields = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]))
    flags = fields.get("flags", "").split()
    widest = next((name for flag, name in VECTORS.items() if flag in flags), platform.machine())
    return fields.get("model name", platform.processor()), widest


def machine(peers: str | None = None, gpu: bool = False) -> str:
    """Processor, threads and versions, in one paragraph."""
    names = ("keras", "tensorflow_cpu", "jax", "torch", "openvino")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names if installed(name)]
    if peers:
        code = (
            'from importlib.metadata import version as v; print(f\'timm {v("timm")}, OpenCLIP {v("open_clip_torch")}\')'
        )
        versions.append(subprocess.check_output([peers, "-c", code], text=True).strip())
    card = "no GPU used"
    if gpu:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        card = subprocess.check_output(query, text=True).strip()
    versions = ", ".join([f"Python {platform.python_version()}", *versions])
    return f"{' with '.join(processor())}, {os.cpu_count()} processors and threads, {card}; {versions}."


def installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def write_section(name: str, lines: list[str]) -> None:
    """Puts lines between the marks of a section of docs/benchmarks.md."""
    before, rest = BENCHMARKS.read_text().split(f"<!-- {name} -->\n")
    after = rest.split(f"<!-- end of {name} -->")[1]
    text = "\n".join(lines)
    BENCHMARKS.write_text(f"{before}<!-- {name} -->\n{text}\n<!-- end of {name} -->{after}")
