"""The process that watches for drift: `python -m mlops_hydra.serving.processes.drift_watcher`.

Its libraries, 0.7 s of CPU, are imported at low priority. No pandas, no torch, no MLflow, no onnxruntime. What it does
is `drift/watcher.py`'s.
"""

import os
import time
from typing import Final, NoReturn

from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.serving.folder import ServiceFolder
from mlops_hydra.serving.processes.companion import accompany
from mlops_hydra.serving.request_log.without_pandas import refuse_pandas

_NICE: Final = 10  # who waits for a prediction comes first


def _run(config: ServeConfig) -> NoReturn:
    os.nice(_NICE)
    refuse_pandas()
    from mlops_hydra.serving.drift.watcher import DriftWatcher

    assert config.drift.every_seconds is not None, "else it is not started"
    watcher = DriftWatcher(config, ServiceFolder.for_config(config))
    while True:
        watcher.step()
        time.sleep(config.drift.every_seconds)


if __name__ == "__main__":
    accompany(_run)
