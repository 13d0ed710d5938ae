#!/usr/bin/env bash
# Prepares the Python that references are made with: the environment of setup-libtorch.sh with
# transformers and sentence-transformers in it, of the versions that the fixtures name.
set -euo pipefail
cd "$(dirname "$0")/.."

eval "$(scripts/setup-libtorch.sh)"
want='transformers==5.23.0 sentence-transformers==6.2.0'
if ! python -c '
import sys
from importlib.metadata import version
pairs = (want.split("==") for want in sys.argv[1].split())
sys.exit(any(version(name) != wanted for name, wanted in pairs))' "$want" 2>/dev/null; then
    echo "setup-reference: installing $want" >&2
    # shellcheck disable=SC2086
    python -m pip install --quiet --disable-pip-version-check $want >&2
fi
