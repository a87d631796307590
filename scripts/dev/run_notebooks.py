"""Layer 3: run every notebook top to bottom in a fresh kernel with papermill, parameters injected.

Every notebook must have one cell tagged `parameters`, and each name injected must be assigned there (papermill itself only warns).
Runs happen in a temporary folder, so a notebook that writes beside itself is noticed: the tree must be unchanged afterwards.
"""
import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from warm_kernels import warm_kernels

ROOT = Path(__file__).resolve().parents[2]


def parameters(notebook: Path) -> dict:
    "Names and literal values that the cell tagged `parameters` assigns."
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise SystemExit(f"{notebook.relative_to(ROOT)}: {len(tagged)} cells tagged 'parameters', expected one")
    found = {}
    for node in ast.parse("".join(tagged[0]["source"])).body:
        if not isinstance(node, ast.Assign):
            continue
        target, value = node.targets[0], node.value
        pairs = zip(target.elts, value.elts) if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) else [(target, value)]
        for name, said in pairs:
            try:
                found[name.id] = ast.literal_eval(said)
            except ValueError:
                pass                       # an expression: left as it is, only literals are injected
    if not found:
        raise SystemExit(f"{notebook.relative_to(ROOT)}: its parameters cell assigns no literal")
    return found


def run(notebook: Path, out: Path, wanted: dict) -> float:
    "Seconds that papermill took; raises when a cell fails or an injected name is unknown."
    import papermill
    known = parameters(notebook)
    if unknown := set(wanted) - set(known):
        raise SystemExit(f"{notebook.relative_to(ROOT)}: parameters {sorted(unknown)} are not in its parameters cell ({sorted(known)})")
    start = time.time()
    papermill.execute_notebook(str(notebook), str(out), parameters={**known, **wanted}, cwd=str(out.parent), progress_bar=False,
                               log_output=False, kernel_name="python3")
    return time.time() - start


def attempt(notebook: Path, wanted: dict) -> tuple:
    "(seconds, None) or (0, what went wrong): every notebook is reported, not only the first that fails."
    with tempfile.TemporaryDirectory() as tmp:
        try:
            return run(notebook, Path(tmp) / notebook.name, wanted), None
        except (Exception, SystemExit) as error:
            return 0.0, str(error)


def git_state() -> str:
    "What git sees as changed, so that a notebook that writes into the tree is caught."
    done = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="run only notebooks whose path contains one of these words")
    parser.add_argument("-p", "--param", action="append", default=[], metavar="NAME=VALUE", help="inject a parameter into each")
    parser.add_argument("-w", "--workers", type=int, default=min(2, os.cpu_count() or 1), help="notebooks at a time")
    args = parser.parse_args()
    wanted = {k: ast.literal_eval(v) for k, v in (p.split("=", 1) for p in args.param)}
    os.environ.setdefault("PYTHONPATH", str(ROOT))
    notebooks = [p for p in sorted((ROOT / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts]
    notebooks = [p for p in notebooks if not args.only or any(w in str(p) for w in args.only)]
    before, failed, start = git_state(), [], time.time()
    with warm_kernels(), ProcessPoolExecutor(args.workers) as pool:         # processes: papermill changes the working folder of its own
        done = {pool.submit(attempt, p, wanted): str(p.relative_to(ROOT)) for p in notebooks}
        for i, future in enumerate(as_completed(done), 1):
            seconds, error = future.result()
            if error:
                failed.append(done[future])
            print(f"[{i}/{len(notebooks)}] {done[future]}: " + (f"FAILED\n{error}" if error else f"{seconds:.1f} s"), flush=True)
    if git_state() != before:
        failed.append("a notebook changed the tree: " + git_state())
    print(f"{len(notebooks) - len(failed)} passed, {len(failed)} failed in {time.time() - start:.0f} s")
    return 1 if failed or not notebooks else 0


if __name__ == "__main__":
    sys.exit(main())
