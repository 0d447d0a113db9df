"""CLIP's tokenizer as a `tokenizer.json`, which the `tokenizers` package and other programs read.

The form is that of Hugging Face's tokenizers 0.23. Repaired Unicode and HTML entities, which OpenCLIP cleans by ftfy,
have no counterpart in it: such texts get other ids there.
"""

from typing import Any

from convnext_keras.clip.tokenizer import WORD_END, Tokenizer

START, END = "<|startoftext|>", "<|endoftext|>"  # as in the repositories of OpenAI and LAION
PAD = "!"  # whose id is 0, which OpenCLIP fills texts up with
WORD_REGEX = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the content of `tokenizer.json`: NFC, single blanks, lower case, CLIP's words, byte pairs, both ends."""
    vocabulary = dict(zip([*tokenizer.symbols[:-2], START, END], range(tokenizer.vocab_size), strict=True))
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocabulary[token], "content": token, **special} for token in (START, END)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Lowercase"},
            ],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": WORD_REGEX}, "behavior": "Removed", "invert": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [END, tokenizer.end],
            "cls": [START, tokenizer.start],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": END,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": WORD_END,
            "fuse_unk": False,
            "vocab": vocabulary,
            "merges": [" ".join(pair) for pair in tokenizer.ranks],
        },
    }


def tokenizer_config_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the content of `tokenizer_config.json`."""
    return {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": tokenizer.context_length,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": PAD,
        "do_lower_case": True,
    }
