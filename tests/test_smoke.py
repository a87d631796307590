"""The smoke scripts, one a day: each prints one line and succeeds."""
import os, subprocess, sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1]/"scripts/smoke").glob("day*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_smoke(script, tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[2])}
    r = subprocess.run([sys.executable, script], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert r.returncode == 0, r.stderr[-3000:]
    assert r.stdout.startswith(f"{script.stem}: ") and r.stdout.count("\n") == 1 and not list(tmp_path.iterdir())


def test_one_for_each_day():
    assert [p.stem for p in SCRIPTS] == [f"day{d:02d}" for d in range(8)]
