#!/usr/bin/env bash
# Everything on one GPU, in eight minutes at the most: benchmarks/gpu.py says what. Options are its own.
#
# PYTHON names the interpreter (default: python3). On a machine without a network, put wheels of what it lacks into build/wheels.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
PYTHON=${PYTHON:-python3}
if compgen -G "build/wheels/*.whl" >/dev/null; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" build/wheels/*.whl
  export PYTHONPATH="$PYTHONPATH:$site"
fi
timeout 480 "$PYTHON" benchmarks/gpu.py "$@"
