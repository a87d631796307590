"""`make test`: the four layers in order, with the time that each took; stops at the first that fails."""
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
COVERAGE_AT_LEAST = 80      # percent of the package, by pytest and papermill together


def layer(name: str, command: list) -> None:
    "Run one command; its output goes straight to the terminal."
    print(f"\n== {name}", flush=True)
    start = time.time()
    code = subprocess.run([str(c) for c in command], cwd=ROOT).returncode
    print(f"== {name}: {'ok' if code == 0 else f'FAILED ({code})'} in {time.time() - start:.0f} s", flush=True)
    if code:
        sys.exit(code)


def main() -> None:
    # one thread a process: tests run side by side on few cores, and small tensors gain nothing from more
    os.environ.update(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT), PYTHONWARNINGS="ignore", JUPYTER_PLATFORM_DIRS="1")
    coverage = [BIN / "coverage"]
    start = time.time()
    subprocess.run([*map(str, coverage), "erase"], cwd=ROOT)
    workers = str(min(4, os.cpu_count() or 2))
    layer("1 sync gate", [sys.executable, "scripts/dev/sync_gate.py"])
    layer("2 nbdev_test", [BIN / "nbdev_test", "--n_workers", workers, "--timing"])
    layer("3 papermill", [*coverage, "run", "scripts/dev/run_notebooks.py"])
    # whole files to a worker: what a file prepares is prepared once, and its tests meet in their order
    layer("4 pytest", [*coverage, "run", "-m", "pytest", "-q", "-n", workers, "--dist", "loadfile", "--no-loadscope-reorder", "--durations=10"])
    subprocess.run([*map(str, coverage), "combine", "-q"], cwd=ROOT)
    layer("coverage", [*coverage, "report", f"--fail-under={COVERAGE_AT_LEAST}"])
    print(f"\nall four layers passed in {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
