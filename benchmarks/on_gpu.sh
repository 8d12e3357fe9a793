#!/usr/bin/env bash
# Shows all that is to be shown on an NVIDIA GPU; see benchmarks/on_gpu.py, which takes the options.
# In a clone where srtrt is not installed its sources are used as they are.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."
clone=$PWD
python=${PYTHON:-$(command -v python || command -v python3)}
if ! "$python" -c 'import srtrt.benchmarks' 2>/dev/null; then
    tree=$(mktemp -d)
    trap 'rm -rf "$tree"' EXIT
    mkdir "$tree/srtrt"
    ln -s "$PWD"/src/srtrt/* "$PWD"/{train,export,runtime,benchmarks} "$tree/srtrt/"
    export PYTHONPATH=$tree${PYTHONPATH:+:$PYTHONPATH}
fi
if ! missing=$("$python" -c 'import srtrt.benchmarks.on_gpu' 2>&1); then
    printf 'srtrt lacks a package: %s\nInstall what it needs: pip install -e ".[gpu,train,test]"\n' \
        "${missing##*$'\n'}" >&2
    exit 1
fi
cd "$here"
# Not with -m, which would take a folder of that name in the current one, such as a clone, for srtrt.
"$python" -c '
import sys
sys.path[:] = [each for each in sys.path if each]
from srtrt.benchmarks.on_gpu import main
main()' --clone "$clone" "$@"
