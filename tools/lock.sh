#!/usr/bin/env bash
# Resolves pyproject.toml's dependencies anew and writes both lock files: tools/lock.sh PYTHON [CONSTRAINT...]
# For instance: tools/lock.sh python3.11 torch==2.13.0 'transformers<5.24'
set -euo pipefail
python=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# botocore, which the extra s3 brings, wants python-dateutil below 3: what is pinned for all has to fit beside it.
printf '%s\n' 'python-dateutil<3' "$@" >"$work/constraints"
"$python" -m venv "$work/venv"
pip=$work/venv/bin/pip
# Without local version labels (+cpu), so that each machine takes the build that fits it.
frozen() { "$pip" freeze --all | grep == | grep -vE '^(pip|readqg)==' | sed 's/+[a-z0-9.]*$//' | LC_ALL=C sort -f; }

"$pip" install --quiet -c "$work/constraints" '.[sample,files,ui]'
frozen | grep -vE '^(nvidia|cuda|triton)' >"$work/run"
"$pip" install --quiet -c "$work/run" '.[sample,files,ui,dev]'
frozen | grep -vE '^(nvidia|cuda|triton)' >"$work/all"

{
  echo '# What ReadQG runs with, pinned: versions that work together. Made by `make lock`.'
  cat "$work/run"
} >requirements.lock
{
  echo '# What its tests and checks need besides. Made by `make lock`.'
  comm -13 <(LC_ALL=C sort "$work/run") <(LC_ALL=C sort "$work/all")
} >requirements-dev.lock
