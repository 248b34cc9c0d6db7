"""A forward pass at which nobody looks makes fewer Python calls than the reference's."""

from __future__ import annotations

import subprocess
import sys

# in a process of its own: the checks of shapes at every call would be counted too
COUNT = """
import sys
import torch
import mi_core as mi
from transformers import LlamaConfig, LlamaForCausalLM

config = dict(vocab_size=61, hidden_size=32, intermediate_size=40, num_hidden_layers=4, num_attention_heads=4)
ours = mi.build({"model_type": "llama", "max_position_embeddings": 64, **config}, trainable=False)
theirs = LlamaForCausalLM(LlamaConfig(**config)).eval()
ids = torch.arange(12)[None]

def calls(function):
    count = 0
    def seen(frame, event, argument):
        nonlocal count
        count += event == "call"
    with torch.no_grad():
        function()
        sys.setprofile(seen)
        function()
        sys.setprofile(None)
    return count

print(calls(lambda: ours.run(ids)), calls(lambda: theirs(ids, use_cache=False)))
"""


def test_a_plain_run_makes_fewer_python_calls_than_the_reference() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    ours, theirs = map(int, done.stdout.split())
    assert ours < theirs
