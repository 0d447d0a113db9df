"""Writes the data of `convnext_keras.clip` from the files that OpenCLIP ships.

    python scripts/make_clip_data.py        # in an environment that has open_clip

The merges come out of `bpe_simple_vocab_16e6.txt.gz`, of which only items 1 to 48894 are ever used.
"""

import gzip
import hashlib
from pathlib import Path

from open_clip import tokenizer, zero_shot_metadata

DATA = Path(__file__).parents[1] / "convnext_keras" / "clip" / "data"
VOCABULARY_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
MERGES = slice(1, 48895)


def main() -> None:
    packed = Path(tokenizer.default_bpe()).read_bytes()
    if hashlib.sha256(packed).hexdigest() != VOCABULARY_SHA256:
        raise SystemExit("The vocabulary file is not the one that these merges were taken from.")
    merges = gzip.decompress(packed).decode().split("\n")[MERGES]
    (DATA / "bpe_merges.txt.gz").write_bytes(gzip.compress("\n".join(merges).encode(), mtime=0))
    lists = {
        "imagenet_templates": [template("{}") for template in zero_shot_metadata.OPENAI_IMAGENET_TEMPLATES],
        "imagenet_templates_short": [template("{}") for template in zero_shot_metadata.SIMPLE_IMAGENET_TEMPLATES],
        "imagenet_classes": zero_shot_metadata.IMAGENET_CLASSNAMES,
    }
    for name, lines in lists.items():
        (DATA / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
