"""``report --summary``: what runs say in plain words."""

import pytest

from helpers.command_line import cli, done
from helpers.synthetic_runs import changed, make_record, targeted_run
from poisonbench.core.errors import UsageError
from poisonbench.results.store import Store
from poisonbench.tables.summary import NEXT, sentences

CLEAN = make_record(0.988)
OVER = " over plain training on the same poison"


def poisoned(accuracy, method="none", **about):
    return make_record(accuracy, method=method, rho=1.0, attacks=["pgd", "dap"], **about)


def test_a_poison_that_hurts_and_defenses_in_order():
    runs = [CLEAN, poisoned(0.254), poisoned(0.827, "hint"), poisoned(0.3, "friends")]
    assert sentences([*runs, poisoned(0.255, "epic")]) == [
        "On mnist, pgd+dap in 100 % of the training images takes plain training from 98.80 % down "
        "to 25.40 % (1 trial: an example, no finding).",
        f"Best is HINT at 82.70 % (+57.30 points{OVER}, 1 pair), then FRIENDS at 30.00 % (+4.60 "
        "points, 1 pair); less than a point better: EPIC at 25.50 % (+0.10 points, 1 pair).",
        NEXT,
    ]


@pytest.mark.parametrize(
    ("runs", "first"),
    [
        ([CLEAN, poisoned(0.985)], "does plain training no harm to speak of: 98.80 % on clean"),
        ([poisoned(0.5)], "leaves plain training at 50.00 %"),
        ([CLEAN, poisoned(0.5), poisoned(0.6, trial=1)], "from 98.80 % down to 55.00 % (2 trials)"),
    ],
)
def test_what_is_said_of_plain_training(runs, first):
    text = sentences(runs)
    assert first in text[0]
    assert text[1:] == [NEXT]


def test_no_defense_that_helps_is_named_as_one():
    text = sentences([CLEAN, poisoned(0.5), poisoned(0.4, "epic")])
    assert text[1] == (
        "Of those run no defense is seen to do 1 point better than plain training: EPIC at 40.00 % "
        f"(-10.00 points{OVER}, 1 pair)."
    )


def test_a_form_of_a_defense_speaks_by_its_own_name():
    def jpeg(accuracy, quality):
        return poisoned(accuracy, "jpeg", labels={"overrides": {"quality": quality}},
                        config={"quality": quality})  # fmt: skip

    text = sentences([CLEAN, poisoned(0.5), jpeg(0.9, 10), jpeg(0.95, 30)])
    assert text[1] == f"Best is JPEG 10 at 90.00 % (+40.00 points{OVER}, 1 pair)."


def test_targets_are_counted():
    runs = [targeted_run(hit, 0.9, trial=trial) for trial, hit in enumerate((True, False))]
    assert "hits 1 of 2 targets under plain training" in sentences(runs)[0]


def test_a_defense_is_compared_on_the_same_poison_and_trial_alone():
    """Of the trials that plain training has, one is much worse, and no defense was run on it."""
    plain = [poisoned(0.95, trial=0, digest="a"), poisoned(0.35, trial=1, draw=1, digest="b")]
    others = [
        poisoned(0.94, "jpeg", digest="a"),
        # A filter leaves images out, so that its batches are others.
        changed(poisoned(0.97, "random", digest="a"), digests={"first_batch": "other"}),
        poisoned(0.99, "hint", digest="c"),
    ]
    assert sentences([CLEAN, *plain, *others])[1] == (
        f"Best is Random filter at 97.00 % (+2.00 points{OVER}, 1 pair); worse: JPEG "
        "at 94.00 % (-1.00 points, 1 pair); no run on the same poison as plain training's: HINT."
    )
    assert sentences([CLEAN, *plain, others[2]])[1] == (
        "No defense has a run on the same poison as plain training: HINT."
    )


def test_a_target_that_plain_training_is_not_hit_on_speaks_for_no_defense():
    hits = [targeted_run(hit, trial=trial) for trial, hit in enumerate((True, False))]
    spared = targeted_run(False, trial=1, method="hint")
    assert sentences([*hits, spared])[1].startswith("Of those run no defense is seen to do 1 point")
    also = targeted_run(False, trial=0, method="hint")
    assert sentences([*hits, spared, also])[1] == (
        "Best is HINT at 100.00 % of the targets spared (+50.00 points over plain training on the "
        "same target, 2 pairs)."
    )


def test_profiles_of_a_defense_are_not_averaged():
    code = {"labels": {"profile": "code"}, "variant": "code"}
    runs = [CLEAN, poisoned(0.5), poisoned(0.9, "hint"), poisoned(0.7, "hint", trial=1, **code)]
    runs += [make_record(0.2, trial=1, **code), poisoned(0.6, trial=1, **code)]
    text = sentences(runs)
    assert "from 98.80 % down to 50.00 % (1 trial" in text[0]
    assert text[1] == (
        f"Best is HINT at 90.00 % (+40.00 points{OVER}, 1 pair), then HINT (profile=code) at "
        "70.00 % (+10.00 points, 1 pair)."
    )
    assert "takes plain training (profile=code) from 98.80" not in "".join(text)
    assert "leaves plain training (profile=code) at 60.00 %" in sentences([runs[0], runs[-1]])[0]


def test_runs_on_earlier_contents_of_a_path_do_not_speak():
    own = {"labels": {"dataset": "folder:/data/photos"}}
    old = poisoned(0.1, trial=1, **own)
    old = changed(old, spec={"dataset": {"digest": "o"}}, environment={"finished": "2024-01-01"})
    text = sentences([make_record(0.9, **own), poisoned(0.5, **own), old])
    assert "down to 50.00 % (1 trial" in text[0]
    assert text[1].startswith("1 run(s) on other images by the same name are left out")
    assert text[2:] == [NEXT]


def test_a_control_has_no_poison_to_speak_of():
    control = poisoned(0.98, labels={"overrides": {"narcissus.control": True}})
    (text,) = sentences([CLEAN, control])
    assert text.startswith("1 run(s) of plain training on poisons are in settings of their own")


def test_draws_of_a_poison_are_trials_of_it_and_other_settings_of_it_another_poison():
    on = {"dataset": "mnist-sample"}
    draws = [
        poisoned(0.5, digest="0", **on),
        poisoned(0.6, trial=1, draw=1, digest="1", labels={"overrides": {"poison_trial": 1}}, **on),
    ]
    clean = make_record(0.988, **on)
    assert "down to 55.00 % (2 trials)" in sentences([clean, *draws])[0]
    changed = poisoned(0.3, digest="s", labels={"overrides": {"dap.steps": 3}}, **on)
    text = "".join(sentences([clean, *draws, changed]))
    assert "pgd+dap (dap.steps 3) in 100 % of the training images takes" in text
    assert "down to 55.00 %" in text


GIVEN = {"labels": {"overrides": {"poison": "artefact"}, "variant": "custom"}, "draw": None}


def test_runs_on_a_given_poison_speak_of_it_by_its_digest():
    runs = [CLEAN, poisoned(0.5, digest="a" * 64, **GIVEN)]
    runs += [poisoned(0.7, "hint", digest="a" * 64, **GIVEN)]
    runs += [poisoned(0.3, digest="b" * 64, **GIVEN)]
    assert sentences(runs)[:-1] == [
        f"On mnist, pgd+dap (poison {'a' * 12}) in 100 % of the training images takes plain "
        "training from 98.80 % down to 50.00 % (1 trial: an example, no finding).",
        f"Best is HINT at 70.00 % (+20.00 points{OVER}, 1 pair).",
        f"On mnist, pgd+dap (poison {'b' * 12}) in 100 % of the training images takes plain "
        "training from 98.80 % down to 30.00 % (1 trial: an example, no finding).",
    ]


def test_runs_that_crafted_a_given_poison_stand_beside_those_that_were_given_it():
    sign = {"overrides": {"dap.steps": 3}}
    crafted = poisoned(0.5, digest="a" * 64, labels=sign)
    given = poisoned(0.7, "hint", digest="a" * 64, **GIVEN)
    text = sentences([CLEAN, crafted, given])
    assert len(text) == 3
    assert f"pgd+dap (dap.steps 3, poison {'a' * 12}) in" in text[0]
    assert text[1] == f"Best is HINT at 70.00 % (+20.00 points{OVER}, 1 pair)."


def test_a_given_poison_does_not_take_the_place_of_a_draw():
    draw = {"labels": {"overrides": {"poison_trial": 1}}, "draw": 1, "digest": "b" * 64}
    on = {"dataset": "mnist-sample", "trial": 1}
    runs = [
        make_record(0.988, dataset="mnist-sample"),
        poisoned(0.5, digest="a" * 64, dataset="mnist-sample"),
        poisoned(0.6, **draw, **on),
        poisoned(0.2, digest="a" * 64, finished="2026-01-01", **GIVEN, **on),
    ]
    text = sentences(runs)
    assert f"pgd+dap (poison {'a' * 12}) in" in text[0]
    assert "down to 35.00 % (2 trials)" in text[0]
    assert "pgd+dap in 100 %" in text[1]
    assert "down to 55.00 % (2 trials)" in text[1]


@pytest.mark.parametrize(
    ("runs", "given_back"),
    [
        # (0.8 - 0.5) / (0.988 - 0.5); of trial 1 nothing is known without recalibrating.
        ([poisoned(0.5), poisoned(0.1, trial=1), poisoned(0.8, "bn-recalibrate")], "61 %"),
        ([poisoned(0.5), poisoned(0.4, "bn-recalibrate")], "nothing"),
    ],
)
def test_what_recalibrating_gives_back(runs, given_back):
    text = sentences([CLEAN, *runs])
    assert len(text) == 3
    assert text[1].endswith(
        f" pair); recalibrating batch norm on clean images without labels gives back {given_back} "
        "of the accuracy that plain training lost."
    )


@pytest.mark.parametrize(
    "runs",
    [
        [poisoned(0.5), poisoned(0.8, "bn-recalibrate")],
        [CLEAN, poisoned(0.985), poisoned(0.986, "bn-recalibrate")],
        [CLEAN, poisoned(0.5), poisoned(0.8, "bn-recalibrate", trial=1)],
        [CLEAN, poisoned(0.5), poisoned(0.8, "hint")],
    ],
    ids=["no clean run", "no loss", "no trial of both", "not run"],
)
def test_without_a_loss_of_three_runs_nothing_is_said_of_recalibrating(runs):
    assert not [text for text in sentences(runs) if "gives back" in text]


def test_other_settings_and_runs_without_a_control_do_not_speak():
    custom = poisoned(0.9, "hint", labels={"overrides": {"ratio": 0.25}})
    assert sentences([CLEAN, custom]) == ["No poison has a run of plain training yet."]


def test_plain_training_in_other_settings_is_named_where_there_is_no_other():
    short = {"overrides": {"epochs": 1, "learning_rate": 0.1, "poison_trial": 0}}
    other = [poisoned(0.5, labels=short), poisoned(0.6, trial=1, labels=short)]
    for runs in (other, [CLEAN, *other]):
        for dataset in (None, "mnist"):
            (line,) = sentences(runs, dataset)
            assert line.startswith(
                "2 run(s) of plain training on poisons are in settings of their own "
                "(--epochs, --learning-rate), of which nothing is said here"
            )
            assert "without such options yet; run `poisonbench defend --method none`" in line
    # They are of no interest beside one that can be spoken of.
    assert sentences([CLEAN, *other, poisoned(0.3, trial=2)])[1:] == [NEXT]


def test_an_unknown_data_set_is_refused():
    with pytest.raises(UsageError, match="expected a data set"):
        sentences([CLEAN], "cifar11")


def test_the_command_prints_them(results):
    store = Store(results)
    for record in (CLEAN, poisoned(0.5)):
        store.write_record(record)
    outcome = done("report", "--summary", "--results", results)
    assert outcome.out.splitlines() == sentences([CLEAN, poisoned(0.5)])
    assert done("report", "--summary", "--json", "--results", results).json == {
        "summary": sentences([CLEAN, poisoned(0.5)])
    }


@pytest.mark.parametrize("other", [("--runs",), ("--filters",), ("--table", "2"), ("--check",)])
def test_it_stands_alone(results, other):
    outcome = cli("report", "--summary", *other, "--results", results)
    assert outcome.code == 2
    assert "leave one of them out" in outcome.err
