"""Harvests with weights that come and go: once for as many shards as the host's memory holds."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from harvested import bytes_in, documents, unflushed
from small_models import CONFIG

import mi_core as mi
from mi_core import errors
from mi_core.building import initialise_randomly
from mi_core.harvests import forecast
from mi_core.harvests.work import Work

POINTS = ["blocks.0.hook_resid_post", "blocks.1.attn.hook_z"]


@pytest.fixture(scope="module", autouse=True)
def _unflushed() -> Iterator[None]:
    with unflushed():
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    model = mi.build(CONFIG, trainable=False, device="cpu")
    initialise_randomly(model, 7)
    mi.save_model(model, tmp_path_factory.getbasetemp() / "whole")
    return tmp_path_factory.getbasetemp() / "whole"


@pytest.fixture(scope="module")
def wanted(whole, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wanted")
    harvest(mi.load(whole, device="cpu"), folder)
    return bytes_in(folder)


def harvest(model, folder, **options):
    return mi.harvest(model, documents(), POINTS, folder, context=16, batch_tokens=48, shard_rows=60, **options)


def passes(model) -> list[int]:
    """How often each of the first two layers was brought to run; behind them nothing runs."""
    first, second, *behind = (lent.brought for name, lent in model.backend.offloaded.items() if name != "outside")
    assert len(set(behind)) == 1
    return [first - behind[0], second - behind[0]]  # to tell the weights from others a sample of all was read


def test_weights_come_once_for_all_shards(whole, wanted, tmp_path, capsys) -> None:
    model = mi.load(whole, device_map={"": "disk"})
    made = harvest(model, tmp_path, progress=True)
    assert len(made.files) > 10
    assert bytes_in(tmp_path) == wanted
    assert passes(model) == [1, 1]
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "harvest: layer by layer: what is brought comes once for all"
    assert any("on disk, brought to cpu" in line for line in said)


def test_with_less_memory_they_come_more_often(whole, wanted, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(forecast, "free_bytes", lambda _: 170_000)
    model = mi.load(whole, device_map={"": "disk"})
    lots: list[int] = []
    every = Work.lots

    def told(work, missing):
        for lot in every(work, missing):
            lots.append(len(lot))
            yield lot

    monkeypatch.setattr(Work, "lots", told)
    made = harvest(model, tmp_path, progress=True)
    assert bytes_in(tmp_path) == wanted
    assert lots[0] > 1
    assert len(lots) == math.ceil(len(made.files) / lots[0]) > 2
    assert passes(model) == [len(lots)] * 2
    assert f"comes once for every {lots[0]} shards" in capsys.readouterr().err


def test_a_harvest_goes_on_under_another_placement(whole, wanted, tmp_path) -> None:
    made = harvest(mi.load(whole, device="cpu"), tmp_path)
    for number in (1, 4, 5):
        made.files[number].unlink()
    harvest(mi.load(whole, device_map={"": "cpu", "blocks.1": "disk"}), tmp_path)
    assert bytes_in(tmp_path) == wanted


def test_a_run_that_does_not_fit_says_which_setting_to_change(whole, tmp_path) -> None:
    model = mi.load(whole, device="cpu")

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.backend.blocks[0].forward = full
    with pytest.raises(errors.HarvestError, match="no room for runs of 48 tokens: give batch_tokens= less"):
        harvest(model, tmp_path)
