import subprocess
from pathlib import Path

import pytest

from mlops_hydra.tracking import git
from mlops_hydra.tracking.git import GitState, git_state


def run_git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One commit on the branch `trunk`, nothing changed since."""
    folder = tmp_path / "repository"
    (folder / "package").mkdir(parents=True)
    run_git(folder, "init", "-q", "-b", "trunk")
    (folder / "package" / "model.py").write_text("width = 1\n")
    (folder / ".gitignore").write_text("ignored/\n")
    run_git(folder, "add", ".")
    run_git(folder, "commit", "-q", "-m", "first")
    return folder


def test_a_clean_repository_has_a_commit_a_branch_and_no_patch(repository: Path):
    assert git_state(repository) == GitState(run_git(repository, "rev-parse", "HEAD"), "trunk", False, None)


def test_a_detached_head_has_no_branch(repository: Path):
    run_git(repository, "checkout", "-q", "--detach")
    assert git_state(repository).branch is None


def test_outside_a_repository_nothing_is_known(tmp_path: Path):
    assert git_state(tmp_path) == GitState()


def test_before_the_first_commit_nothing_is_known(tmp_path: Path):
    run_git(tmp_path, "init", "-q")
    (tmp_path / "new.py").write_text("1\n")
    assert git_state(tmp_path) == GitState()


def test_without_git_nothing_is_known(repository: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    assert git_state(repository) == GitState()


def test_the_patch_applied_to_the_commit_gives_the_working_tree(repository: Path, tmp_path: Path):
    changed = {
        "package/model.py": "width = 2\nno end",
        "package/new file.py": "# größe\nx = 1\n",
        "package/empty.py": "",
        "package/no_end.py": "a\n\nb",
        "package/crlf.py": "a\r\nb\r\n",
    }
    for name, text in changed.items():
        (repository / name).write_bytes(text.encode())
    state = git_state(repository / "package")
    assert state.dirty and state.patch is not None
    clone = tmp_path / "clone"
    run_git(tmp_path, "clone", "-q", str(repository), str(clone))
    (tmp_path / "code.patch").write_text(state.patch, encoding="utf-8", newline="")
    run_git(clone, "apply", "--whitespace=nowarn", str(tmp_path / "code.patch"))
    assert {name: (clone / name).read_bytes().decode() for name in changed} == changed


def test_ignored_secret_binary_and_large_files_stay_out_of_the_patch(repository: Path):
    (repository / "ignored").mkdir()
    (repository / "ignored" / "a.py").write_text("never mentioned\n")
    (repository / ".env.local").write_text("TOKEN=hush\n")
    (repository / "weights.bin").write_bytes(b"\0\1\2")
    (repository / "table.csv").write_text("1\n" * git.MAX_FILE_BYTES)
    patch = git_state(repository).patch or ""
    assert "never mentioned" not in patch and "hush" not in patch
    left_out = [line for line in patch.splitlines() if line.startswith("# left out")]
    assert len(left_out) == 3
    assert all(any(name in line for line in left_out) for name in (".env.local", "weights.bin", "table.csv"))


def test_a_patch_that_is_too_long_is_cut_and_says_so(repository: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(git, "MAX_PATCH_LENGTH", 200)
    (repository / "package" / "model.py").write_text("width = 2\n" * 100)
    patch = git_state(repository).patch or ""
    assert patch.startswith("# left out: the end of this patch")
    assert len(patch.partition("\n")[2]) == 200


def test_git_variables_of_a_hook_do_not_lead_to_another_repository(repository: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert git_state(repository).branch == "trunk"


def test_looking_does_not_touch_the_repository(repository: Path):
    (repository / "package" / "model.py").write_text("width = 2\n")
    before = {path: path.stat().st_mtime_ns for path in (repository / ".git").rglob("*")}
    git_state(repository)
    assert {path: path.stat().st_mtime_ns for path in (repository / ".git").rglob("*")} == before
