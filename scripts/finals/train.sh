#!/usr/bin/env bash
# One stage of training with the memory profile of this machine's GPU (without a GPU: no profile).
#   scripts/finals/train.sh --stage A|B [--cfg FILE] [--max-steps N] [--ckpt-suffix S] [--log-suffix S] [any option of the script]
# Your own exports hold; with FORCE_KEEP_USER_ENVS=1 not even the knobs that you left open are filled in.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH="${PYTHONPATH:-.}"
PY=.venv/bin/python
[ -x "$PY" ] || PY="$(command -v python3 || command -v python)"

STAGE=A CFG="" REST=()
while [ $# -gt 0 ]; do
  case "$1" in
    --stage) STAGE="${2:?--stage needs A or B}"; shift 2 ;;
    --stage=*) STAGE="${1#*=}"; shift ;;
    --cfg) CFG="${2:?--cfg needs a file}"; shift 2 ;;
    --cfg=*) CFG="${1#*=}"; shift ;;
    -h|--help) sed -n '2,4s/^# \{0,1\}//p' "scripts/finals/train.sh"; exit 0 ;;
    *) REST+=("$1"); shift ;;
  esac
done
case "${STAGE,,}" in
  a) SCRIPT=scripts/train/train_stage_a.py; CFG="${CFG:-configs/day05_train.yaml}" ;;
  b) SCRIPT=scripts/train/train_stage_b.py; CFG="${CFG:-configs/day07_trainB.yaml}" ;;
  *) echo "error: --stage is A or B, not '$STAGE'" >&2; exit 2 ;;
esac

# The knobs must be in the environment before the training process starts. JOINTDIT_VRAM_GIB plays a GPU of that memory.
EXPORTS="$("$PY" - <<'PYTHON'
import os, shlex, sys
from jointdit.settings import apply_profile, profile_for_vram
gib = float(os.environ.get("JOINTDIT_VRAM_GIB") or 0)
if not gib:
    import torch
    gib = torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else 0
new, _ = apply_profile(profile_for_vram(gib), os.environ, os.environ.get("FORCE_KEEP_USER_ENVS") == "1",
                       say=lambda line: print(line, file=sys.stderr))
for k, v in new.items():
    if os.environ.get(k) != v: print(f"export {k}={shlex.quote(v)}")
PYTHON
)"
eval "$EXPORTS"
exec "$PY" "$SCRIPT" --cfg "$CFG" ${REST[@]+"${REST[@]}"}
