"""Columns that are logged as keyed hashes: equal values stay equal, and what they were is known to nobody.

Standard library only. The key lies beside the log; who has both can try values until one fits.
"""

import hashlib
import os
import secrets
from pathlib import Path
from typing import Final

from mlops_hydra.errors import DataError, Fault

_KEY_BYTES: Final = 32


def read_or_create_key(path: Path) -> bytes:
    """The 32 bytes of a key that only this user can read; all processes get the same, also where several make it.

    Raises:
        DataError: something else is there.
        OSError: it cannot be read or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        if not path.exists():
            with open(scratch, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            os.link(scratch, path)
    except FileExistsError:
        pass  # another process was faster
    finally:
        scratch.unlink(missing_ok=True)
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise DataError(Fault(str(path), f"must hold the {_KEY_BYTES} bytes of a key", f"{len(key)} bytes"))
    return key


def hashed(value: str, key: bytes) -> str:
    """32 hex digits: the same for the same value and key, and nothing to those who lack the key."""
    return hashlib.blake2b(value.encode("utf-8", "surrogatepass"), key=key, digest_size=16).hexdigest()
