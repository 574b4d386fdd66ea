"""The commit a run was made from, and what had been changed since.

Recorded, never hashed (see `lineage.py`), and only read: git is told to take no locks. Where there is no git, no
repository or no commit yet, nothing is known, and that is no error.
"""

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_PATCH_LENGTH: Final = 1_000_000  # characters
MAX_FILE_BYTES: Final = 100_000  # an untracked file larger than this is data, not code
TIMEOUT_SECONDS: Final = 10
_SECRETS: Final = re.compile(r"(^|/)\.env[^/]*$|\.(pem|key)$")  # files that never enter a patch


@dataclass(frozen=True, slots=True)
class GitState:
    """`branch` is None on a detached head; `patch` is None when nothing was changed."""

    commit: str | None = None
    branch: str | None = None
    dirty: bool | None = None
    patch: str | None = None


def git_state(folder: Path) -> GitState:
    """The state of the repository that holds `folder`.

    The patch applies to the commit with `git apply`. It holds small untracked text files too, and begins with a
    line for everything that it had to leave out. Bytes that are not UTF-8 stand as surrogate escapes.
    """
    status = _git(folder, "status", "--porcelain=v2", "--branch", "--untracked-files=all", "--no-renames", "-z")
    if status is None:
        return GitState()
    lines = status.split("\0")
    head = {line.split(" ", 2)[1]: line.split(" ", 2)[2] for line in lines if line.startswith("# ")}
    if head["branch.oid"] == "(initial)":
        return GitState()
    changes = [line for line in lines if line and not line.startswith("# ")]
    untracked = [line.removeprefix("? ") for line in changes if line.startswith("? ")]
    branch = None if head["branch.head"] == "(detached)" else head["branch.head"]
    patch = _patch(folder, untracked) if changes else None
    return GitState(head["branch.oid"], branch, bool(changes), patch)


def _git(folder: Path, *arguments: str) -> str | None:
    # a hook's GIT_DIR and GIT_INDEX_FILE would speak of another repository than the one of `folder`
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env=env | {"GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "surrogateescape")


def _patch(folder: Path, untracked: Sequence[str]) -> str:
    root = Path((_git(folder, "rev-parse", "--show-toplevel") or str(folder)).removesuffix("\n"))
    tracked = _git(root, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames")
    left_out = []
    if tracked is None:
        left_out.append("changes of tracked files: git diff failed or took too long")
    elif len(tracked) > MAX_PATCH_LENGTH:
        left_out.append(f"the end of this patch: {len(tracked)} characters, cut at {MAX_PATCH_LENGTH}")
    parts = [(tracked or "")[:MAX_PATCH_LENGTH]]
    room = MAX_PATCH_LENGTH - len(parts[0])
    for name in untracked:
        added = _as_added(root, name)
        if added is None or len(added) > room:
            left_out.append(f"the untracked file {name!r}: secret, large or no text")
            continue
        parts.append(added)
        room -= len(added)
    return "".join([*(f"# left out: {what}\n" for what in left_out), *parts])


def _as_added(root: Path, name: str) -> str | None:
    """The untracked file `name` as git would show its addition; None where it does not belong into a patch."""
    path = root / name
    needs_quotes = not name.isprintable() or '"' in name or "\\" in name
    if needs_quotes or path.is_symlink() or not path.is_file() or _SECRETS.search(name):
        return None
    if path.stat().st_size > MAX_FILE_BYTES:
        return None
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return None if "\0" in text else _addition(name, text, executable=os.access(path, os.X_OK))


def _addition(name: str, text: str, *, executable: bool) -> str:
    header = f"diff --git a/{name} b/{name}\nnew file mode {'100755' if executable else '100644'}\n"
    if not text:
        return header
    lines = text.removesuffix("\n").split("\n")
    tab = "\t" if " " in name else ""  # how git marks the end of a name with spaces
    body = "".join(f"+{line}\n" for line in lines)
    end = "" if text.endswith("\n") else "\\ No newline at end of file\n"
    return f"{header}--- /dev/null\n+++ b/{name}{tab}\n@@ -0,0 +1,{len(lines)} @@\n{body}{end}"
