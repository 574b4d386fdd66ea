"""`mlops-hydra ab` from files to files: a request log in the service's layout, a table of outcomes, the answer."""

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_hydra.config.ab import AbConfig
from mlops_hydra.config.compose import compose_command
from mlops_hydra.config.roots import Roots
from mlops_hydra.errors import RequestError, UsageError
from mlops_hydra.serving.ab.assignment import note_assignment, noted_assignment
from mlops_hydra.serving.ab.evaluation import Switched, evaluate, judge
from mlops_hydra.serving.ab.result import AbResult
from mlops_hydra.serving.folder import ServiceFolder
from mlops_hydra.serving.request_log.hashing import hashed, read_or_create_key
from mlops_hydra.serving.request_log.parquet_files import FIXED
from mlops_hydra.summary import Terminal

START = datetime(2026, 11, 10, tzinfo=UTC)
HALVES = {"control": 50, "treatment": 50}
NUM_USERS = 4000


class Place:
    """A service's folder below the current one, and what a person sees."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = ServiceFolder.of(path / "outputs", "credit")
        self.said = ""

    def judge(self, *overrides: str) -> AbResult:
        """The answer alone: a picture takes 0.4 s."""
        return judge(self._asked(overrides))

    def ask(self, *overrides: str) -> Any:
        """As the command."""
        console = Terminal(file=io.StringIO(), width=200)
        try:
            return evaluate(self._asked(overrides), console)
        finally:
            self.said = console.file.getvalue()

    def _asked(self, overrides: Sequence[str]) -> AbConfig:
        base = [f"output_dir={self.path / 'outputs'}"]
        base += [] if any(text.startswith("name=") for text in overrides) else ["name=credit"]
        return compose_command(AbConfig, [*base, *overrides], Roots(config_name="ab"))

    def log(self, users: Sequence[str | None], arms: Sequence[str], **others: Any) -> None:
        """A request each, on 10 days from midnight to 2, in Parquet files by hour; `others` by the row's number."""
        rows = [
            {
                "time": time_of(number / len(users)),
                "request_id": f"r{number}",
                "row": 0,
                "user_id": user,
                "variant": arm,
                "assigned_by": "user_id",
                "model_version": {"control": "3"}.get(arm, "4"),
            }
            | {key: value(number) for key, value in others.items()}
            for number, (user, arm) in enumerate(zip(users, arms, strict=True))
        ]
        by_hour: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_hour.setdefault(row["time"].strftime("%Y-%m-%dT%H"), []).append(row)
        self.folder.requests.mkdir(parents=True, exist_ok=True)
        for hour, part in by_hour.items():
            pq.write_table(pa.Table.from_pylist(part, FIXED), self.folder.requests / f"{hour}.parquet")

    def outcomes(self, text: str, name: str = "outcomes.csv") -> str:
        (self.path / name).write_text(text)
        return f"outcomes.path={self.path / name}"

    @property
    def result(self) -> dict[str, Any]:
        return json.loads((self.path / "outputs/ab/credit/result.json").read_text(), parse_constant=pytest.fail)


def time_of(part: float) -> datetime:
    """Of a request that comes after this part of all."""
    day, rest = divmod(10 * part, 1)
    return START + timedelta(days=day, hours=2 * rest)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


USERS = [f"u{number}" for number in range(NUM_USERS)]
ARMS = np.where(np.random.default_rng(7).random(NUM_USERS) < 0.5, "treatment", "control").tolist()


def converted(*, control: float, treatment: float) -> list[int]:
    rates = np.where(np.array(ARMS) == "treatment", treatment, control)
    return (np.random.default_rng(1).random(NUM_USERS) < rates).astype(int).tolist()


def csv_of(values: Sequence[object], header: str = "user_id,converted", users: Sequence[str] = USERS) -> str:
    return "\n".join([header, *(f"{user},{value}" for user, value in zip(users, values, strict=False))])


@pytest.fixture
def halves(place: Place) -> Place:
    """4,000 users of 10 days in two halves, as the service noted."""
    place.log(USERS, ARMS)
    note_assignment(place.folder, "credit", HALVES, now=START)
    return place


def refused(place: Place, *overrides: str) -> str:
    with pytest.raises(RequestError) as caught:
        place.judge(*overrides)
    return str(caught.value)


# What it says


def test_a_better_treatment_is_called_better(halves: Place) -> None:
    found = halves.ask(halves.outcomes(csv_of(converted(control=0.1, treatment=0.2))))
    assert isinstance(found, AbResult)
    assert (found.verdict, found.exit_code) == ("better", 0)
    assert found.sentence in halves.said
    assert found.sentence.startswith("treatment is better than control: ")
    assert found.sentence.endswith(" %, 95 %, however often one looks)")
    result = halves.result
    assert result["verdict"] == "better"
    assert result["arms"]["control"]["units"] + result["arms"]["treatment"]["units"] == NUM_USERS
    effect = result["effects"]["treatment"]
    assert effect["low"] < effect["difference"] < effect["high"]
    assert effect["low"] > 0
    assert effect["difference"] == pytest.approx(
        result["arms"]["treatment"]["mean"] - result["arms"]["control"]["mean"]
    )
    assert len(result["days"]) == 10
    assert result["days"][-1]["effects"]["treatment"]["low"] == effect["low"]
    assert (halves.path / "outputs/ab/credit/ab.png").read_bytes().startswith(b"\x89PNG")
    assert not list((halves.path / "outputs/ab/credit").glob(".*"))


def test_more_of_what_should_be_less_is_worse(halves: Place) -> None:
    path = halves.outcomes(csv_of(converted(control=0.1, treatment=0.2)))
    found = halves.judge(path, "direction=minimize")
    assert (found.verdict, found.exit_code) == ("worse", 0)
    assert "treatment is worse than control" in found.sentence
    assert " more (" in found.sentence


def test_no_effect_yet_is_open_and_says_what_could_be_seen(halves: Place) -> None:
    found = halves.judge(halves.outcomes(csv_of(converted(control=0.1, treatment=0.1))))
    assert (found.verdict, found.exit_code, found.status) == ("open", 0, "judged")
    assert "no difference between treatment and control can be seen yet" in found.sentence
    assert "with 4,000 users more" in found.sentence


def test_an_outcome_of_any_scale_is_told_in_its_own_unit_where_control_is_about_0(halves: Place) -> None:
    values = np.random.default_rng(3).normal(0, 1, NUM_USERS) + np.where(np.array(ARMS) == "treatment", 2, 0)
    found = halves.judge(halves.outcomes(csv_of([f"{value:.3f}" for value in values], "user_id,profit")))
    assert found.verdict == "better"
    assert np.isnan(found.effects["treatment"].relative)
    assert "%" not in found.sentence.partition("(")[0]


def test_shares_that_are_not_the_weights_are_not_trusted(halves: Place) -> None:
    path = halves.outcomes(csv_of(converted(control=0.1, treatment=0.2)))
    found = halves.ask(path, "weights={control: 60, treatment: 40}")
    assert (found.verdict, found.exit_code) == ("untrustworthy", 4)
    assert "not to be trusted" in halves.said
    assert halves.result["srm"]["p"] < 0.01
    assert halves.result["effects"]["treatment"]["verdict"] == "untrustworthy"


def test_few_users_are_too_few_to_say(place: Place) -> None:
    place.log(USERS[:60], ARMS[:60])
    found = place.ask(place.outcomes(csv_of([1, 0] * 30)), "weights={control: 1, treatment: 1}")
    assert (found.status, found.exit_code) == ("too_few", 4)
    assert "too few to say whether treatment differs from control" in found.sentence
    assert place.result["effects"]["treatment"]["low"] is None


def test_a_log_without_exposures_is_nothing_to_judge(place: Place) -> None:
    place.log(USERS[:5], ["control"] * 5, assigned_by=lambda _: "tester")
    found = place.ask(place.outcomes(csv_of([1] * 5)), "weights={control: 1, treatment: 1}")
    assert (found.status, found.exit_code) == ("nothing", 4)
    assert "5 requests of testers" in found.sentence
    assert place.result["effects"] == {}


def test_several_treatments_share_the_confidence(place: Place) -> None:
    arms = [("control", "a", "b")[number % 3] for number in range(NUM_USERS)]
    place.log(USERS, arms)
    rates = {"control": 0.1, "a": 0.2, "b": 0.1}
    rng = np.random.default_rng(5)
    values = [int(rng.random() < rates[arm]) for arm in arms]
    found = place.judge(place.outcomes(csv_of(values)), "weights={a: 1, control: 1, b: 1}", "planned_users=2667")
    assert (found.verdict, found.verdict_of("a"), found.verdict_of("b")) == ("better", "better", "open")
    assert list(found.arms) == ["control", "a", "b"]
    effect, arms_found = found.effects["a"], found.arms
    error = np.sqrt(sum(arms_found[arm].outcomes.variance / arms_found[arm].num_units for arm in ("control", "a")))
    assert (effect.high - effect.low) / 2 > 3.2 * error
    assert found.control == "control"
    assert place.judge(f"outcomes.path={place.path}/outcomes.csv", "weights={a: 1, control: 1, b: 1}", "control=b")


# How outcomes count


def test_who_has_no_outcome_is_left_out_or_counts_as_was_said(halves: Place) -> None:
    values = converted(control=0.1, treatment=0.2)
    buyers = [user for user, value in zip(USERS, values, strict=True) if value]
    path = halves.outcomes(csv_of([1] * len(buyers), "user_id,bought", buyers))
    found = halves.judge(path)
    assert found.status == "too_few"
    assert any("every outcome is 1" in warning for warning in found.warnings)
    assert any("outcomes are there for" in warning for warning in found.warnings)
    whole = halves.judge(path, "outcomes.missing=0")
    assert whole.verdict == "better"
    full = halves.judge(halves.outcomes(csv_of(values), "full.csv"))
    assert whole.effects == full.effects
    assert not whole.warnings


def test_several_outcomes_of_a_user_are_a_fault_until_it_is_said_how_they_count(halves: Place) -> None:
    rows = [*(f"{user},1" for user in USERS[:400]), *(f"{user},3" for user in USERS[:200])]
    path = halves.outcomes("\n".join(["user_id,amount", *rows]))
    assert "outcomes.several: is needed: 200 of those who were exposed have more than one" in refused(halves, path)
    means = {
        how: halves.judge(path, f"outcomes.several={how}").arms["control"].outcomes.mean
        for how in ("sum", "mean", "max", "last")
    }
    count = sum(arm == "control" for arm in ARMS[:400])
    twice = sum(arm == "control" for arm in ARMS[:200])
    assert means == {
        "sum": pytest.approx((count + 3 * twice) / count),
        "mean": pytest.approx((count + twice) / count),
        "max": pytest.approx((count + 2 * twice) / count),
        "last": pytest.approx((count + 2 * twice) / count),
    }


def test_outcomes_by_request_count_for_the_user_who_asked(place: Place) -> None:
    """Requests of one user are not independent: he was assigned, they were not."""
    users, arms = [user for user in USERS[:1000] for _ in range(2)], [arm for arm in ARMS[:1000] for _ in range(2)]
    place.log(users, arms)
    values = np.random.default_rng(0).random(2000) < 0.3
    rows = [f"r{number},{str(bool(value)).lower()}" for number, value in enumerate(values)]
    path = place.outcomes("\n".join(["request_id,clicked", *rows]))
    found = place.judge(path, "weights={control: 1, treatment: 1}", "outcomes.several=max")
    assert sum(arm.num_units for arm in found.arms.values()) == 1000
    assert found.unit == "user"
    mine = np.array(arms[::2]) == "control"
    assert found.arms["control"].outcomes.mean == pytest.approx(values.reshape(-1, 2).max(axis=1)[mine].mean())


def test_requests_of_nobody_are_units_of_their_own(place: Place) -> None:
    place.log([None] * 600, ARMS[:600], assigned_by=lambda _: "request_id")
    path = place.outcomes("\n".join(["request_id,clicked", *(f"r{number},{number % 2}" for number in range(600))]))
    found = place.judge(path, "weights={control: 1, treatment: 1}")
    assert (found.unit, found.num_units) == ("request", 600)
    path = place.outcomes(csv_of([0, 1] * 10))
    found = place.judge(path, "weights={control: 1, treatment: 1}")
    assert found.status == "nothing"
    assert "600 requests without a user id" in found.sentence


def test_users_that_are_hashed_in_the_log_are_found_by_their_names(place: Place) -> None:
    key = read_or_create_key(place.folder.hash_key)
    place.log([hashed(user, key) for user in USERS], ARMS)
    found = place.judge(
        place.outcomes(csv_of(converted(control=0.1, treatment=0.2))), "weights={control: 1, treatment: 1}"
    )
    assert found.verdict == "better"


def test_numbers_as_ids_are_the_texts_of_the_log(place: Place) -> None:
    place.log([str(number) for number in range(300)], ARMS[:300])
    file = place.path / "outcomes.parquet"
    pq.write_table(pa.table({"user_id": list(range(300)), "rating": [1.5] * 150 + [2.5] * 150}), file)
    found = place.judge(f"outcomes.path={file}", "weights={control: 1, treatment: 1}")
    assert sum(arm.outcomes.num_units for arm in found.arms.values()) == 300


def test_what_was_known_before_the_exposure_does_not_count(halves: Place) -> None:
    """A user is exposed on a day by his number; outcomes of 15 November are early for the last 2,000."""
    values = converted(control=0.1, treatment=0.2)
    rows = [f"{user},{value},2026-11-15T00:00:01" for user, value in zip(USERS, values, strict=True)]
    path = halves.outcomes("\n".join(["user_id,bought,at", *rows]))
    found = halves.judge(path, "outcomes.time=at")
    assert sum(arm.outcomes.num_units for arm in found.arms.values()) == 2001
    assert "1,999 outcomes from before the first exposure" in found.notes


def test_a_date_without_time_is_the_end_of_its_day(halves: Place) -> None:
    values = converted(control=0.1, treatment=0.2)
    days = [time_of(number / NUM_USERS).date() for number in range(NUM_USERS)]
    rows = [f"{user},{value},{day}" for user, value, day in zip(USERS, values, days, strict=True)]
    found = halves.judge(halves.outcomes("\n".join(["user_id,bought,day", *rows])), "outcomes.time=day")
    assert sum(arm.outcomes.num_units for arm in found.arms.values()) == NUM_USERS


def test_days_show_what_was_known_then(halves: Place) -> None:
    """All are exposed in 10 days, and convert on the 20th only: until then nobody had."""
    values = converted(control=0.1, treatment=0.2)
    rows = [f"{user},1,2026-11-29" for user, value in zip(USERS, values, strict=True) if value]
    found = halves.judge(
        halves.outcomes("\n".join(["user_id,bought,day", *rows])), "outcomes.time=day", "outcomes.missing=0"
    )
    assert found.verdict == "better"
    assert len(found.days) == 11
    assert not any(day.effects["treatment"].is_judged for day in found.days[:-1])


# Which exposures count


def test_exposures_count_from_since_until(halves: Place) -> None:
    path = halves.outcomes(csv_of(converted(control=0.1, treatment=0.1)))
    found = halves.judge(path, "since=2026-11-12", "until=2026-11-14T01:00")
    assert found.num_units == NUM_USERS // 4
    assert found.to_json()["first"] == "2026-11-12T00:00:00+00:00"


def test_exposures_under_other_weights_do_not_count(halves: Place) -> None:
    later = START + timedelta(days=5)
    note_assignment(halves.folder, "credit", {"control": 9, "treatment": 1}, now=later)
    note_assignment(halves.folder, "credit", HALVES, now=later)
    found = halves.judge(halves.outcomes(csv_of(converted(control=0.1, treatment=0.1))))
    assert found.num_units == NUM_USERS // 2


def test_a_service_that_starts_again_with_the_same_weights_goes_on_with_its_note(place: Place) -> None:
    first = note_assignment(place.folder, "credit", {"control": 90, "treatment": 10}, now=START)
    again = note_assignment(place.folder, "credit", {"control": 0.9, "treatment": 0.1}, now=START + timedelta(days=1))
    assert first == again == noted_assignment(place.folder)
    other = note_assignment(place.folder, "another", {"control": 90, "treatment": 10}, now=START + timedelta(days=2))
    assert other.since.startswith("2026-11-12")


def test_a_version_that_changed_within_the_test_is_told(place: Place) -> None:
    versions = [{"control": "3"}.get(arm, "4" if number < 3000 else "5") for number, arm in enumerate(ARMS)]
    place.log(USERS, ARMS, model_version=versions.__getitem__)
    path = place.outcomes(csv_of(converted(control=0.1, treatment=0.1)))
    (warning,) = place.judge(path, "weights={control: 1, treatment: 1}").warnings
    assert warning.startswith("treatment was version 4, then 5: the effect mixes them; since=2026-11-17T01:0")


def test_outcomes_that_are_there_for_more_users_of_one_arm_are_told(halves: Place) -> None:
    rng = np.random.default_rng(0)
    kept = [user for user, arm in zip(USERS, ARMS, strict=True) if rng.random() < (0.8 if arm == "control" else 0.6)]
    found = halves.judge(halves.outcomes(csv_of([0, 1] * 2000, users=kept)))
    assert any("of control" in warning and "those without one may differ" in warning for warning in found.warnings)
    assert found.exit_code == 0


# What is refused


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("nan", "has no value"),
        ("", "has no value"),
        ("inf", "must be finite"),
        ("-Infinity", "must be finite"),
        ("yes", "must be a number"),
        ("1,5", "must have 2 fields"),
    ],
)
def test_a_value_that_is_no_number_is_named_with_row_and_column(halves: Place, value: str, rule: str) -> None:
    text = refused(halves, halves.outcomes(csv_of([1, 0, value])))
    assert rule in text
    if "fields" not in rule:
        assert "outcomes, column 'converted', row 2:" in text


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("user_id,a,b\nu1,1,2", [], "outcomes.value: is needed: which column is the outcome (a, b)"),
        ("user_id\nu1", [], "outcomes.value: there is no other column"),
        ("user,a\nu1,1", [], "outcomes.id: there is neither a column user_id nor request_id (user, a)"),
        ("user_id,request_id,a\nu1,r1,1", [], "outcomes.unit: is needed, there are columns of both"),
        ("user_id,a\nu1,1", ["outcomes.value=A1"], "outcomes.value: no such column, got 'A1'"),
        ("user_id,a\nu1,1", ["outcomes.unit=request_id"], "outcomes.id: there is no column 'request_id'"),
        ("user_id,a\nx1,1", [], "(they are called x1"),
        ("user_id,a,t\nu1,1,noon", ["outcomes.time=t"], "outcomes, column 't', row 0: must be a date"),
        ("user_id,a,t\nu1,1,2026-01-01", ["outcomes.time=t"], "outcomes.time: all were known before"),
        ("user_id,a", [], "outcomes.path: has columns but no rows"),
        ("user_id,a\nu1,1", ["outcomes.encoding=klingon"], "outcomes.encoding: is no encoding"),
        ("user_id,a\nu1,1", ["control=treatmnt"], "control: no such arm with a weight, got 'treatmnt'. Did you mean"),
        ("user_id,a\nu1,1", ["weights={control: 1, treatment: 0}"], "weights: two arms above 0 are needed"),
        ("user_id,a\nu1,1", ["weights={control: 1, other: 1}"], "weights: the log has an arm without a weight"),
        ("user_id,a\nu1,1", ["weights={control: 0}"], "must not all be 0"),
        ("user_id,a\nu1,1", ["since=yesterday"], "since: must be a date"),
        ("user_id,a\nu1,1", ["since=2026-11-12", "until=2026-11-11"], "since must be before until"),
        ("user_id,a\nu1,1", ["name=credti"], "name: no service of this model has run here"),
        ("user_id,a\nu1,1", ["kill_switch=on"], "kill_switch judges nothing"),
    ],
)
def test_a_wrong_request_says_what_is_wrong(halves: Place, text: str, overrides: list[str], message: str) -> None:
    assert message in refused(halves, halves.outcomes(text), *overrides)
    assert not (halves.path / "outputs/ab").exists()


def test_outcomes_and_weights_are_needed(place: Place) -> None:
    place.log(USERS[:5], ARMS[:5])
    assert "weights: is needed, for the service left no note" in refused(place, "outcomes.path=x.csv")
    assert "outcomes.path: is needed" in refused(place, "weights={control: 1, treatment: 1}")
    assert "no such file" in refused(place, "weights={control: 1, treatment: 1}", f"outcomes.path={place.path}/x.csv")


def test_an_answer_that_would_replace_a_file_is_refused(place: Place) -> None:
    (place.path / "taken").write_text("a file")
    with pytest.raises(RequestError, match="out: is a file"):
        place.ask(f"out={place.path / 'taken'}")
    assert (place.path / "taken").read_text() == "a file"


# The kill switch


def test_the_kill_switch_is_a_file_that_comes_and_goes(halves: Place) -> None:
    switch = halves.folder.kill_switch
    assert halves.ask("kill_switch=on") == Switched("off", "on")
    assert "was off and is now on: all users are sent to control" in halves.said
    assert switch.read_bytes() == b""
    assert halves.ask("kill_switch=true") == Switched("on", "on")
    assert "is already on" in halves.said
    assert halves.ask("kill_switch=off") == Switched("on", "off")
    assert not switch.exists()
    assert halves.ask("kill_switch=off").exit_code == 0
    assert "is already off" in halves.said
    assert not (halves.path / "outputs/ab").exists()


@pytest.mark.parametrize("switch", ["on", "off"])
def test_a_kill_switch_of_no_service_is_refused_for_the_name_may_be_misspelt(halves: Place, switch: str) -> None:
    near = f"{halves.folder.path.name}x"
    with pytest.raises(UsageError, match=f"no service of this model has run here.*Did you mean {near[:-1]}"):
        halves.ask(f"kill_switch={switch}", f"name={near}")
    assert not halves.folder.path.with_name(near).exists()
