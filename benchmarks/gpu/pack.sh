#!/usr/bin/env bash
# Collect wheels of requirements.txt for a GPU machine without a network that has torch and transformers.
#
#     bash benchmarks/gpu/pack.sh
#
# They are written to benchmarks/gpu/wheels, which git ignores and run.sh installs from.
# PYTHON_VERSION (default: 3.12) is that of the machine. The wheels must be at most 64 MiB in total, so that they can be copied.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
wheels=$here/wheels
most=$((64 << 20))
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT
# the versions of the lock without its hashes, which include source distributions and other platforms
grep -oE '^[A-Za-z0-9._-]+==[^ ;]+' "$here/../../locks/all.txt" >"$constraints"

rm -rf "$wheels"
mkdir -p "$wheels"
python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$wheels" --requirement "$here/requirements.txt" \
  --constraint "$constraints" --implementation cp --python-version "${PYTHON_VERSION:-3.12}" \
  --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64
# hydra's parser has no wheel, but is pure Python
python3 -m pip wheel --quiet --no-deps --wheel-dir "$wheels" --constraint "$constraints" antlr4-python3-runtime

size=$(cat "$wheels"/*.whl | wc -c)
if [ "$size" -gt "$most" ]; then
  echo "pack.sh: $wheels has $size bytes, which must be at most $most; remove a package from $here/requirements.txt" >&2
  exit 2
fi
echo "$wheels: $(ls "$wheels" | wc -l) wheels, $((size >> 20)) MiB"
