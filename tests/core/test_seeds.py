"""A seed depends on its purpose and on the parts that it names, and on nothing else."""

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from poisonbench.core.seeds import Seeds, generator_for, seed_for

#: Examples are the same in every run, and a busy machine is no failure.
calm = settings(deadline=None, derandomize=True)

ROOTS = st.integers(0, 2**40)
PARTS = st.lists(st.one_of(st.integers(-(10**6), 10**6), st.text(max_size=6)), max_size=4)
KEYS = st.tuples(ROOTS, st.text(max_size=12), PARTS)


@calm
@given(KEYS)
def test_seeds_are_63_bits_and_repeat(key):
    root, purpose, parts = key
    seed = seed_for(root, purpose, *parts)
    assert 0 <= seed < 2**63
    assert seed == seed_for(root, purpose, *parts)


@calm
@given(KEYS, KEYS)
def test_different_purposes_or_parts_have_different_seeds(one, two):
    assume(one != two)
    assert seed_for(one[0], one[1], *one[2]) != seed_for(two[0], two[1], *two[2])


@calm
@given(ROOTS, st.text(min_size=1, max_size=8))
def test_parts_cannot_run_together(root, word):
    """Text is not joined: ("a", "b") is not ("ab",), and 1 is not "1"."""
    seeds = {
        seed_for(root, word),
        seed_for(root, word, ""),
        seed_for(root, "", word),
        seed_for(root, word + "," + word),
        seed_for(root, word, word),
        seed_for(root, word, 1),
        seed_for(root, word, "1"),
        seed_for(root, word, 1, 1),
        seed_for(root, word, 11),
    }
    assert len(seeds) == 9


@calm
@given(ROOTS, st.integers(0, 10**6))
def test_trials_and_roots_are_kept_apart(root, trial):
    seed = Seeds(root, trial).seed("batches", 3)
    assert seed == seed_for(root, "batches", trial, 3)
    assert seed != Seeds(root, trial + 1).seed("batches", 3)
    assert seed != Seeds(root + 1, trial).seed("batches", 3)
    assert seed != Seeds(root, trial).seed("batches", 4)
    assert seed != Seeds(root, trial).seed("augmentation", 3)
    if trial != root:
        assert seed != Seeds(trial, root).seed("batches", 3)


def test_seeds_stay_what_they_are():
    """Records name seeds by root and trial: another formula would make old ones untrue."""
    assert seed_for(0, "batches", 0, 1) == 7310969474186684660


@calm
@given(ROOTS, st.integers(0, 100))
def test_generators_are_seeded_and_leave_the_global_one_alone(root, trial):
    before = torch.get_rng_state()
    one, two = (torch.rand(4, generator=Seeds(root, trial).generator("a")) for _ in range(2))
    other = torch.rand(4, generator=generator_for(root, "b", trial))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_has_no_more_to_its_seeds_than_root_and_trial():
    """Nothing of the defense can enter: the shared purposes are the same for every method."""
    assert list(Seeds.__dataclass_fields__) == ["root", "trial"]
