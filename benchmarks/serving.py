"""`mlops-hydra serve` with everything on, against what is usually written, under wrk. Linux; needs wrk, and two cores.

    python benchmarks/serving.py
    python benchmarks/serving.py --rounds 5 --only ours,naive

A 64-256-128-10 network. All servers run at once on one core, each stopped (SIGSTOP) while another is measured from the
same core; order is shuffled, and ratios are to the naive one of the same round. Ours validates, routes 90/10 between
two models, counts, and logs every row; what its recorder takes, which makes Parquet of that on another core at low
priority, is told beside.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rounds import Ratio, print_target

HERE = Path(__file__).resolve().parent
PYTHON = [sys.executable, "-m"]
LUA = """
local file = io.open(os.getenv("BODY"), "rb"); wrk.body = file:read("*a"); file:close()
wrk.method = "POST"; wrk.headers["Content-Type"] = "application/json"
done = function(summary, latency)
  io.write(string.format('JSON{"requests":%d,"us":%d,"p50":%d,"p99":%d,"refused":%d,"broken":%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""
Cell = tuple[str, int]
CELLS: tuple[Cell, ...] = (("one", 16), ("one", 1), ("batch", 1), ("batch", 16))


@dataclass
class Server:
    """What is measured: a command, and where it takes what."""

    name: str
    command: list[str]
    port: int
    paths: dict[str, str]
    bodies: dict[str, str]
    variables: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None

    def start(self, place: Path, cpu: int) -> None:
        """And wait for a first answer."""
        env = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", **self.variables}
        with (place / f"{self.name}.log").open("wb") as log:
            command = ["taskset", "-c", str(cpu), *self.command]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=place, start_new_session=True)
        deadline = time.monotonic() + 120
        while not self.answers(place):
            if time.monotonic() > deadline or self.process.poll() is not None:
                sys.exit(f"{self.name} did not start:\n{(place / f'{self.name}.log').read_text()[-2000:]}")
            time.sleep(0.01)

    def answers(self, place: Path) -> bool:
        """Whether it predicts."""
        headers = {"Content-Type": "application/json"}
        body = (place / self.bodies["one"]).read_bytes()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{self.paths['one']}", body, headers)
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=30) as answer:
            return bool(answer.status == 200)
        return False

    def family(self) -> list[int]:
        """Process ids of it and its descendants."""
        assert self.process is not None
        children: dict[int, list[int]] = {}
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                with contextlib.suppress(OSError):
                    parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                    children.setdefault(parent, []).append(int(path.name))
        found, todo = [], [self.process.pid]
        while todo:
            found.append(todo.pop())
            todo += children.get(found[-1], [])
        return found

    def move(self, cpu: int) -> None:
        """Processes beside the one that predicts, to another core."""
        for pid in self.family():
            if "serving.processes" in command_of(pid) or "serving.request_log" in command_of(pid):
                os.sched_setaffinity(pid, {cpu})

    def signal(self, number: signal.Signals) -> None:
        """To all of its processes."""
        for pid in self.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        """In order; what is left after a while is killed."""
        if self.process is None:
            return
        self.signal(signal.SIGCONT)
        family = self.family()
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    """Nobody listens there now."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        port: int = made.getsockname()[1]
    return port


def trained(place: Path) -> Path:
    """The folder of a packaged model."""
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(4000, 64)) * rng.uniform(0.5, 5, 64) + rng.normal(size=64)).round(4)
    labels = ((rows - rows.mean(0)) / rows.std(0) @ rng.normal(size=(64, 10))).argmax(1)
    names = [f"x{i:02}" for i in range(64)]
    pd.DataFrame(rows, columns=names).assign(label=labels).to_csv(place / "rows.csv", index=False)
    overrides = ["data=csv", "data.path=rows.csv", "data.target=label", "model=mlp", "model.hidden=[256,128]"]
    done = subprocess.run(
        [*PYTHON, "mlops_hydra", *overrides, "name=bench", "trainer.epochs=3", "gates=none", "progress=off"],
        cwd=place, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = list(place.glob("outputs/runs/*/*/model"))
    if not found:
        sys.exit(f"training failed:\n{done.stdout}\n{done.stderr}")
    save_for_mlflow(place)
    write_bodies(place, rows[:32].tolist(), names)
    (place / "post.lua").write_text(LUA)
    return found[0]


def save_for_mlflow(place: Path) -> None:
    """A network of the same size in MLflow's default format for torch, which takes plain lists."""
    import mlflow.pytorch
    import torch

    layers = [torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 128), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers, torch.nn.Linear(128, 10), torch.nn.Softmax(-1)).eval()
    rows = torch.zeros(4, 64).numpy()
    mlflow.pytorch.save_model(net, place / "mlflow_model", input_example=rows, pip_requirements=[])


def write_bodies(place: Path, rows: list[list[float]], names: Sequence[str]) -> None:
    """What is sent: one row, 32 by place, 32 by name."""
    named = [dict(zip(names, row, strict=True)) for row in rows]
    bodies: dict[str, Any] = {
        "one": {"features": rows[0]},
        "batch": {"rows": rows},
        "named": {"rows": named},
        "mlflow_one": {"inputs": rows[:1]},
        "mlflow_batch": {"inputs": rows},
    }
    for name, body in bodies.items():
        (place / f"{name}.json").write_text(json.dumps(body))


def servers(model: Path, place: Path) -> list[Server]:
    """Ours first; the naive one is what all are compared with."""
    bundle = model / "bundle"
    arms = [f"variants.{arm}.bundle={bundle}" for arm in ("control", "treatment")]
    uvicorn = ["uvicorn", "--app-dir", str(HERE), "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    plain = {"one": "/predict", "batch": "/predict"}
    made = []
    for name, batch in (("ours", "batch"), ("ours, by name", "named")):
        port = free_port()
        outputs = f"output_dir={place / name.replace(', ', '_').replace(' ', '_')}"
        command = [*PYTHON, "mlops_hydra", "serve", "name=bench", *arms, f"port={port}", outputs]
        made.append(Server(name, command, port, plain, {"one": "one.json", "batch": f"{batch}.json"}))
    peers = {"naive": "naive", "FastAPI + onnxruntime": "with_onnxruntime", "bare ASGI + onnxruntime": "bare"}
    for name, app in peers.items():
        port = free_port()
        command = [*PYTHON, *uvicorn, "--port", str(port), f"serving_peers:{app}"]
        paths = {"one": "/predict", "batch": "/predict_batch"}
        bodies = {"one": "one.json", "batch": "batch.json"}
        made.append(Server(name, command, port, paths, bodies, {"MODEL": str(bundle)}))
    port = free_port()
    command = [
        *PYTHON,
        "mlflow",
        "models",
        "serve",
        "-m",
        "mlflow_model",
        "--env-manager",
        "local",
        "--port",
        str(port),
    ]
    paths = {"one": "/invocations", "batch": "/invocations"}
    bodies = {"one": "mlflow_one.json", "batch": "mlflow_batch.json"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it looks for uvicorn there
    made.append(Server("mlflow models serve", [*command, "--workers", "1"], port, paths, bodies, {"PATH": path}))
    return made


def loaded(server: Server, cell: Cell, place: Path, cpu: int, seconds: int) -> dict[str, float]:
    """What wrk says of some seconds of one cell."""
    what, connections = cell
    command = ["taskset", "-c", str(cpu), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-T10s", "-s", "post.lua"]
    env = {**os.environ, "BODY": server.bodies[what]}
    url = f"http://127.0.0.1:{server.port}{server.paths[what]}"
    done = subprocess.run([*command, url], cwd=place, env=env, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.partition("JSON")[2])
    if found["refused"] or found["broken"]:
        sys.exit(f"{server.name}: {found['refused']} answers were no 200, {found['broken']} did not come")
    return {
        "per_second": found["requests"] / found["us"] * 1e6,
        "p50_ms": found["p50"] / 1e3,
        "p99_ms": found["p99"] / 1e3,
    }


def measured(made: Sequence[Server], place: Path, arguments: argparse.Namespace) -> dict[tuple[str, Cell], list[Any]]:
    """Each cell of each server, once a round; the naive one is measured before every other."""
    results: dict[tuple[str, Cell], list[Any]] = {}
    rng = random.Random(0)
    naive = next(server for server in made if server.name == "naive")
    others = [server for server in made if server is not naive]
    for number in range(arguments.rounds + 1):  # the first is thrown away: it warms
        rng.shuffle(others)
        for other in others:
            base = {}
            for server in (naive, other):
                server.signal(signal.SIGCONT)
                for cell in CELLS:
                    found = loaded(server, cell, place, arguments.cpu, arguments.seconds if number else 1)
                    base[server.name, cell] = found["per_second"]
                    found["ratio"] = found["per_second"] / base["naive", cell]
                    if number:
                        results.setdefault((server.name, cell), []).append(found)
                server.signal(signal.SIGSTOP)
    return results


def resident_mb(pid: int) -> float:
    """Memory of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def first_answers(server: Server, place: Path, rounds: int) -> list[float]:
    """Seconds from the command to its first prediction, from a bundle that is there; on all cores."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        fresh = Server(server.name, server.command, server.port, server.paths, server.bodies)
        fresh.process = subprocess.Popen(
            server.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=place, start_new_session=True
        )
        while not fresh.answers(place):
            time.sleep(0.005)
        seconds.append(time.perf_counter() - start)
        fresh.stop()
    return seconds


@contextlib.contextmanager
def running(made: Sequence[Server], place: Path, cpu: int) -> Iterator[None]:
    """All of them, stopped until they are measured."""
    try:
        for server in made:
            server.start(place, cpu)
            time.sleep(1 if server.name.startswith("ours") else 0)  # until its recorder is there
            server.move(next(iter(os.sched_getaffinity(0) - {cpu})))
            server.signal(signal.SIGSTOP)
        yield
    finally:
        for server in made:
            server.stop()


def main() -> None:
    """Read the arguments and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--cpu", type=int, default=1, help="the core of all servers, and of wrk")
    parser.add_argument("--only", help="names, separated by commas; the naive one is needed")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed; Debian's package has this name")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        made = servers(trained(place), place)
        if arguments.only:
            made = [server for server in made if server.name in arguments.only.split(",")]
        ours = next((server for server in made if server.name == "ours"), None)
        starts = first_answers(ours, place, 2 * arguments.rounds) if ours else []
        with running(made, place, arguments.cpu):
            results = measured(made, place, arguments)
            memory = [resident_mb(pid) for pid in ours.family() if "serving.worker" in command_of(pid)] if ours else []
    report(results, [server.name for server in made])
    if ours and not arguments.only:
        targets(results, starts, memory)


def command_of(pid: int) -> str:
    """Its command line."""
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def report(results: dict[tuple[str, Cell], list[Any]], names: Sequence[str]) -> None:
    """A table of medians."""
    print(f"{'':24}{'cell':>10}{'requests/s':>12}{'/ naive':>26}{'p50 ms':>8}{'p99 ms':>8}")
    for cell in CELLS:
        for name in names:
            found = results[name, cell]
            middle = {key: statistics.median(each[key] for each in found) for key in found[0]}
            ratios = sorted(each["ratio"] for each in found)
            spread = f"{middle['ratio']:.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
            what = f"{cell[0]} x{cell[1]}"
            numbers = f"{middle['per_second']:>12,.0f}{spread:>26}{middle['p50_ms']:>8.2f}{middle['p99_ms']:>8.2f}"
            print(f"{name:24}{what:>10}{numbers}")


def targets(results: dict[tuple[str, Cell], list[Any]], starts: Sequence[float], memory: Sequence[float]) -> None:
    """What was promised."""

    def ratio(cell: Cell, other: str | None = None) -> Ratio:
        mine = [each["ratio"] for each in results["ours", cell]]
        theirs = [each["ratio"] for each in results[other, cell]] if other else [1.0] * len(mine)
        return Ratio.of(mine, theirs)

    def absolute(values: Sequence[float]) -> Ratio:
        return Ratio.of(values, [1.0] * len(values))

    single: Cell = ("one", 16)
    print_target("one row x16: ours / naive", ratio(single), ">=", 6)
    print_target("one row x16: ours / FastAPI + onnxruntime", ratio(single, "FastAPI + onnxruntime"), ">=", 2)
    print_target("one row x16: ours / mlflow models serve", ratio(single, "mlflow models serve"), ">=", 13)
    print_target("32 rows x1: ours / naive", ratio(("batch", 1)), ">=", 4)
    print_target("one row x16: p99, ms", absolute([each["p99_ms"] for each in results["ours", single]]), "<=", 10)
    print_target("memory of a worker, MB", absolute(memory), "<=", 120)
    print_target("first answer after the command, s", absolute(starts), "<=", 1)


if __name__ == "__main__":
    main()
