"""Seeds by name. Light: a study draws its points where torch is not loaded."""

import hashlib


def derive_seed(seed: int, *names: object) -> int:
    """A seed in [0, 2**63) for one consumer: `derive_seed(0, "order", epoch)`."""
    text = ":".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
