"""Record what SAELens' training architectures compute: ``python tests/record_sae_lens.py OUT.safetensors``.

Needs ``sae-lens==6.54.12`` in the environment that runs it. One start and twelve batches for all cases; of each case
the losses and gradients of the first batch with some dead features, and the weights behind twelve steps of its trainer.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

D_IN, D_SAE, BATCH, STEPS = 8, 24, 32, 12
SHARED = {"d_in": D_IN, "d_sae": D_SAE, "device": "cpu"}
CASES: dict[str, dict[str, Any]] = {
    "standard": {"architecture": "standard", "l1_coefficient": 0.3},
    "standard_p": {"architecture": "standard", "l1_coefficient": 0.3, "lp_norm": 2.0},
    "standard_plain": {"architecture": "standard", "l1_coefficient": 0.3, "apply_b_dec_to_input": False},
    "standard_warm": {"architecture": "standard", "l1_coefficient": 0.3, "l1_warm_up_steps": 5},
    "gated": {"architecture": "gated", "l1_coefficient": 0.2},
    "topk": {"architecture": "topk", "k": 3},
    "topk_raw": {"architecture": "topk", "k": 3, "rescale_acts_by_decoder_norm": False},
    "abstopk": {"architecture": "abstopk", "k": 3},
    "batchtopk": {"architecture": "batchtopk", "k": 2.5},
    "batchtopk_scaled": {
        "architecture": "batchtopk",
        "k": 2.5,
        "normalize_activations": "expected_average_only_in",
    },
    "matryoshka": {"architecture": "matryoshka_batchtopk", "k": 2.5, "matryoshka_widths": [6, 12, 24]},
    "matryoshka_aux": {
        "architecture": "matryoshka_batchtopk",
        "k": 2.5,
        "matryoshka_widths": [6, 12, 24],
        "use_matryoshka_aux_loss": True,
    },
    "jumprelu_step": {"architecture": "jumprelu", "l0_coefficient": 0.2, "jumprelu_bandwidth": 0.5},
    "jumprelu_tanh": {
        "architecture": "jumprelu",
        "l0_coefficient": 0.2,
        "jumprelu_bandwidth": 0.5,
        "jumprelu_sparsity_loss_mode": "tanh",
        "jumprelu_ste_to_input": True,
        "pre_act_loss_coefficient": 0.1,
    },
    "jumprelu_quadratic": {
        "architecture": "jumprelu",
        "l0_coefficient": 0.2,
        "jumprelu_bandwidth": 0.5,
        "jumprelu_sparsity_loss_mode": "quadratic",
        "target_l0": 3.0,
    },
    "matching_pursuit": {"architecture": "matching_pursuit", "residual_threshold": 0.3, "max_iterations": 5},
}
TRAINER: dict[str, Any] = {"lr": 1e-2, "lr_warm_up_steps": 3, "lr_decay_steps": 4, "dead_feature_window": 2}


def data() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A start that no architecture would draw, and the batches."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * scale

    start = {
        "W_enc": normal(D_IN, D_SAE, scale=0.4),
        "W_dec": normal(D_SAE, D_IN, scale=0.4),
        "b_enc": normal(D_SAE, scale=0.1),
        "b_dec": normal(D_IN, scale=0.2),
        "threshold": normal(D_SAE, scale=0.2).abs(),
        "b_gate": normal(D_SAE, scale=0.1),
        "b_mag": normal(D_SAE, scale=0.1),
        "r_mag": normal(D_SAE, scale=0.1),
    }
    return start, normal(STEPS, BATCH, D_IN)


def record(options: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """One case: tensors and losses."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.registry import get_sae_training_class
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.training.sae_trainer import SAETrainer

    kind, config = get_sae_training_class(options["architecture"])
    given = {key: value for key, value in options.items() if key != "architecture"}
    if options["architecture"] == "matching_pursuit":
        given["decoder_init_norm"] = 1.0
    sae = kind(config(**SHARED, **given))
    start, batches = data()
    own = dict(sae.named_parameters())
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(start[name])
    dead = torch.arange(D_SAE) % 3 == 0
    coefficients = {
        name: value if isinstance(value, float) else value.value for name, value in sae.get_coefficients().items()
    }
    found = sae.training_forward_pass(
        TrainStepInput(
            sae_in=batches[0],
            coefficients=coefficients,
            dead_neuron_mask=dead,
            n_training_steps=0,
            is_logging_step=False,
        )
    )
    found.loss.backward()
    tensors = {f"grad.{name}": parameter.grad.clone() for name, parameter in own.items()}
    tensors |= {"out": found.sae_out.detach(), "fired": (found.feature_acts != 0).float().sum(0)}
    losses = {name: float(value) for name, value in found.losses.items()}
    sae.zero_grad()
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold = torch.zeros((), dtype=torch.float64)
    trainer = SAETrainer(
        SAETrainerConfig(
            n_checkpoints=0,
            checkpoint_path=None,
            save_final_checkpoint=False,
            total_training_samples=STEPS * BATCH,
            device="cpu",
            autocast=False,
            lr_end=TRAINER["lr"],
            lr_scheduler_name="constant",
            adam_beta1=0.9,
            adam_beta2=0.999,
            n_restart_cycles=1,
            train_batch_size_samples=BATCH,
            feature_sampling_window=1000,
            n_batches_for_norm_estimate=STEPS,
            logger=LoggingConfig(log_to_wandb=False),
            **TRAINER,
        ),
        sae,
        iter([*batches, *batches] if "normalize_activations" in options else batches),
    )
    trainer.fit()
    tensors |= {f"after.{name}": value.detach().clone() for name, value in sae.state_dict().items()}
    inference = sae.state_dict()
    sae.process_state_dict_for_saving_inference(inference)
    tensors |= {f"saved.{name}": value.detach().clone().contiguous() for name, value in inference.items()}
    tensors["since_fired"] = trainer.n_forward_passes_since_fired
    return tensors, losses


def main() -> None:
    """Every case into one file."""
    start, batches = data()
    tensors = {**{f"start.{name}": value for name, value in start.items()}, "batches": batches}
    described: dict[str, Any] = {}
    for name, options in CASES.items():
        found, losses = record(options)
        tensors |= {f"{name}/{key}": value.contiguous() for key, value in found.items()}
        described[name] = {"options": options, "losses": losses}
    save_file(tensors, Path(sys.argv[1]), {"cases": json.dumps(described), "trainer": json.dumps(TRAINER)})


if __name__ == "__main__":
    main()
