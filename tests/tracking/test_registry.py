import json
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mlops_hydra.errors import BusyError, ConfigError, TrackingError, UsageError
from mlops_hydra.tracking import audit
from mlops_hydra.tracking.alias import read_state
from mlops_hydra.tracking.registry import CHALLENGER, CHAMPION, ModelVersion, Move, Registry, check_model_name
from mlops_hydra.tracking.store import open_client


@dataclass(frozen=True)
class Place:
    """A store, a model of its own in it, and the registry that the tests ask."""

    uri: str
    output_dir: Path
    name: str
    experiment_id: str

    @property
    def client(self) -> Any:
        return open_client(self.uri)

    @property
    def registry(self) -> Registry:
        return Registry(self.uri, self.output_dir, timeout_seconds=30)

    def run(self, content: str = "weights") -> str:
        """The id of a run with a model, which is one file."""
        run_id = self.client.create_run(self.experiment_id).info.run_id
        folder = self.output_dir.parent / run_id / "model"
        folder.mkdir(parents=True)
        (folder / "weights").write_text(content)
        self.client.log_artifacts(run_id, str(folder), "model")
        return run_id

    def version(self, verdict: str = "passed", content: str = "weights") -> ModelVersion:
        lineage = secrets.token_hex(6)
        tags = {"fingerprint": "f" * 12, "lineage": lineage, "verdict": verdict, "gate.accuracy": "passed: 0.9 >= 0.8"}
        return self.registry.register(self.name, run_id=self.run(content), tags=tags)

    def promote(self, version: ModelVersion, alias: str = CHAMPION) -> Move | None:
        now = self.registry.version_of(self.name, alias)
        expected = now.version if now else None
        return self.registry.move(self.name, alias, version, expected=expected, verdict="passed", reason="better")

    def champion(self) -> int | None:
        found = self.registry.version_of(self.name, CHAMPION)
        return found.version if found else None

    def by_hand(self, version: int, alias: str = CHAMPION) -> None:
        self.client.set_registered_model_alias(self.name, alias, str(version))


def place_in(uri: str, tmp_path: Path, **options: str) -> Place:
    name = f"it's größer {secrets.token_hex(3)}"
    experiment_id = open_client(uri).create_experiment(name, **options)
    return Place(uri, tmp_path / "outputs", name, experiment_id)


@pytest.fixture
def here(local_store: str, tmp_path: Path) -> Place:
    return place_in(local_store, tmp_path, artifact_location=(tmp_path / "outputs" / "artifacts").as_uri())


@pytest.fixture
def there(mlflow_server: str, tmp_path: Path) -> Place:
    return place_in(mlflow_server, tmp_path)


@pytest.fixture(params=["here", "there"])
def place(request: pytest.FixtureRequest) -> Place:
    """On SQLite, and on a server."""
    found: Place = request.getfixturevalue(request.param)
    return found


def test_a_run_becomes_a_version_that_says_what_it_is(place: Place):
    run_id = place.run()
    tags = {"fingerprint": "f" * 12, "lineage": "a" * 12, "verdict": "passed", "gate.größe: x": "", "long": "x" * 9000}
    made = place.registry.register(place.name, run_id=run_id, tags=tags)
    assert (made.name, made.version, made.run_id) == (place.name, 1, run_id)
    assert (made.fingerprint, made.lineage, made.verdict) == ("f" * 12, "a" * 12, "passed")
    assert made.source.endswith(f"{run_id}/artifacts/model")
    assert len(made.tags["long"]) <= 5000
    assert place.registry.version_of(place.name, 1) == place.registry.version_of(place.name, "1") == made
    assert place.registry.version_of(place.name, CHAMPION) is None, "to be registered is not to be promoted"


def test_the_same_run_and_the_same_lineage_are_the_same_version_with_the_verdict_of_today(place: Place):
    registry, run_id = place.registry, place.run()
    first = registry.register(place.name, run_id=run_id, tags={"lineage": "a" * 12, "verdict": "failed"})
    again = registry.register(place.name, run_id=run_id, tags={"lineage": "a" * 12, "verdict": "passed"})
    twin = registry.register(place.name, run_id=place.run(), tags={"lineage": "a" * 12, "verdict": "passed"})
    other = registry.register(place.name, run_id=place.run(), tags={"lineage": "b" * 12, "verdict": "passed"})
    assert (first.verdict, again.verdict) == ("failed", "passed")
    assert again == twin and twin.run_id == run_id
    assert (again.version, other.version) == (1, 2)


def test_a_promotion_moves_the_alias_and_leaves_an_entry(place: Place):
    one, two = place.version(), place.version()
    first, second = place.promote(one), place.promote(two)
    assert place.champion() == 2
    assert place.registry.history(place.name) == [first, second]
    assert (first.before, first.after, second.before, second.after) == (None, 1, 1, 2)
    assert (second.alias, second.action, second.verdict, second.forced) == (CHAMPION, "promote", "passed", False)
    assert second.who.endswith(f"@{socket.gethostname()}") and second.reason == "better"
    assert first.time < second.time and abs(second.time / 1000 - time.time()) < 60


def test_promoting_what_is_there_already_changes_nothing(place: Place):
    one = place.version()
    assert place.promote(one) is not None
    assert place.promote(one) is None
    assert place.registry.move(place.name, CHAMPION, one, expected=None, verdict="passed", reason="") is None
    assert len(place.registry.history(place.name)) == 1


def test_aliases_move_independently(place: Place):
    one, two = place.version(), place.version()
    place.promote(one)
    place.promote(two, CHALLENGER)
    place.promote(two)
    assert place.champion() == 2
    place.registry.rollback(place.name)
    assert place.champion() == 1
    challenger = place.registry.version_of(place.name, CHALLENGER)
    assert challenger is not None and challenger.version == 2


def test_who_judged_against_another_version_hears_which_it_is_and_who_moved_it(place: Place):
    one, two, three = place.version(), place.version(), place.version()
    place.promote(one)
    moved = place.promote(two)
    with pytest.raises(BusyError) as error:
        place.registry.move(place.name, CHAMPION, three, expected=1, verdict="passed", reason="")
    assert "it is version 2, not version 1" in str(error.value) and moved.who in str(error.value)
    assert place.champion() == 2 and len(place.registry.history(place.name)) == 2


@pytest.mark.parametrize("verdict", ["failed", "undecided", ""])
def test_what_did_not_pass_gets_no_alias_unless_somebody_forces_it_and_says_why(here: Place, verdict: str):
    version, registry = here.version(verdict), here.registry
    with pytest.raises(UsageError, match="did not pass"):
        here.promote(version)
    with pytest.raises(UsageError, match="did not pass"):
        here.promote(replace(version, verdict="passed"))
    with pytest.raises(UsageError, match="reason"):
        registry.move(here.name, CHAMPION, version, expected=None, verdict=verdict, reason=" ", forced=True)
    assert here.champion() is None and registry.history(here.name) == []
    registry.move(here.name, CHAMPION, version, expected=None, verdict=verdict, reason="an emergency", forced=True)
    (move,) = registry.history(here.name)
    assert here.champion() == 1
    assert (move.forced, move.reason, move.verdict) == (True, "an emergency", verdict)


def test_rollbacks_go_further_back_and_never_forth(place: Place):
    for _ in range(4):
        place.promote(place.version())
    moves = [place.registry.rollback(place.name, reason="slow"), place.registry.rollback(place.name)]
    assert [(move.before, move.after, move.action) for move in moves] == [(4, 3, "rollback"), (3, 2, "rollback")]
    assert place.champion() == 2 and place.registry.history(place.name)[-2:] == moves
    place.promote(place.version())
    assert place.registry.rollback(place.name).after == 2, "not to what was rolled back"
    assert place.registry.rollback(place.name).after == 1
    with pytest.raises(UsageError, match="version 1 has the alias champion, and none"):
        place.registry.rollback(place.name)


def test_a_rollback_passes_over_versions_that_were_deleted(place: Place):
    for _ in range(3):
        place.promote(place.version())
    place.client.delete_model_version(place.name, "2")
    assert place.registry.version_of(place.name, 2) is None
    move = place.registry.rollback(place.name)
    assert (move.before, move.after) == (3, 1)


def test_a_champion_that_was_deleted_leaves_no_alias_and_the_way_back_is_open(place: Place):
    one, two = place.version(), place.version()
    place.promote(one)
    place.promote(two)
    place.client.delete_model_version(place.name, "2")
    assert place.champion() is None
    with pytest.raises(UsageError, match="not there any more"):
        place.promote(two)
    move = place.registry.rollback(place.name)
    assert (move.before, move.after) == (None, 1) and place.champion() == 1


def test_an_alias_that_was_set_by_hand_is_what_was_found(here: Place):
    one, two, three = here.version(), here.version(), here.version()
    here.promote(one)
    here.by_hand(2)
    with pytest.raises(BusyError, match="by hand: it is version 2, not version 1"):
        here.registry.move(here.name, CHAMPION, three, expected=1, verdict="passed", reason="")
    assert here.promote(three).before == 2
    back = here.registry.rollback(here.name)
    assert back.after == two.version and not back.forced
    assert here.registry.rollback(here.name).after == 1


def test_going_back_to_what_somebody_set_by_hand_and_nobody_judged_is_marked(here: Place):
    here.client.create_registered_model(here.name)
    run_id = here.run()
    here.client.create_model_version(here.name, f"{here.client.get_run(run_id).info.artifact_uri}/model", run_id)
    found = here.registry.version_of(here.name, 1)
    assert (found.fingerprint, found.lineage, found.verdict, dict(found.tags)) == ("", "", "", {})
    here.by_hand(1)
    here.promote(here.version())
    assert here.registry.rollback(here.name).forced


def test_a_run_that_somebody_registered_by_hand_is_that_version(place: Place):
    place.client.create_registered_model(place.name, tags={"audit.mine": "a note", "audit.7": json.dumps({"time": 1})})
    run_id = place.run()
    source = f"{place.client.get_run(run_id).info.artifact_uri}/model"
    place.client.create_model_version(place.name, source, run_id)
    made = place.registry.register(place.name, run_id=run_id, tags={"lineage": "a" * 12, "verdict": "passed"})
    assert made.version == 1 and made.verdict == "passed"
    assert place.promote(made) is not None
    assert len(place.registry.history(place.name)) == 1, "what others wrote among the tags is not the audit's"


@pytest.mark.parametrize("name", ["a/b", "a:b", "..", ".", "..a", " ", "x" * 251, "ü" * 126])
def test_a_name_that_no_model_can_have_is_refused_before_anything_is_made(here: Place, name: str):
    for refuse in (check_model_name, lambda name: here.registry.register(name, run_id="0" * 32, tags={})):
        with pytest.raises(ConfigError, match="choose another with name="):
            refuse(name)
    assert here.registry.version_of(name, CHAMPION) is None and here.registry.history(name) == []
    assert not (here.output_dir / "models").exists()


@pytest.mark.parametrize("name", ["a", "a.b", ".a", "a b", "it's", 'say "so"', "größer", "100%", "a?b=c&d", "x" * 250])
def test_other_names_are_fine(place: Place, name: str):
    model = replace(place, name=name)
    version = model.version()
    assert model.promote(version) is not None and model.champion() == version.version
    assert (model.registry.fetch(version) / "weights").read_text() == "weights"


def test_mlflow_agrees_with_what_is_refused():
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_model_name

    for name in ("a/b", "a:b", "..", ".", "..a", " "):
        with pytest.raises(MlflowException):
            _validate_model_name(name)


def test_only_what_mlflow_has_whole_becomes_a_version(place: Place):
    bare = place.client.create_run(place.experiment_id).info.run_id
    deleted = place.run()
    place.client.delete_run(deleted)
    cases = {bare: "no model in MLflow", deleted: "was deleted", "0" * 32: "not found"}
    for run_id, why in cases.items():
        with pytest.raises(TrackingError, match=why):
            place.registry.register(place.name, run_id=run_id, tags={})
    assert place.registry.version_of(place.name, 1) is None


def test_reading_creates_nothing(tmp_path: Path):
    registry = Registry(f"sqlite:///{tmp_path}/outputs/mlflow.db", tmp_path / "outputs", timeout_seconds=5)
    assert registry.version_of("a", CHAMPION) is None and registry.history("a") == []
    with pytest.raises(UsageError, match="was ever promoted"):
        registry.rollback("a")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "mlflow.db").touch()
    assert registry.version_of("a", CHAMPION) is None
    assert (tmp_path / "outputs" / "mlflow.db").stat().st_size == 0


@pytest.mark.parametrize("which", ["nobody", "7", 7, 10**30, "²", ""])
def test_there_is_no_such_version(place: Place, which: str | int):
    assert place.registry.version_of(place.name, which) is None
    place.promote(place.version())
    assert place.registry.version_of(place.name, which) is None


def test_a_server_that_does_not_answer_is_named_without_its_password(tmp_path: Path):
    registry = Registry("http://me:secret@127.0.0.1:9", tmp_path, timeout_seconds=2)
    calls: list[Callable[[], object]] = [
        lambda: registry.version_of("a", CHAMPION),
        lambda: registry.history("a"),
        lambda: registry.rollback("a"),
        lambda: registry.register("a", run_id="0" * 32, tags={}),
    ]
    for call in calls:
        with pytest.raises(TrackingError) as error:
            call()
        assert "127.0.0.1:9" in str(error.value) and "secret" not in str(error.value)


@pytest.mark.parametrize("alias", ["champ", "latest", "v1", ""])
def test_there_are_two_aliases(here: Place, alias: str):
    version = here.version()
    with pytest.raises(UsageError, match="must be champion or challenger"):
        here.promote(version, alias)
    with pytest.raises(UsageError, match="must be champion or challenger"):
        here.registry.rollback(here.name, alias)


def test_a_model_on_this_machine_is_used_where_it_is_and_one_on_a_server_is_fetched_once(
    here: Place, there: Place, monkeypatch: pytest.MonkeyPatch
):
    near, far = here.version(content="near"), there.version(content="far")
    assert (here.registry.fetch(near) / "weights").read_text() == "near"
    with pytest.raises(TrackingError, match="-gone is not on this machine"):
        here.registry.fetch(replace(near, source=f"{near.source}-gone"))
    assert not [path for path in (here.output_dir / "models").rglob("*") if path.name != ".lock" and path.is_file()]
    folder = there.registry.fetch(far)
    assert (folder / "weights").read_text() == "far"
    assert folder.is_relative_to(there.output_dir / "models" / there.name / "1")
    monkeypatch.setattr("mlflow.artifacts.download_artifacts", None)
    assert there.registry.fetch(far) == folder
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "no scratch folder stays"


def test_a_model_that_was_deleted_and_made_anew_is_fetched_anew(there: Place):
    old = there.registry.fetch(there.version(content="old"))
    there.client.delete_registered_model(there.name)
    made = there.version(content="new")
    assert made.version == 1
    new = there.registry.fetch(made)
    assert new != old and (new / "weights").read_text() == "new"


def test_files_that_are_gone_or_half_there_are_an_error_and_leave_nothing(
    there: Place, monkeypatch: pytest.MonkeyPatch
):
    version = there.version()
    registry = there.registry
    with pytest.raises(TrackingError):
        registry.fetch(replace(version, source=f"{version.source}-gone"))

    def fail(self: Any, *_: Any) -> None:
        raise OSError("the line is cut")

    monkeypatch.setattr("mlflow.store.artifact.http_artifact_repo.HttpArtifactRepository._download_file", fail)
    with pytest.raises(TrackingError):
        registry.fetch(version)
    monkeypatch.undo()
    assert [path.name for path in (there.output_dir / "models" / there.name / "1").iterdir()] == []
    assert (registry.fetch(version) / "weights").read_text() == "weights"


def test_a_reason_of_any_kind_and_length_is_kept_as_far_as_a_tag_holds_it(place: Place):
    version = place.version()
    reason = 'it\'s "good" \x00\udcff\n größer 😀' + '"' * 9000
    move = place.registry.move(place.name, CHAMPION, version, expected=None, verdict="passed", reason=reason)
    assert place.registry.history(place.name) == [move]
    assert move.reason.startswith('it\'s "good" ?? größer 😀') and move.reason.endswith("...")
    (text,) = [text for key, text in place.client.get_registered_model(place.name).tags.items() if "audit" in key]
    assert 2000 < len(text) < 5000


def test_moving_by_hand_at_the_same_moment_is_reported_and_written_down(here: Place, monkeypatch: pytest.MonkeyPatch):
    from mlflow import MlflowClient

    one, two, three = here.version(), here.version(), here.version()
    here.promote(one)
    original = MlflowClient.set_registered_model_alias

    def and_somebody_else(self: Any, name: str, alias: str, version: str) -> None:
        original(self, name, alias, version)
        original(self, name, alias, str(three.version))

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", and_somebody_else)
    with pytest.raises(BusyError, match="by hand: it is version 3, not version 2"):
        here.promote(two)
    monkeypatch.undo()
    assert here.champion() == 3
    lost = here.registry.history(here.name)[-1]
    assert (lost.before, lost.after, lost.reason) == (1, 2, "lost a race: better")
    assert here.registry.rollback(here.name).after == 2


def test_a_store_that_fails_in_the_middle_of_a_move_does_not_stand_in_the_way_of_the_next_try(
    here: Place, monkeypatch: pytest.MonkeyPatch
):
    from mlflow import MlflowClient

    version, registry = here.version(), here.registry

    def fail(*_: Any) -> None:
        raise OSError("the line is cut")

    def move() -> Move | None:
        return registry.move(here.name, CHAMPION, version, expected=None, verdict="passed", reason="")

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "set_registered_model_alias", fail)
        with pytest.raises(TrackingError, match="the line is cut"):
            move()
    assert registry.history(here.name) == [], "the alias did not move"
    made = move()
    assert registry.history(here.name) == [made]


def entry(key: int, before: int | None, after: int, *, is_made: bool = True, action: audit.Action = "promote") -> Any:
    move = Move(key, "me@here", CHAMPION, before, after, action, "passed", "", False)
    return audit.Entry(f"audit.{key}", move, audit.Owner("h", "b", 1, "1", 0.0, "t"), is_made)


@pytest.mark.parametrize(
    ("entries", "now", "happened"),
    [
        ([entry(1, None, 1, is_made=False)], None, []),
        ([entry(1, None, 1, is_made=False)], 1, [1]),
        ([entry(1, None, 1), entry(2, 1, 2, is_made=False), entry(3, 1, 2)], 2, [1, 3]),
        ([entry(1, None, 1), entry(2, 1, 2, is_made=False), entry(3, 2, 3)], 3, [1, 2, 3]),
        ([entry(1, None, 1), entry(2, 1, 2, is_made=False), entry(3, 5, 3)], 3, [1, 2, 3]),
        ([entry(1, None, 1), entry(2, 1, 2)], 7, [1, 2]),
    ],
    ids=["not begun", "moved", "not begun, then tried again", "moved, then another", "in doubt", "moved by hand"],
)
def test_of_a_process_that_died_a_move_counts_if_the_alias_was_found_elsewhere(entries, now, happened):
    aliases = {} if now is None else {CHAMPION: now}
    assert [move.time for move in audit.moves(entries, aliases)] == happened


def test_the_trail_is_what_a_stack_of_promotions_and_rollbacks_would_be():
    steps = [entry(1, None, 1), entry(2, 1, 2), entry(3, 2, 1), entry(4, 1, 3), entry(5, 3, 1, action="rollback")]
    history = [step.move for step in steps]
    assert [audit.trail(history[:count], CHAMPION, None) for count in (1, 2, 3, 4, 5)] == [
        [1],
        [1, 2],
        [1, 2, 1],
        [1, 2, 1, 3],
        [1, 2, 1],
    ]
    assert audit.trail(history, CHAMPION, 9) == [1, 2, 1, 9]
    assert audit.trail(history, CHALLENGER, None) == []


def test_entries_are_in_order_where_the_clock_goes_back(here: Place, monkeypatch: pytest.MonkeyPatch):
    one, two = here.version(), here.version()
    here.promote(one)
    monkeypatch.setattr(audit.time, "time", lambda: 1.0)
    here.promote(two)
    assert [move.after for move in here.registry.history(here.name)] == [1, 2]


def test_what_is_under_way_elsewhere_is_not_overtaken_until_it_is_taken_for_dead(here: Place):
    version = here.version()
    registry = Registry(here.uri, here.output_dir, timeout_seconds=0.2)
    owner = audit.Owner("another-machine", "b", 1, "1", 0.0, "t")
    for seconds_ago, is_busy in ((0, True), (300, False)):
        wish = audit.wish(CHAMPION, 9, action="promote", verdict="passed", reason="", forced=False)
        key = f"audit.{int((time.time() - seconds_ago) * 1000)}-0"
        moving = audit.Entry(key, replace(wish, time=int((time.time() - seconds_ago) * 1000)), owner)
        here.client.set_registered_model_tag(here.name, key, moving.text)
        if is_busy:
            with pytest.raises(BusyError, match="nothing was changed"):
                registry.move(here.name, CHAMPION, version, expected=None, verdict="passed", reason="")
            here.client.delete_registered_model_tag(here.name, key)
    assert registry.move(here.name, CHAMPION, version, expected=None, verdict="passed", reason="") is not None
    assert here.champion() == 1
    assert len(read_state(here.client, here.name).entries) == 2 and len(registry.history(here.name)) == 1


def test_the_lock_may_be_taken_again_inside_by_whoever_holds_it(here: Place):
    version = here.version()
    with here.registry.lock(here.name), here.registry.lock(here.name):
        assert here.promote(version) is not None
    assert here.promote(version) is None


def test_who_waits_for_the_lock_is_told_so_and_gives_up_as_busy(here: Place, monkeypatch: pytest.MonkeyPatch, said):
    monkeypatch.setattr("mlops_hydra.tracking.registry.SOON_SECONDS", 0.05)
    monkeypatch.setattr("mlops_hydra.tracking.registry.LOCK_SECONDS", 0.1)
    taken, over = threading.Event(), threading.Event()

    def hold() -> None:
        with here.registry.lock(here.name):
            taken.set()
            over.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(30)
    try:
        with pytest.raises(BusyError) as error, here.registry.lock(here.name):
            pytest.fail("it was taken")
    finally:
        over.set()
        thread.join()
    assert error.value.exit_code == 7
    assert said() == [f"Waiting for another process that registers or promotes a version of {here.name}"]
    with here.registry.lock(here.name):
        pass


def test_a_folder_that_takes_no_lock_is_named(here: Place):
    (here.output_dir / "models").write_text("a file where the folder should be")
    with pytest.raises(TrackingError, match="cannot be locked"):
        here.version()


def test_nothing_is_printed(place: Place, capfd: pytest.CaptureFixture[str]):
    place.promote(place.version())
    place.promote(place.version())
    place.registry.rollback(place.name)
    place.registry.fetch(place.version())
    assert capfd.readouterr() == ("", "")
