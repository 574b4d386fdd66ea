"""What a run leaves in its folder, and what it never does."""

from pathlib import Path

from mlops_hydra import compose, run


def test_no_file_of_a_run_holds_the_credentials_of_its_store(workplace: Path) -> None:
    """A whole run with a server that is down, about 4 s."""
    uri = "tracking.uri='http://me:pass@word-9f3@127.0.0.1:9'"
    result = run(
        compose(["model=linear", "trainer=debug", "progress=off", "tracking=server", uri, "tracking.timeout_seconds=2"])
    )
    assert result.store == "http://***@127.0.0.1:9"
    files = [path for path in workplace.rglob("*") if path.is_file()]
    assert {"spool.jsonl", "config.yaml", "run.log", "result.json", "delivery.json"} <= {path.name for path in files}
    assert [path for path in files if b"word-9f3" in path.read_bytes()] == []
