"""OpenCLIP's token ids, exactly."""

import gzip
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from make_references import REFERENCES, arrays_of

from convnext_keras import configs
from convnext_keras.clip import Tokenizer, tokenizer
from convnext_keras.clip.zero_shot import imagenet_classes, imagenet_templates

pytestmark = pytest.mark.any_backend

# What OpenCLIP 3.3.0 gives, and the sums of its whole prompt sets.
IDS = {
    "a diagram": [320, 22697],
    "hello world": [3306, 1002],
    "It's 2024, isn't it?": [585, 568, 273, 271, 273, 275, 267, 2923, 713, 585, 286],
    "Tom &amp; Jerry": [2435, 261, 9164],
    "don\u2019t": [847, 713],
    "\ufb01sh": [2759],
    "\u4e2d\u6587 \u65e5\u672c\u8a9e": [19759, 255, 29032, 485, 39121, 44353, 34002, 508],
    "\U0001f600 smile": [7334, 3490],
    "stra\u00dfe": [1894, 127, 253, 324],
    "<end_of_text>": [49407],
    "<|endoftext|>": [27, 347, 40786, 4160, 91, 285],
    "": [],
}
PROMPTS = {
    80: "5c9ac1bcd9e6bdf95cb9c90a690164ac16ab301b329e7edb670dcdf89ae1e058",
    7: "282053128171d988dd735f28ea415779c9ca8a0b72a6aeeff6b482b6dec3c9f8",
}
DATA = {
    "bpe_merges.txt.gz": "f61f2adf497e6f5357c347aeb4646fabe82f341e946de5bdec5d2858e41bef4a",
    "imagenet_templates.txt": "4f976686fb651bb5803d4689dcd849f75efe0ef19a3c801355bc9a6f03c8a5af",
    "imagenet_templates_short.txt": "6ef3883987d224b7949da69fe0b615af152e1560eaac4c5c38555e50c882d415",
    "imagenet_classes.txt": "571ae1c583b4be7da87519494c52bf405a46af05d5815627c7a0dee997068b60",
}


@pytest.fixture(scope="module")
def full():
    return Tokenizer()


@pytest.mark.parametrize("text", IDS)
def test_token_ids_equal_open_clip(text, full):
    assert full.encode(text) == IDS[text]
    assert full(text)[0, : len(IDS[text]) + 2].tolist() == [49406, *IDS[text], 49407]
    assert full.count_tokens(text) == len(IDS[text]) + 2


def test_token_ids_of_unusual_strings(full):
    texts = json.loads(gzip.decompress((REFERENCES / "clip_strings.json.gz").read_bytes()))
    expected = arrays_of(REFERENCES / "clip_tokens.npz")["ids"]
    assert len(texts) == len(expected) == 2400
    found = full(texts, truncate="silent")
    assert found.dtype == np.int32
    wrong = [text for text, row, wanted in zip(texts, found, expected, strict=True) if (row != wanted).any()]
    assert not wrong


@pytest.mark.parametrize("templates", PROMPTS)
def test_token_ids_of_imagenet_prompts(templates, full):
    rows = imagenet_templates(templates)
    prompts = [template.replace("{}", name) for name in imagenet_classes() for template in rows]
    start = time.process_time()
    ids = full(prompts)
    assert time.process_time() - start < 3
    assert ids.shape == (1000 * templates, 77)
    assert hashlib.sha256(ids.astype("<i4").tobytes()).hexdigest() == PROMPTS[templates]


@pytest.mark.parametrize("file", DATA)
def test_merges_are_the_published_file(file):
    content = (tokenizer.MERGES_FILE.parent / file).read_bytes()
    content = gzip.decompress(content) if file.endswith(".gz") else content
    assert hashlib.sha256(content).hexdigest() == DATA[file]
    assert DATA[file] in (tokenizer.MERGES_FILE.parent / "README.md").read_text()


def test_long_texts_are_truncated(full):
    long = "word " * 100
    with pytest.warns(
        UserWarning, match=r"1 of 2 texts have more than 77 tokens.*the longest 102\); 25 tokens are lost"
    ):
        ids = full([long, "short"])
    assert ids[0, -1] == 49407
    np.testing.assert_array_equal(full(long, truncate="silent"), ids[:1])
    with pytest.raises(ValueError, match="more than 77 tokens"):
        full(long, truncate="error")
    assert full("a dog", context_length=3, truncate="silent").tolist() == [[49406, 320, 49407]]
    assert full.count_tokens(long) == 102


def test_tokenizer_rejects_invalid_arguments(full):
    with pytest.raises(ValueError, match="'warn', 'error', 'silent'.*'cut'"):
        full("a", truncate="cut")
    with pytest.raises(ValueError, match="2 or more. Received: 1"):
        full("a", context_length=1)
    with pytest.raises(TypeError, match="must be strings. Received: 3"):
        full(["a", 3])
    with pytest.raises(ValueError, match="514 to 49408"):
        Tokenizer(100)
    with pytest.raises(ValueError, match="0 to 49407. Received: 49408"):
        full.decode([49408])


def test_decode_returns_the_cleaned_text(full):
    for text in ("hello world", "stra\u00dfe", "\u4e2d\u6587", "\U0001f600"):
        assert full.decode(full(text)[0]) == text
    assert full.decode(full.encode("  Two   BLANKS ")) == "two blanks"


def test_small_vocabularies_keep_special_tokens_last():
    small = Tokenizer(1000, context_length=8)
    ids = small("in the middle", truncate="silent")
    assert ids.shape == (1, 8)
    assert ids[0, 0] == 998
    assert ids.max() == 999
    assert small.decode(small.encode("a triangle")) == "a triangle"


def test_text_towers_have_the_sizes_of_the_tokenizer():
    sizes = (configs.VOCABULARY_SIZE, configs.CONTEXT_LENGTH)
    assert sizes == (tokenizer.VOCABULARY_SIZE, tokenizer.CONTEXT_LENGTH)


def test_the_module_imports_no_keras():
    code = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('tokenizer', sys.argv[1]);"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module);"
        "print(module.Tokenizer().encode('a diagram'), 'keras' in sys.modules, 'tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(Path(tokenizer.__file__))]
    assert subprocess.check_output(command, text=True).strip() == "[320, 22697] False False"
