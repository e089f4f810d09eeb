"""The declared claims: their file, who makes them, their digests, and what a report says."""

import json
from dataclasses import replace

import msgspec
import pytest

from helpers.synthetic_runs import make_record
from poisonbench.core.errors import UsageError
from poisonbench.results import published
from poisonbench.results.records import ClaimLabel
from poisonbench.results.verdicts import LEAST_ACCURACY, LEAST_SUCCESS, POWER, ClaimRule
from poisonbench.tables import catalogue, claim_plan, declared
from poisonbench.tables.claims import SECONDS, Superiority
from poisonbench.tables.render import render

SHIPPED = declared.shipped()
OWN = next(d for d in SHIPPED if d.id == "hint-defends-mnist-1.0")


def evidence_of(declaration):
    where = declaration.dataset
    cells = catalogue.cells(declaration.table, (), where)
    claims = catalogue.find_table(declaration.table).claims(where, cells, ())
    (claim,) = declared.claims_of(declaration, claims)
    return claim


@pytest.mark.parametrize("own", SHIPPED, ids=lambda own: own.id)
def test_a_table_makes_every_declared_claim(own):
    claim = evidence_of(own)
    assert declared.find(own.table, claim) is own
    # A paper's own figures may not contradict what is declared as its claim.
    assert claim.judge([]).bears_out is not False
    # What a table judges by: a claim's margin, a second, or what counts unless said otherwise.
    counts = {"accuracy": LEAST_ACCURACY, "attack": LEAST_SUCCESS, "seconds": 1.0}
    assert own.least == (getattr(claim, "margin", 0) or counts[own.test.split()[0]])
    if isinstance(claim, Superiority):
        assert (claim.measure is SECONDS) == (own.test == "seconds under two methods")
    assert (own.targets is not None) == catalogue.find_table(own.table).is_targeted


@pytest.mark.parametrize("own", SHIPPED, ids=lambda own: own.id)
def test_the_declared_number_finds_the_published_difference(own):
    claim = evidence_of(own)
    sizing = claim_plan.published_sizing(own, claim)
    if sizing is None:
        # Our own stand-ins, and seconds, which are printed without a spread.
        assert "mnist-sample" in own.dataset or own.expected is None
        return
    assert own.expected <= min(published_gaps(claim)) + 1e-9
    if own.table.startswith("baseline"):
        # The average over networks as printed, beside the counts of all of them.
        rates = {row.method: row.success / 100 for row in published.baseline(own.table)}
        assert own.expected <= rates[claim.others[0][0].method] - rates["knn"]
    assert sizing.power(own.trials, own.expected) >= POWER
    assert sizing.detectable(own.trials) <= own.expected + 1e-9


def published_gaps(claim):
    if isinstance(claim, Superiority):
        return [first.published.mean - other.published.mean for first, other in claim.comparisons]
    rates = [
        sum(c.published_success.successes for c in column)
        / sum(c.published_success.trials for c in column)
        for column in (claim.first, *claim.others)
    ]
    return [claim.direction * (rates[0] - rate) for rate in rates[1:]]


@pytest.mark.parametrize("own", [d for d in SHIPPED if d.id.startswith("hint-defends")])
def test_a_defense_that_does_nothing_does_not_bear_out_that_hint_defends(own):
    claim = evidence_of(own)
    assert (claim.margin, [cell.method for cell in claim.cells]) == (0.0, ["hint", "none"])


FIELDS = """id = "a"
table = "2"
claim = "c"
keys = { dataset = "mnist" }
test = "accuracy under two methods"
"""


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[[claim]]\n" + FIELDS + 'source = ""\nseeds = 5\n', "missing required field `least`"),
        ("[[claim]]\n" + FIELDS + 'source = ""\nleast = 1\n', "expected seeds or targets"),
        ("[[claim]]\n" + FIELDS.replace("accuracy", "t") + "least = 1\n", "Invalid enum value"),
        ("[[claim]]\n" + FIELDS + "delta = 1\n", "unknown field `delta`"),
        (2 * ("[[claim]]\n" + FIELDS + 'source = ""\nleast = 0.1\nseeds = 5\n'), "a again"),
        *(
            (f'[[claim]]\n{FIELDS}source = ""\nseeds = 5\nleast = {least}\n', "a: expected least")
            for least in ("0", "-0.001", "nan", "inf", "1")
        ),
        (
            "[[claim]]\n" + FIELDS.replace("dataset", "rho") + 'source=""\nleast=1\nseeds=5',
            "dataset",
        ),
        (
            "[[claim]]\n" + FIELDS + 'source = ""\nleast = 1\nseeds = 5\npoisons = 5\n',
            "a: expected poisons = 1, got 5",
        ),
        (
            "[[claim]]\n"
            + FIELDS.replace("mnist", "mnist-sample")
            + 'source = ""\nleast = 1\nseeds = 6\npoisons = 5\n',
            "a: expected poisons = 6, got 5",
        ),
        ("claim = ", "fault"),
        ("", "'claim'"),
    ],
)
def test_a_faulty_file_says_what_is_wrong(tmp_path, text, fault):
    path = tmp_path / "claims.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match="expected") as caught:
        declared.declarations(path)
    assert fault in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_claim_that_no_table_makes_is_named():
    unknown = msgspec.structs.replace(OWN, claim="HINT is blue")
    with pytest.raises(UsageError, match=r"'HINT is blue'.* it claims: "):
        evidence_of(unknown)


def test_a_digest_is_of_one_claim_and_not_of_its_source():
    assert len({own.digest for own in SHIPPED}) == len(SHIPPED)
    assert msgspec.structs.replace(OWN, source="elsewhere").digest == OWN.digest
    for change in ({"least": 0.002}, {"seeds": 6}, {"keys": {"dataset": "mnist"}}):
        assert msgspec.structs.replace(OWN, **change).digest != OWN.digest


def runs(label, trials=3):
    claims = None if label is None else {OWN.id: msgspec.to_builtins(label)}
    labels = {} if claims is None else {"claims": claims}
    return [
        make_record(accuracy, method=method, rho=1.0, trial=trial, labels=labels)
        for method, accuracy in (("hint", 0.9), ("none", 0.7))
        for trial in range(trials)
    ]


def finding_of(records):
    (finding,) = [
        judged
        for judged in catalogue.build("2", records, "mnist").findings
        if judged.claim == OWN.claim and judged.keys["rho"] == 1.0
    ]
    return finding


def standing_of(records):
    return finding_of(records).standing


def test_a_report_says_whether_a_claim_was_declared_first():
    label = ClaimLabel(digest=OWN.digest, trials=5)
    assert standing_of([]) == "declared"
    assert standing_of(runs(label)) == "declared"
    late = "declared after its first run"
    assert standing_of(runs(None)) == late
    assert standing_of(runs(msgspec.structs.replace(label, digest="0" * 16))) == late
    # A single earlier run is enough.
    earlier = make_record(0.9, method="hint", rho=1.0, trial=7)
    assert standing_of([*runs(label), earlier]) == late
    # Which claim is meant counts, and no other cell's runs.
    other = make_record(0.9, method="hint", rho=0.2)
    assert standing_of([*runs(label), other]) == "declared"


def test_runs_that_a_table_does_not_show_were_looked_at_all_the_same():
    label = ClaimLabel(digest=OWN.digest, trials=5)
    late = "declared after its first run"
    labels = {"claims": {OWN.id: msgspec.to_builtins(label)}}
    again = make_record(0.5, method="hint", rho=1.0, labels=labels, finished="2030-01-01")
    assert standing_of([*runs(label), again]) == late
    claim = evidence_of(OWN)
    old = make_record(0.5, method="hint", rho=1.0, trial=8, finished="2020-01-01")
    old = msgspec.structs.replace(old, spec=msgspec.structs.replace(old.spec, loop=0))
    assert old not in claim.cells[0].select([*runs(label), old])
    assert standing_of([*runs(label), old]) == late
    chosen = declared.judge("2", claim, runs(label), is_own_poison=False)
    assert chosen.standing == "exploratory"


def test_fewer_than_declared_decide_nothing():
    label = ClaimLabel(digest=OWN.digest, trials=2)
    finding = finding_of(runs(label, trials=2))
    assert (finding.standing, finding.verdict) == ("fewer than declared", "incomplete")
    assert not finding.judgement.is_complete


def test_a_claim_is_planned_and_judged_by_the_least_difference_that_it_declares(monkeypatch):
    """A gain of 20 % is reproduced where 0.1 % counts, and too small where 30 % does."""
    judged = finding_of(runs(None, trials=5))
    assert (judged.verdict, judged.judgement.least) == ("reproduced", LEAST_ACCURACY)
    other = msgspec.structs.replace(OWN, least=0.3, expected=0.35)
    monkeypatch.setattr(declared, "shipped", lambda: (other,))
    judged = finding_of(runs(None, trials=5))
    assert (judged.verdict, judged.judgement.least) == ("too small", 0.3)
    assert judged.to_dict()["least"] == 0.3
    (own,) = claim_plan.plan_claims("2", ())
    assert own.sizing.rule == ClaimRule(0.0, 0.3)
    # No number of runs finds what is just enough; the exploratory claims keep their own.
    assert own.sizing.detectable(100) > 0.3
    others = catalogue.build("2", runs(None, trials=5), "mnist").findings
    assert {f.judgement.least for f in others if f.standing == "exploratory"} == {LEAST_ACCURACY}


def test_a_declared_margin_and_a_declared_least_success_are_the_claims():
    by_id = {own.id: own for own in SHIPPED}
    own = by_id["hint-not-worse-than-none-mnist-0.0"]
    claim = evidence_of(msgspec.structs.replace(own, least=0.02))
    assert claim.rule == ClaimRule(-0.02, -0.02)
    assert claim.judge([]).test.endswith("which may be under 0 by 0.02")
    own = next(own for own in SHIPPED if own.targets)
    less = own.expected / 2
    claim = evidence_of(msgspec.structs.replace(own, least=less))
    assert claim.rule == ClaimRule(0.0, less)


@pytest.mark.parametrize("own", SHIPPED, ids=lambda own: own.id)
def test_a_declared_difference_that_does_not_count_is_refused(own):
    if own.expected:
        with pytest.raises(UsageError, match=f"{own.id}: expected = .* must be over"):
            evidence_of(msgspec.structs.replace(own, least=own.expected))


def test_a_digest_is_of_the_statistics_too(monkeypatch):
    before = OWN.digest
    monkeypatch.setitem(declared.STATISTICS, OWN.test, 2)
    assert OWN.digest != before


def test_a_declared_claim_is_judged_at_the_number_of_its_first_plan(monkeypatch):
    asked, judge = [], Superiority.judge

    def noted(self, records):
        asked.append(self.trials)
        return judge(self, records)

    monkeypatch.setattr(Superiority, "judge", noted)
    label = ClaimLabel(digest=OWN.digest, trials=7)
    more = msgspec.structs.replace(label, trials=9)
    other = msgspec.structs.replace(label, digest="0" * 16)
    second_plan = {"claims": {OWN.id: msgspec.to_builtins(more)}}
    run = {"method": "hint", "rho": 1.0, "trial": 8, "finished": "2025-01-02"}
    later = make_record(0.9, labels=second_plan, **run)
    for records in ([], runs(None), runs(other), runs(label), [later, *runs(label)]):
        declared.judge("2", evidence_of(OWN), records)
    assert asked == [5, 5, 5, 7, 7]
    # A smaller plan does not move it below the declared number.
    declared.judge("2", evidence_of(OWN), runs(msgspec.structs.replace(label, trials=2)))
    assert asked[-1] == OWN.trials
    # The number decides whether there are as many as planned.
    for trials, is_complete in ((3, True), (4, False)):
        finding = replace(evidence_of(OWN), trials=trials).judge(runs(label))
        assert finding.judgement.is_complete is is_complete


def test_all_other_claims_are_exploratory():
    table = catalogue.build("2", runs(None), "mnist")
    on_mnist = [own for own in SHIPPED if own.table == "2" and own.dataset == "mnist"]
    declared_ones = {(own.claim, own.keys["rho"]) for own in on_mnist}
    for finding in table.findings:
        is_declared = (finding.claim, finding.keys["rho"]) in declared_ones
        assert (finding.standing == "exploratory") is not is_declared
    (claims,) = [block for block in table.blocks if block.findings]
    column = claims.columns.index("standing")
    assert {row[column] for row in claims.rows} == {f.standing.value for f in table.findings}
    plain = json.loads(render(table, "json"))
    assert {c["standing"] for c in plain["claims"]} == {f.standing.value for f in table.findings}


def test_claims_in_a_record_do_not_change_its_id():
    label = ClaimLabel(digest=OWN.digest, trials=5)
    labelled, plain = runs(label)[0], runs(None)[0]
    assert labelled.id == plain.id
    assert json.loads(labelled.to_json())["labels"]["claims"] == {
        OWN.id: {"digest": OWN.digest, "trials": 5}
    }
    assert "claims" not in json.loads(plain.to_json())["labels"]


def test_the_second_papers_tables_claim_that_k_nn_beats_other_filters():
    cells = catalogue.cells("baseline-1", (), "cifar10")
    claims = catalogue.find_table("baseline-1").claims("cifar10", cells, ())
    assert [claim.claim for claim in claims] == [
        "Deep k-NN is hit less than L2 centroid",
        "Deep k-NN is hit less than One-class SVM",
        "Deep k-NN is hit less than Random filter",
    ]
    assert [cell.method for cell in claims[-1].cells] == ["knn", "random"]
    # Trials are the same for all, whichever attacks the plain run has shown to fail.
    assert replace(claims[0].cells[0], plain=None).trials == 16
