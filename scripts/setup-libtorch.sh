#!/usr/bin/env bash
# Prepares LibTorch 2.9 for the `tch` feature: PyPI's torch 2.9.0 in a virtual environment.
#
#   scripts/setup-libtorch.sh            install where it is missing, then print the settings
#   eval "$(scripts/setup-libtorch.sh)"  the same, and take the settings over into this shell
#
# FIN_CACHE chooses the place (default ~/.cache/fin). Takes about 7 GB and two minutes.
set -euo pipefail

cache="${FIN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fin}"
venv="$cache/libtorch-2.9.0"

if ! "$venv/bin/python" -c 'import torch, sys; sys.exit(not torch.__version__.startswith("2.9.0"))' 2>/dev/null; then
    echo "setup-libtorch: installing torch 2.9.0 into $venv" >&2
    mkdir -p "$cache"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check torch==2.9.0 numpy setuptools >&2
fi

lib="$("$venv/bin/python" -c 'import os, torch; print(os.path.join(os.path.dirname(torch.__file__), "lib"))')"
cat <<SETTINGS
export PATH="$venv/bin:\$PATH"
export LIBTORCH_USE_PYTORCH=1
export LD_LIBRARY_PATH="$lib\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
SETTINGS
