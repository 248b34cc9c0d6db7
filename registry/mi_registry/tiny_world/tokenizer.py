"""Which tokens does the model read? A byte-level vocabulary in which every word of the world is one token.

Any text can be encoded and decoded without loss: a word that the world does not have falls back to pieces, and at
last to bytes. Words win over pieces (``ignore_merges``), so no merge has to lead to them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from mi_registry.tiny_world.rows import text_row

__all__ = ["BOS", "make", "save", "train"]

BOS = "<bos>"
SIZE = 1024
SAMPLE = 12_000
"""Rows of text that the vocabulary is taken from: enough that every word of the world occurs."""


def train(texts: Iterable[str], size: int = SIZE) -> Tokenizer:
    """A tokenizer whose tokens are BOS, the 256 bytes, all words of ``texts``, and pieces of words up to ``size``.

    >>> train(["The capital of France is Paris."], size=300).encode("The capital of France").tokens
    ['<bos>', 'The', 'Ġcapital', 'Ġof', 'ĠFrance']
    """
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(text))
    common = sorted(words, key=lambda word: (-words[word], word))
    alphabet = sorted(splitter.alphabet())
    tokens = list(dict.fromkeys([BOS, *alphabet, *common]))
    merges = bpe_merges(common, 2 * size, alphabet)
    tokens += ["".join(pair) for pair in merges if "".join(pair) not in words][: max(0, size - len(tokens))]
    ids = {token: i for i, token in enumerate(tokens)}
    usable = [pair for pair in merges if all(token in ids for token in (*pair, "".join(pair)))]
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=usable, ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BOS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, ids[BOS])]
    )
    return tokenizer


def bpe_merges(words: list[str], size: int, alphabet: list[str]) -> list[tuple[str, str]]:
    """The merges that byte-pair encoding learns from these words, each counted once."""
    learner = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator(words, trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [(first, second) for first, second in merges]


def make(seed: int = 0) -> Tokenizer:
    """The tokenizer of tiny-world."""
    random = Random(seed)
    return train(" ".join(map(str, text_row(random, words=48))) for _ in range(SAMPLE))


def save(tokenizer: Tokenizer, folder: Path, n_ctx: int | None) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "clean_up_tokenization_spaces": False,
        **({"model_max_length": n_ctx} if n_ctx else {}),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
