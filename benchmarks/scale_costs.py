"""Computes the cost of embedding a billion images from docs/benchmarks.md, for docs/guides/distributed.md.

python benchmarks/scale_costs.py --write
python benchmarks/scale_costs.py --images 5e6 --kilobytes 120
"""

import argparse
import re
from pathlib import Path

from benchmark import GIGA

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guides" / "distributed.md"
MODEL = "convnext_base_w at 256 x 256"
WIDTH, BYTES = 640, 2  # of a vector in float16
# huggingface/pytorch-image-models, pull request 1747: ConvNeXt-Tiny at 224, mixed precision, RTX 3090.
GPU_RATE = 2249.6
CLUSTERS = {"one machine": (16, 1), "8 machines": (8 * 32, 8), "64 machines": (64 * 32, 64)}  # processors, GPUs
LINK = 10e9 / 8  # bytes a second of a machine


def table_of(page: str, heading: str) -> list[list[str]]:
    """The cells of the rows of the first table below a heading."""
    part = page.split(heading, 1)[1].split("\n|---", 1)[1]
    rows = [line for line in part.split("\n\n", 1)[0].splitlines()[1:] if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def measured(page: str) -> dict[str, float]:
    """Images a second of two processors, and seconds to build an index of a million vectors on them."""
    rates = {row[0]: float(row[1]) for row in table_of(page, "### clip image, predict, batch 8")}
    search = {row[0]: float(row[1]) for row in table_of(page, "## Search among a million vectors")}
    return {"rate": max(rate for name, rate in rates.items() if name.startswith("ours")), "index": search["lance int8"]}


def amount(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.1f} hours" if hours < 48 else f"{hours / 24:,.0f} days"


def costs(page: str, images: float, kilobytes: float) -> str:
    facts = measured(page)
    a_core, a_gpu = facts["rate"] / 2, GPU_RATE * GIGA["tiny"] / GIGA["clip image"]
    lines = [
        f"{images:,.0f} images of {kilobytes:.0f} kB with {MODEL}: {a_core:.2f} images/s a processor, as",
        f"measured here; {a_gpu:.0f} a GPU, by multiply-adds from a published figure for an RTX 3090. Vectors of",
        f"{WIDTH} numbers in float16: {images * WIDTH * BYTES / 1e12:.2f} TB.",
        f"Images to read: {images * kilobytes / 1e9:.0f} TB.",
        "",
        "| cluster | processors | GPUs | on processors | on GPUs | reading at 10 Gbit/s a machine | index of vectors |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, (processors, gpus) in CLUSTERS.items():
        machines = int(name.split()[0]) if name[0].isdigit() else 1
        times = (
            images / (a_core * processors),
            images / (a_gpu * gpus),
            images * kilobytes * 1000 / (LINK * machines),
            facts["index"] * images / 1e6 * 2 / (processors / machines),  # built by one machine
        )
        lines.append(f"| {name} | {processors} | {gpus} | {' | '.join(map(amount, times))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=float, default=1e9)
    parser.add_argument("--kilobytes", type=float, default=40, help="of an image")
    parser.add_argument("--write", action="store_true", help="put the table into docs/guides/distributed.md")
    options = parser.parse_args()
    text = costs((ROOT / "docs" / "benchmarks.md").read_text(), options.images, options.kilobytes)
    print(text)
    if options.write:
        page = PAGE.read_text()
        PAGE.write_text(
            re.sub(r"(<!-- costs -->\n).*(<!-- end of costs -->)", lambda m: f"{m[1]}{text}\n{m[2]}", page, flags=re.S)
        )


if __name__ == "__main__":
    main()
