import logging
import os
import sqlite3
from pathlib import Path

import pytest

from mlops_hydra.errors import ConfigError
from mlops_hydra.tracking.store import (
    URI_VARIABLE,
    anchored,
    artifact_location,
    bounded_requests,
    create_store,
    open_client,
    redacted,
    tracking_uri,
)

SERVER = "http://example.org:5000"


def test_without_anything_given_the_local_store_is_used(make_config):
    config = make_config()
    assert tracking_uri(config) == (config.tracking.uri, "tracking=local")


def test_the_environment_names_the_store_unless_tracking_is_given(make_config, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(URI_VARIABLE, SERVER)
    assert tracking_uri(make_config()) == (SERVER, URI_VARIABLE)
    assert tracking_uri(make_config(("tracking_note=1",)))[0] == SERVER


@pytest.mark.parametrize(
    ("overrides", "choices", "where"),
    [
        (("tracking=local",), (("tracking", "local"),), "tracking=local"),
        (("seed=1", "tracking.uri=sqlite:///x.db"), (), "tracking.uri"),
        (("++tracking.uri=sqlite:///x.db",), (), "tracking.uri"),
        ((), (("tracking", "server"),), "tracking=server"),
    ],
)
def test_a_given_tracking_wins_over_the_environment(make_config, monkeypatch, overrides, choices, where: str):
    monkeypatch.setenv(URI_VARIABLE, SERVER)
    config = make_config(overrides, choices)
    assert tracking_uri(config) == (config.tracking.uri, where)


def test_an_empty_variable_names_nothing(make_config, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(URI_VARIABLE, "")
    assert tracking_uri(make_config())[1] == "tracking=local"


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "sqlite://", "sqlite:///:memory:", "ftp://x"])
def test_a_store_that_mlflow_lacks_is_refused_where_it_was_named(make_config, monkeypatch, uri: str):
    with pytest.raises(ConfigError, match=r"tracking\.uri: must be"):
        tracking_uri(make_config(tracking={"uri": uri, "timeout_seconds": 1.0}))
    monkeypatch.setenv(URI_VARIABLE, uri)
    with pytest.raises(ConfigError, match=f"{URI_VARIABLE}: must be"):
        tracking_uri(make_config())


def test_a_relative_sqlite_path_is_bound_to_the_directory_at_the_start(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert anchored("sqlite:///s?timeout=3") == f"sqlite:///{tmp_path}/s?timeout=3"
    assert anchored(f"sqlite:///{tmp_path}/s") == f"sqlite:///{tmp_path}/s"
    assert anchored(SERVER) == SERVER


def test_passwords_are_never_shown():
    assert redacted("tracking.uri=http://me:secret@host:5000/x a@b") == "tracking.uri=http://***@host:5000/x a@b"


def test_a_server_decides_where_its_artifacts_go(tmp_path: Path):
    assert artifact_location(SERVER, tmp_path) is None
    assert artifact_location("postgresql://host/db", tmp_path) == (tmp_path / "artifacts").as_uri()


def test_the_bounds_on_requests_hold_inside_and_what_was_set_before_comes_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    before = dict(os.environ)
    with bounded_requests(2.5):
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "3"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert dict(os.environ) == before


def test_a_store_is_complete_when_it_appears_and_is_made_only_once(empty_store: Path, caplog):
    with sqlite3.connect(empty_store) as connection:
        tables = {name for (name,) in connection.execute("select name from sqlite_master")}
    connection.close()
    assert {"experiments", "runs", "metrics", "params", "tags"} <= tables
    before = empty_store.stat()
    with caplog.at_level(logging.INFO):
        create_store(f"sqlite:///{empty_store}")
    assert empty_store.stat() == before and not caplog.records
    assert sorted(path.name for path in empty_store.parent.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


def test_opening_a_store_prints_nothing_and_sends_no_telemetry(local_store: str, capfd: pytest.CaptureFixture[str]):
    open_client(local_store).search_experiments()
    assert capfd.readouterr() == ("", "")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_requests_of_two_threads_stay_bounded_until_both_are_done(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    first, second = bounded_requests(2), bounded_requests(3)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "3"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    second.__exit__(None, None, None)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "120"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ
