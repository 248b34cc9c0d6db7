"""Recurrent mixers and channel parts, RWKV-4 to 7, delta nets and Mamba: what an engine's layers are made of."""

from mi_recurrent.channel_mix import ChannelMix
from mi_recurrent.delta_net import GatedDeltaNet
from mi_recurrent.mamba import Mamba
from mi_recurrent.mamba2 import Mamba2
from mi_recurrent.rwkv4 import RWKV4TimeMix
from mi_recurrent.rwkv5 import RWKV5TimeMix
from mi_recurrent.rwkv6 import RWKV6TimeMix
from mi_recurrent.rwkv7 import RWKV7TimeMix

__all__ = [
    "ChannelMix",
    "GatedDeltaNet",
    "Mamba",
    "Mamba2",
    "RWKV4TimeMix",
    "RWKV5TimeMix",
    "RWKV6TimeMix",
    "RWKV7TimeMix",
]
