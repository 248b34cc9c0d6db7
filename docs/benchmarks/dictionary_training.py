"""How many tokens a second do we train on, and how many SAELens, on one thread, with the same data?

``python docs/benchmarks/dictionary_training.py SAELENS_PYTHON``: the interpreter of an environment that has
``sae-lens==6.54.12``. Both trainers take the same batches from memory and do the same arithmetic step by step (tests
compare it); each measurement is a process of its own, the two libraries alternate, and processor time is counted, so
that other work on the machine counts for little.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

WIDTH, FEATURES, BATCH, K = 512, 8192, 2048, 32
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "topk": {"k": K},
    "batchtopk": {"k": K},
    "matryoshka_batchtopk": {"k": K, "matryoshka_widths": [512, 2048, 8192]},
    "jumprelu": {"l0_coefficient": 5.0, "jumprelu_bandwidth": 0.1},
    "standard": {"l1_coefficient": 5.0},
    "gated": {"l1_coefficient": 5.0},
    "transcoder": {"k": K},
}


def batches(count: int) -> Any:
    """Activations that are sums of a few of many directions, as a model's are."""
    import torch

    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(4096, WIDTH, generator=generator), dim=1)
    found = []
    for _ in range(count):
        chosen = torch.randint(4096, (BATCH, 24), generator=generator)
        sizes = torch.rand(BATCH, 24, generator=generator) + 0.5
        found.append(torch.nn.functional.embedding_bag(chosen, directions, per_sample_weights=sizes, mode="sum"))
    return [batch * (WIDTH**0.5 / batch.norm(dim=1).mean()) for batch in found]


def ours(architecture: str, warm: int, steps: int) -> float:
    """Seconds for ``steps`` steps of our trainer."""
    import torch

    from mi_dictionaries.training import TrainingConfig, options_of
    from mi_dictionaries.training.making import trainee_of
    from mi_dictionaries.training.trainer import Trainer

    torch.set_num_threads(1)
    transcodes = architecture == "transcoder"
    name = "topk" if transcodes else architecture
    options = options_of({"architecture": name, "d_sae": FEATURES, **ARCHITECTURES[architecture]})
    made = trainee_of(options, WIDTH, WIDTH, transcodes=transcodes)
    config = TrainingConfig(tokens=BATCH * (warm + steps), batch=BATCH, lr=1e-3)
    trainer = Trainer(made, config, (WIDTH,))
    data = batches(warm + steps)
    for batch in data[:warm]:
        trainer.advance(batch)
    begun = time.process_time()
    for batch in data[warm:]:
        trainer.advance(batch)
    return time.process_time() - begun


def theirs(architecture: str, warm: int, steps: int) -> float:
    """Seconds for ``steps`` steps of SAELens' trainer."""
    import torch
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.registry import get_sae_training_class
    from sae_lens.training.sae_trainer import SAETrainer

    torch.set_num_threads(1)
    kind, config = get_sae_training_class(architecture)
    sae = kind(config(d_in=WIDTH, d_sae=FEATURES, device="cpu", **ARCHITECTURES[architecture]))
    data = batches(warm + steps)
    trainer = SAETrainer(
        SAETrainerConfig(
            n_checkpoints=0,
            checkpoint_path=None,
            save_final_checkpoint=False,
            total_training_samples=BATCH * (warm + steps),
            device="cpu",
            autocast=False,
            lr=1e-3,
            lr_end=1e-4,
            lr_scheduler_name="constant",
            lr_warm_up_steps=0,
            lr_decay_steps=0,
            adam_beta1=0.9,
            adam_beta2=0.999,
            n_restart_cycles=1,
            train_batch_size_samples=BATCH,
            dead_feature_window=1000,
            feature_sampling_window=1000,
            n_batches_for_norm_estimate=1,
            logger=LoggingConfig(log_to_wandb=False),
        ),
        sae,
        iter(data),
    )
    for batch in data[:warm]:
        trainer.step(batch)
        trainer.n_training_steps += 1
    begun = time.process_time()
    for batch in data[warm:]:
        trainer.step(batch)
        trainer.n_training_steps += 1
    return time.process_time() - begun


def measured(python: str, side: str, architecture: str, warm: int, steps: int) -> float:
    """Tokens a second, from a process of its own."""
    command = [python, __file__, "--child", side, "--only", architecture, "--warm", str(warm), "--steps", str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    said = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return BATCH * steps / float(json.loads(said.splitlines()[-1]))


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("saelens", nargs="?", default="", help="the python that has sae-lens")
    parser.add_argument("--only", nargs="*", default=[], help="architectures")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm", type=int, default=20, help="steps before the clock starts")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--child", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps({"ours": ours, "theirs": theirs}[asked.child](asked.only[0], asked.warm, asked.steps)))
        return
    print(f"width {WIDTH}, {FEATURES} features, batches of {BATCH} tokens, one thread; tokens per processor second")
    for architecture in asked.only or ARCHITECTURES:
        sides = {"ours": sys.executable}
        if architecture != "transcoder":  # SAELens trains none
            sides["theirs"] = asked.saelens
        found: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(asked.rounds):
            for side, python in sides.items():
                found[side].append(measured(python, side, architecture, asked.warm, asked.steps))
        middle = {side: statistics.median(rates) for side, rates in found.items()}
        times = f"  {middle['ours'] / middle['theirs']:5.2f} times" if "theirs" in middle else ""
        print(
            f"{architecture:<22} {'  '.join(f'{side} {rate:8,.0f}' for side, rate in middle.items())}{times}",
            flush=True,
        )


if __name__ == "__main__":
    main()
