"""pyarrow imports pandas, if there is one, to ask whether a list is a Series: 0.2 s and 42 MB.

For processes of their own that need neither.
"""

import sys
from typing import Any


class _WithoutPandas:
    @staticmethod
    def find_spec(name: str, *_: Any) -> None:
        """Refuse it; say nothing of others."""
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name=name)


def refuse_pandas() -> None:
    """From now on, in this process."""
    sys.meta_path.insert(0, _WithoutPandas)
