"""Claims: what a verdict may say, and that the claims files are whole."""

import math
import random
import re
from dataclasses import replace

import pytest
import yaml

from common.errors import DataError, OptionError
from common.evaluation.claims import Claim, Data, DataKind, Judgement, Outcome, Verdict, judge
from common.evaluation.claims_reader import find_claims, read_claims, read_cohort
from common.papers import ROOT

CLAIM = Claim(
    id="X1", statement="Mean Dice.", low=0.6, high=0.6, sd=0.1, cases=10, cases_trained_on=0,
    metric="Dice", label="brain", measure="dice", definition="d", unit="", source="table 1",
    verified="in the paper", cohort="clinic", data="ten scans", access="gated",
    presets=("paper", "code"), tolerance=0.05, tolerance_reason="r", headline=True,
)  # fmt: skip


def outcome(mean=0.6, *, data=DataKind.ORIGINAL, cohort="clinic", preset="paper", n=10, **others):
    interval = {"ci95_low": others.pop("low", mean - 0.01), "ci95_high": others.pop("high", None)}
    interval["ci95_high"] = interval["ci95_high"] or mean + 0.01
    summary = {"mean": mean, "sd": 0.1, "n": n, **interval}
    return Outcome(
        data=Data(data, cohort, "cropped"), preset=preset,
        cases_trained_on=others.pop("trained", 0), measures={"brain": {"dice": summary}},
    )  # fmt: skip


class TestVerdicts:
    def test_nothing_but_the_papers_own_data_gets_a_verdict(self):
        """A property: whatever was measured, phantoms and stand-ins are never judged."""
        draw = random.Random(7)
        for _ in range(2000):
            mean = draw.choice([0.6, draw.random(), draw.uniform(0.54, 0.66)])
            found = outcome(
                mean,
                data=draw.choice([DataKind.PHANTOM, DataKind.STAND_IN]),
                cohort=draw.choice(["clinic", None, "other"]),
                preset=draw.choice(["paper", "code", "port", "quick"]),
                n=draw.choice([10, 3]),
                low=draw.random(),
                high=draw.random(),
            )
            width = draw.choice([0.0, 0.2])
            claim = replace(CLAIM, high=0.6 + width, tolerance=draw.choice([0.0, 0.05, 10.0]))
            assert judge(claim, found).verdict is Verdict.NOT_ATTEMPTED

    @pytest.mark.parametrize("data", [None, *DataKind])
    @pytest.mark.parametrize("verdict", list(Verdict))
    def test_such_a_judgement_cannot_even_be_made(self, verdict, data):
        """Of each verdict but "not attempted" there is one kind of data that bears it."""
        bears = {Verdict.SIDE_BY_SIDE: DataKind.SAME_PATIENTS}.get(verdict, DataKind.ORIGINAL)
        if verdict is Verdict.NOT_ATTEMPTED or data is bears:
            assert Judgement(verdict, "because", data).verdict is verdict
            return
        with pytest.raises(ValueError, match=f"only of {bears.words}"):
            Judgement(verdict, "because", data)

    @pytest.mark.parametrize("mean", [0.6, 0.1, 0.62])
    def test_of_the_same_patients_both_numbers_are_said_and_nothing_more(self, mean):
        judgement = judge(CLAIM, outcome(mean, data=DataKind.SAME_PATIENTS))
        assert judgement.verdict.value == "same patients, other preparation"
        assert judgement.reason == f"{mean:g} against 0.6 ± 0.1 (n = 10); cropped"
        other = judge(CLAIM, outcome(mean, data=DataKind.SAME_PATIENTS, cohort="other"))
        assert other.verdict is Verdict.NOT_ATTEMPTED

    @pytest.mark.parametrize(
        ("found", "verdict", "words"),
        [
            (outcome(0.649), "reproduced", "0.049 from the published number; tolerance 0.05"),
            (outcome(0.551), "reproduced", "0.049 from"),
            (outcome(0.66), "not reproduced", "0.06 from"),
            (outcome(0.66, low=0.58), "partly", "lies in our 95% interval"),
            (outcome(0.62, preset="port"), "partly", "preset port, expected paper or code"),
            (outcome(0.62, n=9), "partly", "n = 9, published n = 10"),
            (outcome(0.62, trained=1), "partly", "1 of the cases were trained on"),
            (outcome(0.6, cohort="other"), "not attempted", "the claim is about clinic"),
            (outcome(math.nan), "not attempted", "no dice of brain"),
            (outcome(0.6, data=DataKind.PHANTOM), "not attempted", "run on phantoms"),
            (None, "not attempted", "nothing was run"),
        ],
    )
    def test_by_hand(self, found, verdict, words):
        judgement = judge(CLAIM, found)
        assert judgement.verdict.value == verdict
        assert words in judgement.reason

    def test_a_range_is_met_anywhere_within_it(self):
        claim = replace(CLAIM, low=0.5, high=0.75, tolerance=0.0)
        assert judge(claim, outcome(0.75)).verdict is Verdict.REPRODUCED
        assert judge(claim, outcome(0.77)).verdict is Verdict.NOT_REPRODUCED
        assert claim.distance(0.45) == pytest.approx(0.05)

    def test_without_a_number_nothing_is_judged(self):
        claim = replace(CLAIM, low=None, high=None)
        assert judge(claim, outcome()).reason == "no number is published to compare with"
        assert claim.number == "none"

    def test_numbers_in_words(self):
        assert CLAIM.number == "0.6 ± 0.1 (n = 10)"
        assert replace(CLAIM, unit="mm", sd=None, cases=None).number == "0.6 mm"
        assert replace(CLAIM, low=0.5, sd=None, cases=None).number == "0.5 to 0.6"


class TestFiles:
    @pytest.mark.parametrize("paper", sorted(path.parent.name for path in ROOT.glob("*/config.py")))
    def test_every_paper_has_claims_and_its_card_states_their_numbers(self, paper):
        """The card may round or give per cent less; each number must stand in its table."""
        claims = read_claims(ROOT / paper / "claims.yaml").claims
        card = (ROOT / paper / "README.md").read_text(encoding="utf-8")
        table = card.partition("## Published numbers")[2].partition("<!-- results: begin")[0]
        written = [float(word) for word in re.findall(r"\d*\.\d+", table)]
        written += [number / 100 for number in written]
        for claim in claims:
            for number in (claim.low, claim.high):
                assert number is None or any(math.isclose(number, w) for w in written), claim.id

    def test_none_is_forgotten(self):
        assert set(find_claims()) == {path.parent.name for path in ROOT.glob("*/config.py")}

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda c: c.pop("tolerance"), "claim 1 (RC1): `tolerance` is missing"),
            (lambda c: c["tolerance"].pop("value"), "(RC1): tolerance: `value` is missing"),
            (lambda c: c["published"].update(value="high"), "`value` is 'high'; expected a number"),
            (lambda c: c["published"].update(cases=1.5), "`cases` is 1.5; expected a whole number"),
            (lambda c: c["published"].update(value=-1), "expected a number from 0 on"),
            (lambda c: c["data"].update(presets="paper"), "`presets` is 'paper'; expected a list"),
            (lambda c: c.update(headline="yes"), "`headline` is 'yes'; expected true or false"),
            (lambda c: c.update(headline=False), "expected exactly one claim with headline: true"),
            (lambda c: c.update(tolerence=1), "claim 1 (RC1): unknown key `tolerence`"),
            (lambda c: c.update(source="here"), "source: found 'here'; expected keys and values"),
            (lambda c: c.update(id=3), "`id` is 3; expected a text"),
        ],
    )
    def test_a_mistake_is_one_line_that_names_file_claim_and_key(self, change, words, tmp_path):
        content = yaml.safe_load((ROOT / "raseg" / "claims.yaml").read_text(encoding="utf-8"))
        change(content["claims"][0])
        path = tmp_path / "raseg" / "claims.yaml"
        path.parent.mkdir()
        path.write_text(yaml.safe_dump(content))
        with pytest.raises(DataError) as failure:
            read_claims(path)
        assert words in str(failure.value)
        assert str(path) in str(failure.value)
        assert "\n" not in str(failure.value)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("claims: [", "cannot be read"),
            ("- a list", "expected keys and values"),
            ("paper: other\ntitle: t\ntask: t\ncitation: c\nclaims: []", "at least one entry"),
        ],
    )
    def test_no_claims_at_all(self, text, words, tmp_path):
        (tmp_path / "claims.yaml").write_text(text)
        with pytest.raises(DataError, match=words):
            read_claims(tmp_path / "claims.yaml")

    def test_ids_are_unique_and_the_paper_is_its_folder(self, tmp_path):
        content = yaml.safe_load((ROOT / "sarcoma" / "claims.yaml").read_text(encoding="utf-8"))
        (tmp_path / "claims.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(DataError, match="expected the name of its folder"):
            read_claims(tmp_path / "claims.yaml")
        content["claims"][1]["id"] = "SC1"
        (tmp_path / "sarcoma").mkdir()
        (tmp_path / "sarcoma" / "claims.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(DataError, match="SC1, SC1; expected each once"):
            read_claims(tmp_path / "sarcoma" / "claims.yaml")


class TestWhoseData:
    def test_kinds(self):
        assert read_cohort("raseg", None, phantom=True).words == "phantoms"
        assert read_cohort("raseg", None, phantom=False).words == "stand-in patients"
        own = read_cohort("raseg", "ucsf-wrist", phantom=False)
        assert (own.kind, own.words) == (DataKind.ORIGINAL, "the paper's cohort (ucsf-wrist)")
        same = read_cohort("raseg", "ucsf-wrist: at 3 mm", phantom=False)
        assert same == (DataKind.SAME_PATIENTS, "ucsf-wrist", "at 3 mm")
        assert same.words == "the same patients, prepared otherwise (ucsf-wrist): at 3 mm"

    def test_a_phantom_is_nobodys_and_names_are_known(self):
        with pytest.raises(OptionError, match="these data are phantoms"):
            read_cohort("raseg", "ucsf-wrist", phantom=True)
        with pytest.raises(OptionError, match="--cohort ours: expected ucsf-wrist, or no cohort"):
            read_cohort("raseg", "ours", phantom=False)
        with pytest.raises(OptionError, match="expected what differs behind the colon"):
            read_cohort("raseg", "ucsf-wrist:", phantom=False)
