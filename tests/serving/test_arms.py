"""Who is served by which model, and how one takes the place of another."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.serving.arms import Watch
from mlops_hydra.serving.counts import Counts
from mlops_hydra.serving.folder import ServiceFolder
from mlops_hydra.serving.targets import Refused, Target, Targets, read_targets, write_targets

MakeConfig = Callable[..., ServeConfig]


class Place:
    """A service's folder, and what watches it."""

    def __init__(self, config: ServeConfig, bundles: Callable[[int], Path]) -> None:
        self.folder = ServiceFolder.for_config(config)
        self.bundles = bundles
        self.watch = Watch(config, Counts())

    def look(self, refused: dict[str, Refused] | None = None, **seeds: int | str) -> None:
        """Have arms serve the bundles of these seeds (or of a folder), and look."""
        arms = {
            arm: Target(f"{seed}", str(self.bundles(seed) if isinstance(seed, int) else seed))
            for arm, seed in seeds.items()
        }
        write_targets(self.folder.targets, Targets(arms, refused or {}))
        asyncio.run(self.watch.look())

    def versions(self) -> dict[str, str]:
        return {arm: model.version for arm, model in self.watch.arms.models.items()}

    def chosen(self, user_id: str | None, request_id: str = "r") -> tuple[str, str, str] | None:
        choice = self.watch.arms.choose(user_id, request_id)
        return choice and (choice.arm, choice.assigned_by, choice.model.version)


@pytest.fixture
def place(serve_config: MakeConfig, trained_bundle: Callable[[int], Path]) -> Callable[..., Place]:
    return lambda *overrides: Place(serve_config(*overrides), trained_bundle)


def test_nobody_is_served_before_control_has_a_model(place: Callable[..., Place]) -> None:
    made = place()
    assert made.chosen("u") is None
    made.look(treatment=1)
    assert made.chosen("u") is None


def test_an_arm_without_a_model_sends_its_users_to_control_and_says_so(place: Callable[..., Place]) -> None:
    made = place("variants.control.weight=0", "variants.treatment.weight=1")
    made.look(control=0)
    assert made.chosen("u") == ("control", "no_model", "0")
    made.look(control=0, treatment=1)
    assert made.chosen("u") == ("treatment", "user_id", "1")
    made.look(control=0)
    assert made.chosen("u") == ("control", "no_model", "0")


def test_without_a_user_the_request_decides(place: Callable[..., Place]) -> None:
    made = place("variants.control.weight=50", "variants.treatment.weight=50")
    made.look(control=0, treatment=1)
    chosen = [made.chosen(None, f"{i}") for i in range(40)]
    assert {choice[:2] for choice in chosen if choice} == {("control", "request_id"), ("treatment", "request_id")}
    assert made.chosen("7") == (*(made.chosen(None, "7") or ("", "", ""))[:1], "user_id", made.chosen("7")[2])  # type: ignore[index]


def test_testers_are_served_by_their_arm(place: Callable[..., Place]) -> None:
    made = place("variants.treatment.weight=0", "+testers.ann=treatment")
    made.look(control=0, treatment=1)
    assert made.chosen("ann") == ("treatment", "tester", "1")
    assert made.chosen("bob") == ("control", "user_id", "0")


def test_the_kill_switch_sends_all_to_control_while_its_file_is_there(place: Callable[..., Place]) -> None:
    made = place("variants.control.weight=0", "+testers.ann=treatment")
    made.look(control=0, treatment=1)
    made.folder.kill_switch.touch()
    asyncio.run(made.watch.look())
    assert {made.chosen(user) for user in ("ann", "bob", None)} == {("control", "kill_switch", "0")}
    made.folder.kill_switch.unlink()
    asyncio.run(made.watch.look())
    assert made.chosen("bob") == ("treatment", "user_id", "1")


def test_a_kill_switch_of_the_configuration_stays(place: Callable[..., Place]) -> None:
    made = place("kill_switch=true", "variants.control.weight=0")
    made.look(control=0, treatment=1)
    assert made.chosen("bob") == ("control", "kill_switch", "0")


def test_only_what_changed_is_loaded_again(place: Callable[..., Place]) -> None:
    made = place()
    made.look(control=0, treatment=1)
    before = dict(made.watch.arms.models)
    made.look(control=0, treatment=2)
    assert made.watch.arms.models["control"] is before["control"]
    assert made.versions() == {"control": "0", "treatment": "2"}


def test_arms_that_a_request_holds_do_not_change(place: Callable[..., Place]) -> None:
    made = place()
    made.look(control=0)
    held = made.watch.arms
    made.look(control=1)
    assert (held.models["control"].version, made.versions()["control"]) == ("0", "1")


def test_what_cannot_be_loaded_leaves_the_old_one_and_says_why(place: Callable[..., Place], tmp_path: Path) -> None:
    made = place()
    made.look(control=0)
    broken = tmp_path / "broken"
    broken.mkdir()
    made.look(control=str(broken))
    assert made.versions() == {"control": "0"}
    assert "could not load" in made.watch.refused["control"].reason
    made.look(control=1)
    assert (made.versions(), made.watch.refused) == ({"control": "1"}, {})


def test_what_the_follower_refused_is_known(place: Callable[..., Place]) -> None:
    made = place()
    made.look({"control": Refused("9", "its schema is another one")}, control=0)
    assert made.watch.refused["control"].version == "9"


def test_arms_that_the_configuration_lacks_are_not_served(place: Callable[..., Place]) -> None:
    made = place("~variants.treatment")
    made.look(control=0, treatment=1)
    assert made.versions() == {"control": "0"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"arms": 3}', b'{"arms": {"a": {}}}', b"\xff", b"null"])
def test_targets_that_are_none_change_nothing(place: Callable[..., Place], content: bytes) -> None:
    made = place()
    made.look(control=0)
    made.folder.targets.write_bytes(content)
    assert read_targets(made.folder.targets) is None
    asyncio.run(made.watch.look())
    assert made.versions() == {"control": "0"}


def test_targets_come_back_as_they_were_written(tmp_path: Path) -> None:
    written = Targets({"control": Target("3", "there")}, {"treatment": Refused("4", "why")}, "is down", 12.5)
    write_targets(tmp_path / "a" / "targets.json", written)
    assert read_targets(tmp_path / "a" / "targets.json") == written
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["targets.json"]


def test_requests_under_way_keep_their_model_through_a_swap(place: Callable[..., Place]) -> None:
    """With the batcher between: what was submitted before the swap is answered by the model it was submitted to."""
    from mlops_hydra.serving.batching import Batcher
    from tests.serving.conftest import CREDIT_ROW

    made = place()
    made.look(control=0)
    row = tuple(CREDIT_ROW.values())

    async def story() -> list[Any]:
        batcher = Batcher(8, 100, 5.0, on_batch=lambda *_: None)
        old = made.watch.arms.choose("u", "r")
        assert old is not None
        waiting = batcher.submit(old.model, [row])
        write_targets(made.folder.targets, Targets({"control": Target("1", str(made.bundles(1)))}))
        await made.watch.look()
        new = made.watch.arms.choose("u", "r")
        assert new is not None
        return [await waiting, await batcher.submit(new.model, [row])]

    before, after = asyncio.run(story())
    assert before.outputs.tolist() != after.outputs.tolist()
