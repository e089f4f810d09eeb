"""The plan of an assessment, and its figures as sentences."""

import pytest

from helpers.synthetic_runs import changed, make_record, targeted_run
from poisonbench.core.errors import UsageError
from poisonbench.registry import find_form
from poisonbench.tables import catalogue
from poisonbench.tables.assessment import assess
from poisonbench.tables.assessment_plan import (
    ATTACKS,
    GREY_METHODS,
    METHODS,
    Matrix,
    room_for_targets,
)

NAME = "folder@quick-cifar-small-44:/data/photos"
MATRIX = Matrix(dataset=NAME, attacks=("pgd", "lsp", "gm"), methods=("none", "jpeg"), trials=3)


def run(accuracy, attack=None, method="none", trial=0, *, test=10_000, **settings):
    """A run on the photographs, whose trials have a draw of the poison each."""
    overrides = {**settings, **({"poison_trial": trial} if attack and trial else {})}
    return make_record(
        accuracy,
        dataset="folder",
        method=method,
        rho=1.0 if attack else 0.0,
        trial=trial,
        attacks=[attack] if attack else None,
        variant="custom" if overrides else "paper",
        draw=trial,
        digest=f"{attack}{trial}",
        labels={
            "dataset": NAME,
            "overrides": overrides,
            "sizes": {"train": 300, "validation": 30, "test": test},
        },
        seconds=20.0 if method == "jpeg" else 10.0,
        config=settings,
    )


def runs(accuracies, *about, **settings):
    return [run(a, *about, trial=t, **settings) for t, a in enumerate(accuracies)]


def on_targets(hits, method="none", *, clean=False, same=False):
    return [
        changed(
            targeted_run(
                hit,
                rho=0.05,
                trial=trial,
                target=7 if same else None,
                clean=clean,
                dataset="folder",
                method=method,
            ),
            labels={"dataset": NAME},
        )
        for trial, hit in enumerate(hits)
    ]


#: PGD hurts, and JPEG undoes it.
HURT = [
    *runs([0.90, 0.91, 0.92]),
    *runs([0.40, 0.41, 0.39], "pgd"),
    *runs([0.80, 0.81, 0.79], "lsp"),
    *runs([0.89, 0.90, 0.91], "untargeted-noise"),
    *runs([0.85, 0.86, 0.87], None, "jpeg"),
    *runs([0.70, 0.71, 0.69], "pgd", "jpeg"),
    *runs([0.60, 0.61, 0.59], "lsp", "jpeg"),
]


# The plan


def test_the_plan_has_attacks_defenses_and_controls():
    matrix = Matrix(dataset=NAME, attacks=ATTACKS, methods=METHODS, trials=2)
    requests = matrix.requests
    assert len(requests) == len(set(requests)) == 2 * len(matrix.cells)
    # Trial by trial.
    assert [r.trial for r in requests] == [0] * len(matrix.cells) + [1] * len(matrix.cells)
    first = [r for r in requests if r.trial == 0]
    on = {(r.method, r.poison.text if r.poison.rho != 0 else "clean") for r in first}
    for method in (text.partition(":")[0] for text in METHODS):
        assert {(method, name) for name in ("clean", *ATTACKS)} <= on
    assert ("none", "untargeted-noise") in on
    assert ("jpeg", "untargeted-noise") not in on
    # HINT is given the validation images, and so is its control.
    trusted = [r for r in first if r.settings == {"with_validation": True}]
    assert [(r.method, r.poison.attacks) for r in trusted] == [
        ("none", ("pgd",)),
        ("none", ("dap",)),
        ("none", ("ar",)),
    ]
    # Clean data alone, and clean data with a target.
    clean = [r for r in first if r.method == "none" and r.poison.rho == 0]
    assert sorted(r.poison.attacks == ("gm",) for r in clean) == [False, True]
    # Each trial has a draw of its own.
    assert {r.poison.trial for r in requests if r.poison.attacks == ("pgd",)} == {0, 1}


def test_controls_are_for_what_needs_them():
    matrix = Matrix(dataset=NAME, attacks=("gm",), methods=("none", "jpeg"), trials=1)
    assert {cell.method for cell in matrix.cells} == {"none", "jpeg"}
    assert not any(cell.attacks == ("untargeted-noise",) for cell in matrix.cells)
    assert not any(cell.overrides for cell in matrix.cells)
    # A trigger's success is no test accuracy, and an oracle no defense.
    with pytest.raises(UsageError, match="without a trigger, got badnets"):
        Matrix(dataset=NAME, attacks=("badnets",), methods=("none",), trials=1)
    with pytest.raises(UsageError, match="told nothing, got clean-only"):
        Matrix(dataset=NAME, attacks=("pgd",), methods=("clean-only",), trials=1)
    with pytest.raises(UsageError, match="did you mean 'jpeg'"):
        Matrix(dataset=NAME, attacks=("pgd",), methods=("jpg",), trials=1)
    assert not any(find_form(name)[0].colour_only for name in GREY_METHODS)


@pytest.mark.parametrize(
    ("counts", "fits"),
    [
        ([100, 100, 100], True),
        ([200, 70, 30], True),
        # 15 poisons in a class of 29: less than as many clean ones would stay.
        ([200, 71, 29], False),
        # No poison at all.
        ([3, 3, 3], False),
    ],
)
def test_a_targeted_attack_needs_room_in_each_class(counts, fits):
    reason = room_for_targets(NAME, "gm", counts)
    assert bool(reason) is not fits
    if not fits:
        assert f"the smallest has {min(counts)}" in reason


# The sentences


def test_five_sentences_of_an_attack_and_a_defense():
    records = [
        *HURT,
        *on_targets([True, False, False]),
        *on_targets([False] * 3, "jpeg"),
        *on_targets([False] * 3, clean=True),
    ]
    vulnerable, targeted, helped, cost, sure = assess(MATRIX, records)
    assert vulnerable.startswith(
        "Vulnerable: with untargeted poison in every training image, by PGD, the strongest of 2 "
        "attacks, plain training gets 40.0 % of the test images right instead of 91.0 %, a loss of "
        "51.0 points [4"
    )
    assert "noise of the same size, the control, costs 1.0 points [" in vulnerable
    assert "chance" not in vulnerable
    assert targeted == (
        "Targeted poison: GM, with poisons in 5 % of the images, has 1 of 3 targets taken for its "
        "class under plain training [6, 79 %], 0 of 3 without any poison, 0 of 3 under JPEG."
    )
    assert helped.startswith(
        "JPEG helped: against PGD it holds 70.0 % where plain training has "
        "40.0 %, a gain of 30.0 points ["
    )
    assert helped.endswith("; its own worst case is LSP with 60.0 %.")
    assert cost.startswith("On clean data JPEG loses 5.0 points [")
    assert "chance" not in cost
    assert cost.endswith("; it takes 2.0 times as long as plain training (20.0 s).")
    assert sure.startswith(
        "This rests on 3 trials and 10,000 test images (one is 0.01 points): few"
    )
    assert "small test set" not in sure
    assert "missing" not in sure


def test_small_differences_are_called_chance():
    records = [
        *runs([0.60, 0.70, 0.65], test=100),
        *runs([0.62, 0.60, 0.66], "pgd", test=100),
        *runs([0.66, 0.60, 0.65], "pgd", "jpeg", test=100),
        *runs([0.60, 0.71, 0.65], None, "jpeg", test=100),
    ]
    matrix = Matrix(dataset=NAME, attacks=("pgd",), methods=("none", "jpeg"), trials=3)
    vulnerable, targeted, helped, cost, sure = assess(matrix, records)
    assert vulnerable.startswith("No harm is shown: ")
    assert "a loss of 2.3 points [-" in vulnerable
    assert vulnerable.endswith("which may be chance.")
    assert "strongest" not in vulnerable
    assert targeted == "Targeted poison: no runs; nothing is said of it."
    assert helped.startswith("JPEG is not shown to help: against")
    assert cost.startswith("On clean data JPEG gains 0.3 points [-")
    assert "which may be chance" in cost
    assert "few trials and a small test set" in sure
    assert "missed more often than one time in five" in sure
    # The noise control.
    assert "; 3 planned run(s) are missing" in sure


def test_of_several_attacks_the_strongest_must_stand_out_more():
    # Alone certain at 5 %, and not as the strongest of three that it was picked from.
    clean, poisoned = [0.700, 0.702, 0.698], [0.672, 0.690, 0.668]
    alone = Matrix(dataset=NAME, attacks=("pgd",), methods=("none",), trials=3)
    three = Matrix(dataset=NAME, attacks=("pgd", "dap", "lsp"), methods=("none",), trials=3)
    records = [*runs(clean), *runs(poisoned, "pgd"), *runs(clean, "dap"), *runs(clean, "lsp")]
    assert assess(alone, records)[0].startswith("Vulnerable")
    assert assess(three, records)[0].startswith("No harm is shown")


def test_one_trial_is_an_example():
    records = [*runs([0.9]), *runs([0.4], "pgd"), *runs([0.7], "pgd", "jpeg")]
    matrix = Matrix(dataset=NAME, attacks=("pgd",), methods=("none", "jpeg"), trials=1)
    vulnerable, _, helped, cost, sure = assess(matrix, records)
    assert vulnerable.startswith("An example and no finding: ")
    assert "a loss of 50.0 points (no interval)" in vulnerable
    assert helped.startswith("JPEG, as an example and no finding: ")
    assert cost == "Cost: no runs of a defense and of plain training on clean data."
    assert "one trial is an example and no finding" in sure


def test_a_gain_is_of_the_pairs_that_its_interval_is_of():
    records = [
        *runs([0.90, 0.91, 0.50]),
        *runs([0.40, 0.41, 0.90], "pgd"),
        *runs([0.70, 0.71], "pgd", "jpeg"),
        *runs([0.85, 0.86], None, "jpeg"),
    ]
    matrix = Matrix(dataset=NAME, attacks=("pgd",), methods=("none", "jpeg"), trials=3)
    _, _, helped, cost, _ = assess(matrix, records)
    assert "holds 70.5 % where plain training has 40.5 %, a gain of 30.0 points [" in helped
    assert cost.startswith("On clean data JPEG loses 5.0 points [")
    alone = [*records[:6], *runs([0.7], "pgd", "jpeg")]
    other = [changed(alone[-1], spec={"poison": {"digest": "other"}})]
    assert "no run on the same poison" in assess(matrix, [*alone[:-1], *other])[2]


def test_a_form_of_a_defense_is_one_of_its_own():
    records = [
        *runs([0.9]),
        *runs([0.4], "pgd"),
        *runs([0.5], "pgd", "jpeg"),
        *runs([0.7], "pgd", "jpeg", quality=10),
    ]
    matrix = Matrix(dataset=NAME, attacks=("pgd",), methods=("none", "jpeg", "jpeg:10"), trials=1)
    asked = [dict(request.settings) for request in matrix.requests if request.method == "jpeg"]
    assert asked == [{}, {"quality": 10}] * 2
    assert assess(matrix, records)[2].startswith("JPEG 10, of 2 defenses the one with the best")
    with pytest.raises(UsageError, match="a form of it among jpeg:10; got jpeg:20"):
        Matrix(dataset=NAME, attacks=("pgd",), methods=("jpeg:20",), trials=1)


def test_the_best_worst_case_is_shown_and_others_that_help_are_named():
    records = [
        *HURT,
        *runs([0.62, 0.63, 0.61], "pgd", "mixup"),
        *runs([0.85, 0.86, 0.84], "lsp", "mixup"),
    ]
    matrix = Matrix(
        dataset=NAME, attacks=("pgd", "lsp"), methods=("none", "jpeg", "mixup"), trials=3
    )
    helped = assess(matrix, records)[2]
    assert helped.startswith(
        "mixup, of 2 defenses the one with the best worst case as observed, helped: against PGD it "
        "holds 62.0 %"
    )
    assert helped.endswith("; JPEG also helps against PGD.")
    assert "own worst case" not in helped


def test_a_gain_is_corrected_for_the_attack_that_it_was_picked_by():
    def words(*attacks):
        others = [
            record
            for attack in attacks[1:]
            for method in ("none", "jpeg")
            for record in runs([0.42, 0.50, 0.46], attack, method)
        ]
        pgd = [*runs([0.40, 0.41, 0.42], "pgd"), *runs([0.44, 0.48, 0.50], "pgd", "jpeg")]
        matrix = Matrix(dataset=NAME, attacks=attacks, methods=("none", "jpeg"), trials=3)
        return assess(matrix, [*runs([0.9, 0.91, 0.92]), *pgd, *others])[2]

    assert words("pgd").startswith("JPEG helped: against PGD")
    assert words("pgd", "lsp", "dap").startswith("JPEG is not shown to help: against PGD")


def test_what_the_trusted_images_alone_give_stands_beside_hint():
    records = [
        *runs([0.9, 0.9, 0.91]),
        *runs([0.4, 0.41, 0.4], "pgd"),
        *runs([0.7, 0.7, 0.71], "pgd", "hint"),
        *runs([0.95, 0.94, 0.96], "pgd", with_validation=True),
    ]
    matrix = Matrix(dataset=NAME, attacks=("pgd",), methods=("none", "hint"), trials=3)
    helped = assess(matrix, records)[2]
    assert helped.endswith(
        "; plain training that is given its 30 trusted images as well has 95.0 %."
    )


def test_a_target_that_two_trials_have_counts_once():
    matrix = Matrix(dataset=NAME, attacks=("gm",), methods=("none",), trials=3)
    targeted = assess(matrix, on_targets([True] * 3, same=True))[1]
    assert "1 of 1 targets" in targeted


def test_defenses_are_counted_on_the_targets_of_plain_training():
    matrix = Matrix(dataset=NAME, attacks=("gm",), methods=("none", "jpeg"), trials=3)
    same = [*on_targets([True] * 3, same=True), *on_targets([True] * 3, "jpeg", same=True)]
    assert ", 1 of 1 under JPEG" in assess(matrix, same)[1]
    more = [*on_targets([True, True]), *on_targets([False, True, True], "jpeg")]
    targeted = assess(matrix, more)[1]
    assert "2 of 2 targets" in targeted
    assert ", 1 of 2 under JPEG" in targeted


def test_without_runs_nothing_is_said():
    sentences = assess(MATRIX, [])
    assert len(sentences) == 5
    assert sentences[4] == "Certainty: there are no runs, so nothing is known."
    assert all("no" in sentence for sentence in sentences)


def test_runs_on_earlier_contents_of_the_folder_are_left_out():
    older = [
        changed(record, spec={"dataset": {"digest": "old"}}, environment={"finished": "2024-01-01"})
        for record in runs([0.1, 0.1, 0.1])
    ]
    assert assess(MATRIX, [*older, *HURT]) == assess(MATRIX, HURT)
    # The matrix of the same runs says so.
    said = "3 run(s) on other images by the same name are left out"
    notes = [
        " ".join(catalogue.build("matrix", every, NAME).notes) for every in (HURT, older + HURT)
    ]
    assert [said in text for text in notes] == [False, True]


def test_the_matrix_of_any_data_asks_for_what_the_assessment_runs():
    wanted = catalogue.missing_runs(
        "matrix", (), NAME, methods=["none", "jpeg"], attacks=["pgd", "lsp"], trials=3, rhos={0, 1}
    )
    assert set(wanted) < set(MATRIX.requests)
    assert not catalogue.missing_runs(
        "matrix", HURT, NAME, methods=["jpeg"], attacks=["pgd"], trials=3, rhos={0.0, 1.0}
    )
