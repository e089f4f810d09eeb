"""The benchmark scripts run, and the naive HINT they compare with computes the same as ours."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.attack_tasks import K, fake_split, frozen, small_classifier, task_for
from helpers.command_line import done
from helpers.defense_problems import state_for
from helpers.synthetic_runs import changed, make_record
from poisonbench.attacks import untargeted_noise
from poisonbench.data.splits import Dataset
from poisonbench.defenses import ueraser
from poisonbench.defenses.base import Recipe, TrainingSet
from poisonbench.influence.head import (
    embed_all,
    head_inputs,
    head_weights,
    mean_gradient,
    pixel_influence,
    residuals,
    upweight_influence,
)
from poisonbench.influence.inverse_hessian import HeadHessian, conjugate_gradient
from poisonbench.results.records import RunRecord
from poisonbench.results.store import Store
from poisonbench.training import trainer as trainer_module

CPU = torch.device("cpu")
FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Imports a benchmark as it is imported when it is run as a script."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if name in {path.stem for path in FOLDER.glob("*.py")}:
            del sys.modules[name]


@pytest.fixture
def tiny_mnist(monkeypatch):
    """Every data set is 260 grey images of noise with 4 classes."""

    def load(name, data_root, root_seed, **_):
        shape = (1, 16, 16)
        return Dataset(
            name=name,
            train=fake_split(260, 0, shape),
            validation=fake_split(20, 1, shape),
            test=fake_split(20, 2, shape),
            class_names=tuple("abcd"),
            presets=("mnist", "mnist-sample"),
            mean=(0.1,),
            std=(0.3,),
        )

    monkeypatch.setattr("poisonbench.data.sources.load_dataset", load)
    monkeypatch.setattr("poisonbench.runs.context.load_dataset", load)


@pytest.fixture
def problem():
    """A float64 classifier, images (12, 2, 8, 8), labels and a direction (K, F + 1)."""
    model = small_classifier().double()
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(12, 2, 8, 8, dtype=torch.float64, generator=generator)
    direction = torch.randn(K, 55, dtype=torch.float64, generator=generator)
    return model, images, torch.arange(12) % K, direction


def close(actual, expected):
    assert expected.abs().max() > 0
    torch.testing.assert_close(actual.detach(), expected.detach(), rtol=1e-9, atol=1e-12)


def test_naive_pieces_are_ours(script, problem):
    naive = script("hint_round")
    model, images, labels, direction = problem
    with frozen(model), torch.no_grad():
        inputs = head_inputs(model, images)
        probabilities = (inputs @ head_weights(model).T).softmax(1)
        residual = residuals(probabilities, labels)
        gradient = mean_gradient(inputs, residual)
        product = HeadHessian(inputs, probabilities).product(direction)
        scores = upweight_influence(inputs, residual, direction)
        maps = pixel_influence(model, images, labels, direction)
    close(naive.naive_gradient(model, images, labels), gradient)
    close(naive.naive_product(model, images, labels, direction), product)
    close(naive.naive_scores(model, images, labels, direction), scores)
    close(naive.naive_maps(model, images, labels, direction), maps)


def test_naive_gradient_is_the_same_in_several_batches(script, problem, monkeypatch):
    naive = script("hint_round")
    model, images, labels, _ = problem
    whole = naive.naive_gradient(model, images, labels)
    monkeypatch.setattr(naive, "VALIDATION_BATCH", 5)
    close(naive.naive_gradient(model, images, labels), whole)


def test_naive_lissa_settles_near_the_exact_solve(script, problem):
    naive = script("hint_round")
    model, images, labels, _ = problem
    with torch.no_grad():
        inputs = embed_all(model, images)
        probabilities = (inputs @ head_weights(model).T).softmax(1)
        gradient = mean_gradient(inputs, residuals(probabilities, labels))
        exact = conjugate_gradient(
            HeadHessian(inputs, probabilities), gradient, damping=naive.DAMPING
        ).vector
    generator = torch.Generator().manual_seed(0)
    solution = naive.naive_lissa(model, images, labels, gradient, 980, generator)
    assert float((solution - exact).norm() / exact.norm()) < 0.1


@pytest.mark.parametrize("markdown", [[], ["--markdown"]])
def test_hint_round(script, tiny_mnist, capsys, markdown):
    script("hint_round").main(
        ["--epochs=1", "--repeats=1", "--naive-steps=4", "--naive-examples=3", *markdown]
    )
    printed = capsys.readouterr().out
    assert "4 of 980 steps" in printed
    assert "3 of 260" in printed
    assert "3 of 130" in printed
    assert ("| total |" in printed) == bool(markdown)
    agreement = printed[printed.index("v of the exact solve put") :]
    assert float(agreement.split("residual ")[1].split(" ")[0]) < 1e-4
    assert float(agreement.split("largest difference ")[1].split(" ")[0]) < 1e-4


def test_training(script, tiny_mnist, capsys, monkeypatch):
    module = script("training")
    known = module.variants(CPU).items()
    kept = {name: variant for name, variant in known if variant.get("workers", 0) == 0}
    monkeypatch.setattr(module, "variants", lambda device: kept)
    module.main(["--blocks=1", "--block-images=130", "--epochs=1", "--trials=2"])
    printed = capsys.readouterr().out
    assert "images per second" in printed
    for name in kept:
        assert printed.count(name) >= 2
    assert "±" in printed


def test_variants_are_what_they_say(script, tiny_mnist, monkeypatch):
    module = script("training")
    dataset = module.dataset_of(module._options([]))
    quick = []

    original = trainer_module.quick_forward

    def watched(model, size):
        network = original(model, size)
        quick.append(network is not model)
        return network

    monkeypatch.setattr(trainer_module, "quick_forward", watched)
    for name, expected in (
        ("plain, 0 workers", []),
        ("fit, float32, the layers' own kernels", [False]),
        ("fit, float32", [True]),
    ):
        quick.clear()
        variant = module.variants(CPU)[name]
        module.train_once(variant, dataset, dataset.train, CPU, 1, module.Seeds())
        assert quick == expected, name


def test_one_plain_step_is_one_step_of_fit(script, tiny_mnist):
    """The two loops differ by the order of the images alone: with one batch there is none."""
    module = script("training")
    dataset = module.dataset_of(module._options([]))
    train = dataset.train.rows(torch.arange(128))
    known = module.variants(CPU)
    states = [
        module.train_once(known[name], dataset, train, CPU, 3, module.Seeds(4))[0].state_dict()
        for name in ("plain, 0 workers", "fit, float32")
    ]
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-3, atol=1e-5)


def test_hint_overhead_of_its_own_runs(script, tiny_mnist, capsys):
    script("hint_overhead").main(["--epochs=3", "--markdown"])
    printed = capsys.readouterr().out
    assert "| mnist-sample, clean, trial 0 | 3 | 1 x 0.5 |" in printed
    assert "of 1 pairs" in printed


def record(method: str, total: float, trial: int = 0, threads: int = 1) -> RunRecord:
    is_hint = method == "hint"
    plain = make_record(
        method=method,
        rho=0.6,
        attacks=["pgd"],
        trial=trial,
        recipe=3 if is_hint else 1,
        config={"ratio": 0.5} if is_hint else {},
        seconds=total,
        environment={"threads": threads},
    )
    return changed(plain, notes=[{"round": "hint"}] * 2 if is_hint else [])


def test_hint_overhead_pairs_equal_specs(script, tmp_path, capsys):
    store = Store(tmp_path)
    for run in (
        record("none", 10),
        record("hint", 15),
        record("none", 10, trial=1),
        record("hint", 30, trial=1, threads=2),
        record("hint", 30, trial=2),
    ):
        store.write_record(run)
    script("hint_overhead").main([f"--results={tmp_path}"])
    printed = capsys.readouterr().out
    assert "median 1.500 of 1 pairs" in printed
    assert "2 x 0.5" in printed
    assert "other threads" in printed
    assert "no run of none with the same spec" in printed


def test_hint_overhead_without_a_pair_says_so(script, tmp_path):
    Store(tmp_path).write_record(record("hint", 15))
    with pytest.raises(SystemExit, match="no run of none"):
        script("hint_overhead").main([f"--results={tmp_path}"])


def test_startup(script, monkeypatch, capsys):
    module = script("startup")
    monkeypatch.setattr(module, "COMMANDS", {"python -c pass": ["-c", "pass"]})
    module.main(["--repeats=1", "--markdown"])
    assert "| python -c pass |" in capsys.readouterr().out


def test_reports(script, tmp_path, capsys):
    for trial in range(2):
        Store(tmp_path).write_record(make_record(trial=trial))
    script("reports").main(["--repeats=1", f"--results={tmp_path}", "--markdown"])
    printed = capsys.readouterr().out
    assert "among 2 records" in printed
    assert "| by method and data set |" in printed
    assert "| one by one |" in printed


def test_verdicts(script, monkeypatch, capsys):
    module = script("verdicts")
    small = dict.fromkeys(module.DESIGNS, ())
    small |= {"poisons": ((1, 3, 200, 0), (2, 2, 200, 0))}
    outcomes = script("simulations.outcomes")
    monkeypatch.setattr(outcomes, "DESIGNS", small)
    monkeypatch.setattr(outcomes, "FEW_DESIGNS", ((1, 3, 200, 0), (1, 4, 200, 2)))
    module.main(["--tables=2", "--markdown"])
    printed = capsys.readouterr().out
    assert "**Words that are wrong**" in printed
    assert "| equivalent | 5 seeds against 5, spreads 1 to 1 |" in printed
    assert "| reproduced | 2 x 2 poisons x seeds, 200 images, trials apart |" in printed
    module.main(["--tables=2", "--parts", "family"])
    printed = capsys.readouterr().out
    assert "without Holm" in printed
    assert "Words that are right" not in printed


def test_level_search(script, capsys):
    module = script("level_search")
    module.main(["--targets", "5", "--attacks", "2", "--markdown"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| re")]
    assert len(rows) == 4
    errors = [float(row.split(" | ")[3]) for row in rows]
    assert all(0 < error <= 5 for error in errors)
    # By hand: five targets that win or lose alike; only five wins of five pass.
    value = module.alike(5, 1, 0.0, 1)[0]
    assert value == pytest.approx(0.5**5)


def test_help_does_not_import_torch():
    """What benchmarks/startup.py measures, as a fact that does not depend on the machine."""
    import subprocess

    code = (
        "import sys, json, contextlib, io\n"
        "from poisonbench.cli.main import main\n"
        "sys.argv = ['poisonbench', '--help']\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main()\n"
        "print(json.dumps('torch' in sys.modules))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout.splitlines()[-1]) is False


def test_defenses(script, tiny_mnist, capsys):
    options = "--epochs=1 --repeats=1 --naive-repeats=1 --images=128 --class-size=60"
    script("defenses").main([*options.split(), "--naive-classes=1", "--markdown"])
    printed = capsys.readouterr().out
    for name in (
        "EPIC: 10 classes of 60",
        "FRIENDS: 20 steps on 128",
        "ATDA: up to 7 steps on 128",
    ):
        assert f"| {name} images |" in printed or f"| {name}, 6 medoids each |" in printed
    assert "0.00% of the pixels" in printed
    assert "0.00% of the images end" in printed


def test_targeted(script, capsys):
    options = "--networks mnist-cnn --poisons 6 --steps 1 --trials 2 --repeats 1 --markdown"
    script("targeted").main(options.split())
    printed = capsys.readouterr().out
    assert "| mnist-cnn | training pass |" in printed
    assert all(f"| mnist-cnn | {attack} |" in printed for attack in ("gm", "bp", "fc"))
    assert "2 trials of 6 poisons" in printed


def test_filters(script, capsys):
    script("filters").main("--rows=300 --width=20 --naive-rows=60 --markdown".split())
    printed = capsys.readouterr().out
    for name in ("k-NN, k = 50", "k-NN, k = 30", "spectral signatures", "L2 centroid"):
        assert f"| {name} |" in printed
    assert "agree on 100.00% of them" in printed


def test_the_naive_forms_of_filters_compute_what_ours_do(script):
    module = script("filters")
    features, labels = module.simulated_features(120, 6, 0)
    scores = torch.empty(120, dtype=torch.float64)
    for label, class_scores in enumerate(module.naive_spectral(features, labels)):
        scores[labels == label] = class_scores
        close(class_scores, module.spectral_scores(features[labels == label]))
    torch.testing.assert_close(
        torch.stack(module.naive_distances(features, labels)),
        module.distances_to_centroid(features, labels),
    )


def test_separability_is_ridge_regression_on_noise_that_it_has_not_seen(script):
    module = script("separability")
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, K, (400,), generator=generator)
    noise = torch.randn(400, 12, dtype=torch.float64, generator=generator)
    patterns = torch.randn(K, 12, dtype=torch.float64, generator=generator)
    assert module.held_out_accuracy(patterns[labels] + 1e-3 * noise, labels, K) == (1.0, 60)
    accuracy, _ = module.held_out_accuracy(noise, labels, K)
    assert abs(accuracy - 1 / K) < 4 * (0.25 / 60) ** 0.5
    # Between the two, beside the normal equations with a column of ones that is not penalised.
    mixed = noise + 0.5 * patterns[labels]
    fitted, targets = mixed[:280], torch.eye(K, dtype=torch.float64)[labels[:280]]
    moments = (fitted - fitted.mean(0)).square().sum(0).mean()
    columns = torch.cat([fitted, torch.ones(280, 1, dtype=torch.float64)], 1)
    expected = {}
    for penalty in module.PENALTIES:
        ridge = penalty * moments * torch.eye(13, dtype=torch.float64)
        ridge[-1, -1] = 0
        weights = torch.linalg.solve(columns.T @ columns + ridge, columns.T @ targets)
        right = (mixed @ weights[:-1] + weights[-1]).argmax(1) == labels
        expected.setdefault(
            float(right[280:340].double().mean()), float(right[340:].double().mean())
        )
    assert module.held_out_accuracy(mixed, labels, K) == (expected[max(expected)], 60)


def test_the_shares_of_noise_are_those_of_waves_and_colours(script):
    module = script("separability")
    rows, columns = torch.meshgrid(*2 * [torch.arange(16.0, dtype=torch.float64)], indexing="ij")
    for vertical, horizontal, is_slow in ((0, 0, 1), (4, 0, 1), (2, 3, 1), (3, 3, 0), (8, 1, 0)):
        wave = torch.cos(2 * torch.pi * (vertical * rows + horizontal * columns) / 16)
        share = module.share_of_slow_waves(wave.expand(2, 1, 16, 16))
        assert share == pytest.approx(is_slow, abs=1e-12)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, 3, 16, 16, dtype=torch.float64, generator=generator)
    assert module.share_of_slow_waves(noise) == pytest.approx(49 / 256, abs=0.01)
    assert module.share_in_grey(noise) == pytest.approx(0.299**2 + 0.587**2 + 0.114**2, abs=0.01)
    grey = noise[:, :1].expand(noise.shape)
    assert module.share_in_grey(grey) == pytest.approx(1)
    assert module.share_in_grey(grey * torch.tensor([1.0, -1.0, 2.526])[:, None, None]) < 1e-4


def test_separability(script, capsys, tmp_path):
    words = ("craft", "--attack", "durp", "--distribution", "sign", "--dataset", "mnist-sample")
    path = done(*words, "--results", tmp_path).out.split()[-1]
    script("separability").main([path])
    assert "100.0" in capsys.readouterr().out


def test_slow_noise_differs_from_class_wise_noise_in_its_waves_alone(script):
    slow, share = script("slow_noise"), script("separability").share_of_slow_waves
    labels = torch.arange(20) % K
    task = task_for(None, torch.full((20, 3, 32, 32), 0.5), labels)
    config = slow.Config()
    noise = (slow.craft(task, config) - 0.5).double()
    torch.testing.assert_close(noise.abs(), torch.full_like(noise, config.epsilon))
    for label in range(K):
        same = noise[labels == label]
        assert (same == same[0]).all()
    # Gaussian noise has 5 % there; the edges of the signs take some of the energy.
    assert share(noise) > 0.6
    fast = untargeted_noise.Config(pattern="class-wise")
    assert share(untargeted_noise.craft(task, fast).double() - 0.5) < 0.08


def test_random_jpeg_is_lite_jpeg_without_augmentations(script, monkeypatch):
    control = script("random_jpeg")
    monkeypatch.setattr(ueraser, "augmented", lambda images, *_: images)
    images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12) % K
    state = replace(
        state_for(small_classifier(), TrainingSet(images, labels)),
        generator=lambda purpose: torch.Generator().manual_seed(3),
    )
    left = [
        defense.perturb_batch(state, images, labels)
        for defense in (
            control.build(control.Config(), Recipe()),
            ueraser.build(ueraser.Config(form="lite-jpeg"), Recipe()),
        )
    ]
    assert torch.equal(*left)
    assert not torch.equal(left[0], images)
