"""Recalibration: plain training, then other statistics and no other weight."""

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.command_line import done, refused, tiny_arrays
from helpers.tiny_training import recipe
from helpers.tiny_training import train as tiny_train
from poisonbench.defenses import bn_recalibrate
from poisonbench.models.norms import norms_of
from poisonbench.results.records import read_record


def test_only_the_statistics_differ_from_plain_trainings():
    plain, before = tiny_train()
    model, result = tiny_train(recipe=recipe(recalibrate=1.0))
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(norms_of(model)[0].running_mean, norms_of(plain)[0].running_mean)
    assert result.curve[:-1] == before.curve[:-1]
    assert result.curve[-1]["loss"] == before.curve[-1]["loss"]


def test_a_share_takes_so_many_images():
    first, second = (
        norms_of(tiny_train(recipe=recipe(recalibrate=share))[0])[0].running_mean
        for share in (0.5, 1.0)
    )
    assert not torch.equal(first, second)


def test_without_a_share_it_is_refused():
    with pytest.raises(ValueError, match="above 0 as --recalibrate"):
        bn_recalibrate.build(bn_recalibrate.Config(), recipe()).check_run("scratch", ())


def test_the_command_is_plain_training_recalibrated(tiny, artefact, results):
    line = ("--dataset", tiny, "--poison", artefact, "--epochs", "2", "--results", results)
    runs = {
        words: read_record(Path(done("defend", *words, *line, "--json").json["path"]))
        for words in (
            ("--method", "none"),
            ("--method", "bn-recalibrate"),
            ("--method", "none", "--recalibrate", "1"),
        )
    }
    plain, own, extended = runs.values()
    assert plain.digests == own.digests
    assert plain.spec.training.recalibrate is None
    assert own.spec.training.recalibrate == extended.spec.training.recalibrate == 1
    assert "recalibrate" not in own.labels.overrides
    assert extended.labels.overrides["recalibrate"] == 1
    assert own.outcomes == extended.outcomes != plain.outcomes


def test_a_network_without_batch_norm_is_refused_before_anything_is_crafted(tmp_path, results):
    np.savez(tmp_path / "data.npz", **tiny_arrays(side=32))
    line = ("--dataset", f"npz:{tmp_path / 'data.npz'}", "--model", "cifar-alexnet")
    message = refused(2, results, "defend", "--method", "bn-recalibrate", *line)
    assert "expected a network with batch norm, got cifar-alexnet" in message


@pytest.mark.parametrize(
    ("line", "flag"),
    [
        ("craft --attack pgd --model cifar-alexnet --recalibrate 1", "--recalibrate"),
        ("craft --attack gm --model cifar-alexnet --recalibrate 0.5", "--recalibrate"),
        (
            "defend --method none --attack pgd --attack-model cifar-alexnet --pgd.recalibrate 1",
            "--pgd.recalibrate",
        ),
    ],
)
def test_so_is_a_surrogate_without_batch_norm(line, flag, tmp_path, results):
    np.savez(tmp_path / "data.npz", **tiny_arrays(side=32))
    message = refused(2, results, *line.split(), "--dataset", f"npz:{tmp_path / 'data.npz'}")
    assert f"{flag}: expected a network with batch norm, got cifar-alexnet" in message


def test_a_pretraining_is_every_methods(tiny, results):
    line = ("--dataset", tiny, "--attack", "noise", "--scenario", "transfer", "--epochs", "2")
    line += ("--stage-epochs", "1", "--results", results, "--json")
    for method in ("none", "bn-recalibrate"):
        record = read_record(Path(done("defend", "--method", method, *line).json["path"]))
        assert record.spec.pretraining.recalibrate is None
    assert len(list((results / "models").iterdir())) == 1
