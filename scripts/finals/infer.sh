#!/usr/bin/env bash
# Make clips with a checkpoint (otherwise the newest).
#   scripts/finals/infer.sh [--cfg FILE] [--ckpt FILE] [--steps N] [--seed N] [any option of scripts/infer/infer_joint.py]
# Exported knobs (JOINTDIT_MAX_T, JOINTDIT_Q_CHUNK_V, ...) and overrides (JOINTDIT_PROMPT, ...) hold.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH="${PYTHONPATH:-.}"
PY=.venv/bin/python
[ -x "$PY" ] || PY="$(command -v python3 || command -v python)"
exec "$PY" scripts/infer/infer_joint.py "$@"
