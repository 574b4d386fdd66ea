"""Whether there is a file to read, with an answer that helps when there is none."""

from pathlib import Path

from mlops_hydra.errors import DataError, Fault, nearest


def existing_file(path: str | None) -> Path:
    """The file at `path`.

    Raises:
        DataError: there is none.
    """
    if path is None:
        raise DataError(Fault("data.path", "is needed: the file to read"))
    file = Path(path).expanduser()
    if file.is_dir():
        names = ", ".join(sorted(_names(file))[:10]) or "none"
        raise DataError(Fault("data.path", f"is a folder; name a file in it ({names})", path))
    if not file.exists():
        folder = file.parent if file.parent.is_dir() else None
        rule = "no such file" if folder else f"no such folder: {file.parent}"
        raise DataError(Fault("data.path", rule, path, nearest(file.name, _names(folder)) if folder else ()))
    if file.stat().st_size == 0:
        raise DataError(Fault(str(file), "is empty: a line of column names and rows are needed"))
    return file


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.is_file()]
