"""What an assessment says of the defense that it picks, against the attack that it picks."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from poisonbench.results.crossed import accuracy_difference
from poisonbench.results.statistics import SIGNIFICANCE, Verdict
from poisonbench.tables.assessment import certain
from simulations.lines import Lines, share
from simulations.outcomes import POPULATIONS

#: Attacks, defenses, trials and test images.
DESIGNS = ((3, 3, 3, 2000), (3, 3, 5, 2000))


def assessed(lines: Lines, tables: int, generator: Generator) -> None:
    """Defenses that do nothing, against attacks that are all as strong."""
    for attacks, defenses, trials, images in DESIGNS:
        for name, _, churn, trial in POPULATIONS:
            if name not in lines.populations:
                continue
            helped, uncorrected = [], []
            for _ in range(tables):
                right = _runs((attacks, 1 + defenses, trials, 1), images, churn, trial, generator)
                plain, defended = right[:, 0], right[:, 1:]
                found = {
                    (attack, defense): accuracy_difference(defended[attack, defense], plain[attack])
                    for attack in range(attacks)
                    for defense in range(defenses)
                }
                strongest = int(plain.mean((1, 2, 3)).argmin())
                best = int(defended.mean((2, 3, 4)).min(0).argmax())
                helped.append(certain(found)[strongest, best])
                uncorrected.append(found[strongest, best].p_above(0.0) < SIGNIFICANCE)
            lines.error(
                Verdict.REPRODUCED,
                f"helped, of {defenses} defenses against {attacks} attacks, {trials} trials, "
                f"{images} images, {name}",
                "no defense does anything",
                share(helped),
                f"without correction {100 * share(uncorrected):.1f}",
            )


def _runs(
    shape: tuple[int, ...], images: int, churn: float, trial: float, generator: Generator
) -> np.ndarray:
    """Outcomes (*shape, images) of runs of equal accuracy, 80 % but for what the trial adds.

    They are the same images for all runs, but for a share ``churn`` that each draws anew.
    """
    drawn = (*shape, images)
    is_anew, is_shifted = (generator.random(drawn, dtype=np.float32) for _ in range(2))
    right = generator.random(images) < 0.8
    right = np.where(is_anew < churn, generator.random(drawn, dtype=np.float32) < 0.8, right)
    shift = generator.normal(0, trial, (*shape, 1))
    return np.where(is_shifted < np.abs(shift), shift > 0, right)
