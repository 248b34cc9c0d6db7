"""The engine: decoders as tuples of layers, each a value made of norms, positions, attention and MLP.

model = Decoder(
d_vocab=100,
d_model=32,
layers=2 * (Layer(
ln1=RMSNorm(), mixer=Attention(n_heads=4, n_kv_heads=2, d_head=8, positions=Rotary(8)),
ln2=RMSNorm(), channel=GatedMLP(d_mlp=64),
),),
ln_final=RMSNorm(),
)
backend = model.build()
"""

from mi_decoder.alibi import Alibi
from mi_decoder.attention import Attention
from mi_decoder.attention_only import AttentionLayer
from mi_decoder.decoder import Decoder, DecoderBackend
from mi_decoder.experts import Experts
from mi_decoder.gains import Gain, NoGain, OnePlusGain, WideGain
from mi_decoder.head_norms import HeadNorm
from mi_decoder.layers import Layer, ParallelLayer, PostNormLayer
from mi_decoder.learned_positions import LearnedPositions
from mi_decoder.memory import KeyValues
from mi_decoder.mlp import MLP, GatedMLP
from mi_decoder.norms import LayerNorm, RMSNorm
from mi_decoder.rotary import Rotary

__all__ = [
    "MLP",
    "Alibi",
    "Attention",
    "AttentionLayer",
    "Decoder",
    "DecoderBackend",
    "Experts",
    "Gain",
    "GatedMLP",
    "HeadNorm",
    "KeyValues",
    "Layer",
    "LayerNorm",
    "LearnedPositions",
    "NoGain",
    "OnePlusGain",
    "ParallelLayer",
    "PostNormLayer",
    "RMSNorm",
    "Rotary",
    "WideGain",
]
