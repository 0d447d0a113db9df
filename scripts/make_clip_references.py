"""Writes the references of ConvNeXt-CLIP into `tests/references/`: what OpenCLIP computes from pixels and strings.

    python scripts/make_clip_references.py      # in an environment that has open_clip, with scripts/ beside it

Small models of each kind in OpenCLIP's own format, without their token embeddings, which are too large to commit and
made by `token_embedding` from a seed; token ids of odd strings; and pixels of odd images.
"""

import gzip
import json
import math
import tempfile
from pathlib import Path

import numpy as np
from make_references import REFERENCES, SMALL, odd_images, write

SIZE = 64
TRANSFORM_SIZE = 56
VOCABULARY_SIZE = 49408
TOKEN_EMBEDDING = "token_embedding.weight"
# Each kind: epsilon of the trunk, projection, width of the embedding, text tower, OpenCLIP's class of the model.
KINDS = {
    "linear": {"epsilon": 1e-6, "projection": "linear", "embedding": 16, "text": (16, 2, 2), "of": "CLIP"},
    "mlp": {"epsilon": 1e-5, "projection": "mlp", "embedding": 24, "text": (32, 4, 3), "of": "CLIP"},
    "custom_text": {
        "epsilon": 1e-6,
        "projection": "linear",
        "embedding": 20,
        "text": (16, 1, 1),
        "of": "CustomTextCLIP",
    },
}
TEXTS = [
    "a diagram",
    "A photo of TWO cats &amp; a dog, isn't it?",
    "\u201cquotes\u201d and \ufb01ne ligatures \u4e2d\u6587 \U0001f600",
    "",
    " ".join(["many words"] * 50),
]


def token_embedding(width: int) -> np.ndarray:
    """The token embeddings of the reference models, `(49408, width)`: small, as trained ones are, but not alike."""
    return np.random.default_rng(5).normal(0, 0.3, (VOCABULARY_SIZE, width)).astype("float32")


def images() -> list[np.ndarray]:
    """Three RGB images of other shapes than the model's, smooth enough to survive resizing."""
    from PIL import Image

    random = np.random.default_rng(11)
    sizes = ((90, 70), (64, 100), (40, 40))
    noise = [random.integers(0, 256, (7, 8, 3), "uint8") for _ in sizes]
    return [
        np.asarray(Image.fromarray(row).resize(size, Image.Resampling.BICUBIC))
        for row, size in zip(noise, sizes, strict=True)
    ]


def models() -> None:
    """Embeddings and logits of each kind, at the largest scale, 100."""
    import open_clip
    import timm
    import torch
    from make_references import randomised
    from PIL import Image

    transform = open_clip.transform.image_transform(SIZE, is_train=False)
    source_images = torch.stack([transform(Image.fromarray(pixels)) for pixels in images()])
    tokens = open_clip.get_tokenizer("convnext_base_w")(TEXTS)
    for kind, row in KINDS.items():

        def small_convnext(pretrained=False, epsilon=row["epsilon"], **_):
            trunk = timm.models.convnext.ConvNeXt(**SMALL, norm_eps=epsilon)
            trunk.default_cfg = {}  # OpenCLIP asks for it.
            return trunk

        timm.models.register_model(small_convnext)
        vision = {
            "timm_model_name": "small_convnext",
            "timm_pool": "",
            "timm_proj": row["projection"],
            "image_size": SIZE,
        }
        width, heads, depth = row["text"]
        text = {"vocab_size": VOCABULARY_SIZE, "context_length": 77, "width": width, "heads": heads, "layers": depth}
        model = randomised(getattr(open_clip.model, row["of"])(row["embedding"], vision, text))
        tensors = model.state_dict()
        (embedding,) = (key for key in tensors if key.endswith(TOKEN_EMBEDDING))
        with torch.no_grad():
            tensors[embedding].copy_(torch.tensor(token_embedding(width)))
            model.logit_scale.fill_(math.log(100))
            image, words, scale = model(source_images, tokens)
            arrays = {"image": image.numpy(), "text": words.numpy(), "logits": (scale * image @ words.T).numpy()}
        del tensors[embedding]
        write(f"clip_{kind}", tensors, arrays)


ALPHABETS = {
    "ascii": "".join(chr(code) for code in range(32, 127)),
    "letters": "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJ ",
    "digits": "0123456789 .,%-/\u00bd\u00b2\u0663\u2167",
    "latin": "\u00e0\u00e9\u00ee\u00f5\u00fc\u00df\u00f8\u0142\u0131\u0130 stra\u00dfe \u00c5\u00c6\ufb01\ufb02",
    "combining": "ae\u0301i\u0308o\u0302u\u0304 n\u0303\u200d\u200b\u00ad ",
    "cjk": "\u4e2d\u6587\u65e5\u672c\u8a9e\u306e\u30ab\u30bf\uff76\uff80\ud55c\uad6d\uc5b4 \uff21\uff22\uff11",
    "scripts": "\u0430\u0431\u0432\u0413 \u03b1\u03b2\u03a9 \u05d0\u05d1 \u0627\u0628\u062a "
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22 ",
    "emoji": "\U0001f600\U0001f44d\U0001f3fd \u2764\ufe0f\U0001f468\u200d\U0001f469\u200d\U0001f467"
    "\U0001f1e9\U0001f1ea \u263a",
    "quotes": "\u201c\u201d\u2018\u2019\u201e\u00ab\u00bb\u2014\u2013\u2026'\"` it s don t ",
    "blanks": "a b\t\n\r\x0b\u00a0\u3000\u2003c\x00\x1b[0m\x85",
    "mojibake": "\u00e2\u20ac\u2122\u00c3\u00a9\u00c2\u00b0 schÃ¶n naÃ¯ve ",
}
PIECES = [
    "&amp;", "&lt;b&gt;", "&#233;", "&amp;amp;", "&eacute;", "&nbsp;", "&#x1F600;", "&unknown;", "&amp", "<b>bold</b>",
    "it's", "don't", "I'll", "we've", "they're", "I'd", "I'm", "'S", "o'clock", "<start_of_text>", "<end_of_text>",
    "<END_OF_TEXT>", "<|endoftext|>", "snake_case", "CamelCase", "3.14", "1,000", "50%", "a.b.c", "e-mail", "#hash",
    "@name", "C++", "http://example.org/a?b=c&d=e", "!!!", "...", "--", "a photo of", "supercalifragilistic",
]  # fmt: skip


def strings() -> list[str]:
    """2,400 odd strings: single alphabets, mixtures, pieces in any order, very long ones and an empty one."""
    random = np.random.default_rng(7)

    def some(alphabet: str, most: int) -> str:
        return "".join(random.choice(list(alphabet), random.integers(1, most)))

    found = ["", " ", *TEXTS, "word " * 200, "x" * 300, "\U0001f600" * 120]
    found += [some(alphabet, 25) for alphabet in ALPHABETS.values() for _ in range(120)]
    everything = "".join(ALPHABETS.values())
    found += [some(everything, 60) for _ in range(500)]
    while len(found) < 2400:
        parts = [str(random.choice(PIECES)) for _ in range(random.integers(1, 8))]
        found.append(str(random.choice(["", " ", "  "])).join(parts) + some(everything, 4))
    return found


def tokens() -> None:
    """Ids of the odd strings."""
    import open_clip

    texts = strings()
    ids = open_clip.get_tokenizer("convnext_base_w")(texts).numpy().astype("int32")
    packed = gzip.compress(json.dumps(texts, ensure_ascii=True, indent=0).encode(), mtime=0)
    (REFERENCES / "clip_strings.json.gz").write_bytes(packed)
    np.savez_compressed(REFERENCES / "clip_tokens.npz", ids=ids)


def transforms() -> None:
    """OpenCLIP's evaluation transform of the odd images, as pixels."""
    import open_clip
    from PIL import Image

    none = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    transform = open_clip.transform.image_transform(TRANSFORM_SIZE, is_train=False, **none)
    with tempfile.TemporaryDirectory() as folder:
        images = [transform(Image.open(path)).numpy().transpose(1, 2, 0) for path in odd_images(Path(folder))]
    pixels = np.rint(np.stack(images) * 255).astype("uint8")
    np.savez_compressed(REFERENCES / "clip_transforms.npz", pixels=pixels)


if __name__ == "__main__":
    models()
    tokens()
    transforms()
