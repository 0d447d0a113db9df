"""Writes `convnext_keras/data/imagenet.tsv.gz`: the classes of ImageNet-1k, -12k and -22k as classifiers order them.

Run it in an environment that has timm 1.0 or newer, whose `timm/data/_info` (Apache-2.0) lists the synsets of each set
and the lemmas of each synset, which are WordNet 3.0's (https://wordnet.princeton.edu/license-and-commercial-use):

    python scripts/make_labels.py
"""

import gzip
from pathlib import Path

import timm.data

OUT = Path(__file__).parents[1] / "convnext_keras" / "data" / "imagenet.tsv.gz"
SETS = {
    "imagenet-1k": "imagenet_synsets.txt",
    "imagenet-12k": "imagenet12k_synsets.txt",
    "imagenet-22k": "imagenet22k_synsets.txt",
}


def main() -> None:
    """Joins timm's lists into one table: wnid, name, and the class number in each set, empty where it has none."""
    info = Path(timm.data.__file__).parent / "_info"
    lemmas = dict(line.split("\t") for line in (info / "imagenet_synset_to_lemma.txt").read_text().splitlines())
    sets = [
        {wnid: str(number) for number, wnid in enumerate((info / file).read_text().split())} for file in SETS.values()
    ]
    lines = ["\t".join(["wnid", "name", *SETS])]
    for wnid in sorted(set().union(*sets)):
        name = lemmas[wnid].split(",")[0].strip().replace(" ", "_")
        lines.append("\t".join([wnid, name, *(numbers.get(wnid, "") for numbers in sets)]))
    OUT.parent.mkdir(exist_ok=True)
    with OUT.open("wb") as stream, gzip.GzipFile("", "wb", 9, stream, mtime=0) as compressed:
        compressed.write(("\n".join(lines) + "\n").encode())
    print(f"{OUT}: {len(lines) - 1} classes, {OUT.stat().st_size} bytes, from timm {timm.__version__}")


if __name__ == "__main__":
    main()
