"""The options that a command takes from a method's config."""

from dataclasses import fields

import pytest

from helpers.command_line import cli, done
from poisonbench.cli.main import load_command, value_of
from poisonbench.cli.method_options import method_help
from poisonbench.cli.request_words import from_words
from poisonbench.cli.session import RunOptions
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import options_of, value_text
from poisonbench.registry import attacks, defenses
from poisonbench.training.recipe import Recipe

HINT = defenses()["hint"]


def settings(*arguments, method="hint"):
    (request,) = from_words(["defend", "--method", method, "--clean", *arguments])
    return request.settings


def test_values_by_field_name():
    assert settings() == {}
    assert settings("--ratio", "0.5", "--batch-size=64") == {"ratio": 0.5, "batch_size": 64}
    assert settings("--schedule=") == {"schedule": ()}
    assert settings("--beta", "8/255", "--step=sign") == {"beta": 8 / 255, "step": "sign"}


def test_numbers_below_zero_are_values():
    given = settings("--gamma", "-0.1", "--beta", "-1e-3")
    assert given == {"gamma": -0.1, "beta": -1e-3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["junk"], "expected an option such as --epochs 3, got 'junk'"),
        (["--ratio", "0.5", "0.6"], "expected an option such as --epochs 3, got '0.6'"),
        (["-r", "0.5"], "expected an option such as --epochs 3, got '-r'"),
        (["--"], "expected an option such as --epochs 3, got '--'"),
        (["--ratio"], "--ratio: expected a value after it, got nothing"),
        (["--ratio", "--gamma", "1"], "--ratio: expected a value after it, got the option --gamma"),
        (["--ratio", "1", "--ratio=2"], "--ratio: expected once, got it 2 times"),
        (["--batch-size", "1", "--batch_size", "2"], "--batch-size: expected once, got it 2 times"),
        (["--jsn"], "got --jsn; did you mean '--json'?"),
        (["--datset=x"], "got --datset; did you mean '--dataset'?"),
        (["--epsilon", "1"], "hint has no option --epsilon; its own options: --"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(UsageError) as caught:
        settings(*arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("words", "long"),
    [
        ("defend --method jpeg:10 --clean", "defend --method jpeg --clean --quality 10"),
        ("defend --method jpeg:10 --clean --quality 10", "defend --method jpeg:10 --clean"),
        ("defend --method at:0.5 --clean", "defend --method at --clean --radius-share 0.5"),
        ("defend --method atda:linf --clean", "defend --method atda --clean --norm linf"),
        (
            "defend --method none --attack em:class",
            "defend --method none --attack em --em.noise class",
        ),
        ("craft --attack pgd:jpeg:10", "craft --attack pgd --against jpeg:10"),
        (
            "craft --attack gm:hint --preset quick",
            "craft --attack gm --against hint --preset quick",
        ),
        ("craft --attack pgd+durp:sign", "craft --attack pgd+durp --durp.distribution sign"),
    ],
)
def test_a_form_is_what_its_setting_makes(words, long):
    assert from_words(words.split()) == from_words(long.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("defend", "--method", "jpeg:10"), "jpeg:10 has --quality 10 in the place"),
        (("craft", "--attack", "em:class"), "em:class has --noise class in the place"),
    ],
)
def test_help_says_what_a_form_sets(words, said):
    assert said in done(*words, "--help").out
    assert "in the place" not in done(*words[:2], words[2].partition(":")[0], "--help").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "defend --method jpeg:10 --clean --quality 75",
            "expected --quality 10 with jpeg:10, got 75",
        ),
        (
            "defend --method none --attack em:class --em.noise sample",
            "expected --em.noise class with em:class, got sample",
        ),
        ("craft --attack em:class --noise sample", "expected --noise class with em:class"),
        ("craft --attack pgd:knn", "expected pgd or a form of it among pgd:jpeg, pgd:jpeg:10, "),
        ("craft --attack mix-sign:x", "expected mix-sign, which has no form; got mix-sign:x"),
        ("craft --attack lsp:x", "expected lsp, which has no form; got lsp:x"),
        ("defend --method knn:3 --clean", "expected knn, which has no form; got knn:3"),
    ],
)
def test_a_form_that_is_none_or_contradicted_is_refused(words, message):
    with pytest.raises(UsageError) as caught:
        from_words(words.split())
    assert message in str(caught.value)


@pytest.mark.parametrize("entry", defenses().values(), ids=lambda entry: entry.name)
def test_no_option_of_a_method_is_taken_for_a_near_miss_of_a_shared_one(entry):
    for option in [*options_of(entry.load().Config), *options_of(Recipe)]:
        words = (option.flag, value_text(option.default))
        assert settings(*words, method=entry.name) == {option.name: option.default}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("defend hint", "got 'hint'; did you mean '--method hint'?"),
        ("defend pgd", "got 'pgd'; did you mean '--attack pgd --method NAME'?"),
        (
            "defend --attack pgd --method none --epsilon 8",
            "; did you mean --pgd.epsilon 8/255?",
        ),
        (
            "defend --attack pgd --method none --steps=8",
            "; did you mean --pgd.steps 8?",
        ),
        ("defend --attack pgd --method none --epsilon", "; did you mean --pgd.epsilon?"),
        ("defend hnt --clean", "got 'hnt'; did you mean '--method hint'?"),
        ("craft pgd", "got 'pgd'; did you mean '--attack pgd'?"),
        ("craft --attack PGD", "got 'PGD'; did you mean 'pgd'?"),
        ("defend --method HINT", "got 'HINT'; did you mean 'hint'?"),
        ("craft --attack pgd,dap", "got 'pgd,dap'; did you mean 'pgd+dap'?"),
        ("craft --attack pgd --rho 60", "got 60; did you mean 0.6?"),
        ("craft --attack pgd --epsilon 8", "8.0; did you mean --epsilon 8/255?"),
        ("defend --method hint --beta 16", "16.0; did you mean --beta 16/255?"),
        ("defend --method hint --attack pgd --dc.rate 1", "such as --pgd.rate, got --dc.rate"),
        ("defend --method none --attack pgd --pgd.epsilon 8", "mean --pgd.epsilon 8/255?"),
        ("defend --method none --attack bp --bp.epsilon 8", "mean --bp.epsilon 8/255?"),
        ("craft --attack pgd+dap --dap.epsilon 8", "mean --dap.epsilon 8/255?"),
        ("defend --method hint --attack pgd --pgd.rate 1", "option --pgd.rate; its own options"),
        ("defend --method hint --attack pgd --pgd.stpes 1", "mean '--pgd.steps'?"),
        (
            "defend --method none --attack durp --attack-model mnist-cnn",
            "--attack-model: expected an",
        ),
        (
            "defend --method none --clean --attack-model mnist-cnn",
            "--attack-model: expected an attack",
        ),
    ],
)
def test_what_was_meant(line, message, results):
    outcome = cli(*line.split(), "--results", results, "--quiet")
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not results.exists()


def test_value_of():
    assert value_of("--method", ["--json", "--method", "hint"]) == "hint"
    assert value_of("--method", ["--method=hint"]) == "hint"
    assert value_of("--method", ["--method"]) == ""
    assert value_of("--method", ["--methods", "hint"]) == ""


def test_help_gives_pixels_in_grey_levels_and_shares_as_they_are():
    text = method_help(defenses()["atda"])
    assert "[default 0.2]" in text
    (beta,) = [line for line in method_help(HINT).splitlines() if line.startswith("  --beta ")]
    assert beta.endswith(" [default 16/255]")


@pytest.mark.parametrize("entry", [*attacks().values(), *defenses().values()], ids=lambda e: e.name)
def test_help_lists_every_option_once_with_its_text(entry):
    lines = method_help(entry).splitlines()
    assert lines[0] == f"Options of {entry.name} ({entry.about}):"
    own = options_of(entry.load().Config)
    names = {option.name for option in own}
    shared = options_of(Recipe) if entry.trains else []
    for option in [*own, *(o for o in shared if o.name not in names)]:
        (line,) = [line for line in lines if line.startswith(f"  {option.flag} ")]
        assert option.help in line
        assert option.help != ""
        assert "[default " in line


def test_help_shows_defaults_as_the_user_writes_them():
    text = method_help(defenses()["hint"])
    assert "--beta" in text
    assert "[default 16/255]" in text
    assert "[default 5,15,40]" in text
    assert "[cg|lissa] [default cg]" in text
    assert "[default 0.5]" in text


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("craft --attack pgd --help", "--step-ratio"),
        ("craft --help --attack=pgd", "--step-ratio"),
        ("craft --attack durp --help", "--distribution"),
        ("defend --method hint --help", "--ratio"),
        ("list attacks pgd", "--step-ratio"),
        ("list defenses hint", "--ratio"),
    ],
)
def test_commands_show_the_options_of_the_method(line, option):
    outcome = done(*line.split())
    assert f"\n  {option} " in outcome.out
    assert ("--learning-rate" in outcome.out) == ("durp" not in line)
    assert outcome.err == ""


@pytest.mark.parametrize(("command", "flag"), [("craft", "--attack"), ("defend", "--method")])
def test_help_without_a_method_says_how_to_see_its_options(command, flag):
    for more in ([], [flag, "nonsense"]):
        assert f"poisonbench {command} {flag} NAME --help" in done(command, *more, "--help").out


def test_a_group_without_a_command_shows_its_help():
    for words in ((), ("list",), ("data",)):
        outcome = cli(*words)
        assert outcome.code == 2
        assert "Usage: poisonbench" in outcome.err
        assert "Commands" in outcome.err


@pytest.mark.parametrize("command", ["craft", "defend"])
def test_commands_that_run_methods_end_with_the_same_options(command):
    shared = {field.name: field for field in fields(RunOptions)}
    parameters = load_command(command).params
    ending = parameters[-len(shared) :]
    assert {parameter.name for parameter in ending} == set(shared)
    assert ending[-1].name == "quiet"
    for parameter in ending:
        field = shared[parameter.name]
        assert parameter.opts == ["--" + field.name.replace("_", "-")]
        assert parameter.default == field.default
    assert "options" not in [parameter.name for parameter in parameters]


def test_help_shows_what_other_data_have():
    lines = method_help(attacks()["bp"]).splitlines()
    own, recipe, target = map(
        lines.index, ("The method's options:", "The recipe's:", "The target's:")
    )
    method, training, target = lines[own:recipe], lines[recipe:target], lines[target:]
    places = [line.partition(":")[0].strip() for line in method[1:]]
    profile = "--profile original, "
    expected = ["cifar10@10000", "mnist", "mnist-sample"]
    assert places == [*expected, profile + "all data", *(profile + name for name in expected)]
    assert "--epsilon 64/255" in method[3]
    assert "--epochs 7," in next(line for line in training if line.startswith("  mnist-sample: "))
    assert any(line.startswith("  network cifar-alexnet: ") for line in training)
    assert "  mnist-sample@1000 in transfer: --rho 0.025, " in "\n".join(target)
    (scenario,) = [line for line in lines if line.startswith("  --scenario ")]
    assert scenario.endswith("[default transfer]")
    assert "  --profile code, mnist: --epochs 10" in method_help(defenses()["none"])
