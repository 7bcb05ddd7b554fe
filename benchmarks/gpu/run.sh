#!/usr/bin/env bash
# Measurements that need a GPU, in steps of stated minutes, on a machine without a network (docs/scale.md).
#
#     bash benchmarks/gpu/run.sh [--cpu] [--tiny] [--output DIR] STEP…
#
#     smoke             2 min   tests/test_cuda.py: training, decoding, compression and distillation give the results of the CPU
#     speed             3 min   time and memory relative to the stock model -> gpu.jsonl
#     width             9 min   recognition at d=256: dense, K=3 R=2, four layers, all at once -> width.jsonl
#     width-distilled   9 min   the same with the dense model as teacher, which is trained first -> width.jsonl
#     real              9 min   Whispers in REAL/models/NAME, refined on REAL/data/NAME (refinement.py) -> refinement.jsonl
#     all               all steps
#
# A step that takes longer than these minutes is stopped; its rows so far are kept. Rows are appended to files in DIR (default:
# benchmarks/results, or with --tiny a folder that is removed). --cpu needs no GPU; --tiny tests every step on minimal
# data. DEMO_ROOT names a corpus for `width` (default: the hard one of docs/quality.md is made). UPDATES (default: 2000) is
# the number of updates of a training run in `width`.
set -uo pipefail
cd "$(dirname "$0")/../.."
root=$PWD device=cuda tiny="" output="" steps=()
while [ $# -gt 0 ]; do
  case $1 in
    --cpu) device=cpu ;;
    --tiny) tiny=1 ;;
    --output) output=${2:?--output needs a folder}; shift ;;
    all) steps+=(smoke speed width width-distilled real) ;;
    smoke | speed | width | width-distilled | real) steps+=("$1") ;;
    *) echo "run.sh: $1 must be one of smoke, speed, width, width-distilled, real, all, --cpu, --tiny, --output DIR" >&2; exit 2 ;;
  esac
  shift
done
if [ ${#steps[@]} = 0 ]; then sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0"; exit 2; fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
output=${output:-${tiny:+$work/rows}}
output=${output:-benchmarks/results}
mkdir -p "$output"
output=$(cd "$output" && pwd)
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 RESIDUAL_ST_DEVICE=$device
has_packages() { python3 -c "import importlib.util, sys; sys.exit(any(importlib.util.find_spec(name) is None for name in sys.argv[1:]))" "$@"; }
if ! has_packages fairseq sacrebleu && [ -d benchmarks/gpu/wheels ]; then
  python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$work/site" benchmarks/gpu/wheels/*.whl
  export PYTHONPATH=$work/site:$PYTHONPATH
fi
if ! has_packages fairseq sacrebleu torch; then
  echo "run.sh: fairseq, sacrebleu and torch must be installed; pack.sh makes wheels of the first two" >&2
  exit 2
fi
if [ $device = cuda ] && ! python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "run.sh: torch sees no GPU; --cpu runs without one" >&2
  exit 2
fi

smoke() {
  if [ $tiny ]
  then limited 2 python3 -m pytest -q -p no:cacheprovider tests/test_cuda.py -k "inference_modes or model_is_compressed"
  else limited 2 python3 -m pytest -q -p no:cacheprovider tests/test_cuda.py -n 6
  fi
}

speed() {
  limited 3 python3 benchmarks/gpu/speed.py --device $device ${tiny:+--tiny} --seconds 150 --output "$output/gpu.jsonl"
}

# a corpus in DEMO_ROOT, for both width steps
corpus() {
  export DEMO_ROOT=${DEMO_ROOT:-$work/corpus}
  if [ -e "$DEMO_ROOT/en-de/config_asr.yaml" ]; then return; fi
  local size=(--hours 8 --difficulty hard) words=120
  if [ $tiny ]; then size=(--hours 0.1) words=110; fi
  python3 examples/must_c/make_demo_corpus.py --output "$DEMO_ROOT" "${size[@]}" &&
    python3 examples/must_c/prepare.py --data-root "$DEMO_ROOT" --languages de --task asr --vocab-size $words --specaugment none
}

trained() { # SYSTEM,… : train them and append their rows
  corpus || return
  local flags=(max-update="${UPDATES:-2000}" total-num-update="${UPDATES:-2000}")
  if [ $tiny ]
  then flags=(max-update=2 total-num-update=2 warmup-updates=1 encoder-embed-dim=32 encoder-ffn-embed-dim=48 decoder-embed-dim=32
    decoder-ffn-embed-dim=48 conv-channels=32 max-tokens=2000 num-workers=0)
  fi
  if [ $device = cpu ]; then flags+=(cpu=true amp=null); fi
  limited 8 python3 benchmarks/quality.py benchmarks/gpu/width.yaml --data "$DEMO_ROOT/en-de" --work "$work/runs" \
    --output "$output/width.jsonl" --reference dense-2e-3 --jobs 6 --systems "$1" --set "${flags[@]}" ||
    { tail -n 20 "$work"/runs/asr/*/*/*.log; return 1; }
}

width() {
  if [ $tiny ]; then trained k3-r2-2e-3; else trained dense-2e-3,k3-r2-2e-3,four-layers-2e-3,dense-1e-3,k3-r2-1e-3,four-layers-1e-3; fi
}

width-distilled() {
  if [ $tiny ]; then trained k3-r2-distilled-2e-3; else trained k3-r2-distilled-2e-3,four-layers-distilled-2e-3,dense-distilled-2e-3; fi
}

# a random Whisper and 30 copies of a recording for `real`: one is translated, the others are for calibration
tiny_real() { # FOLDER
  mkdir -p "$1/data/tiny/de"
  printf 'language\tname\tenglish\nde\t1\tAnd you always want to see it.\n' >"$1/data/tiny/references.tsv"
  for name in {1..30}; do cp tests/speech/arctic_a0007.wav "$1/data/tiny/de/$name.wav"; done
  PYTHONPATH=tests:$PYTHONPATH python3 -c "import sys, pathlib, residual_st.huggingface, tiny_whisper as tiny
tiny.save_whisper(pathlib.Path(sys.argv[1]), tiny.WORDS, **tiny.SETTINGS)" "$1/models/tiny"
}

real() {
  local updates=(100 400 1600 4000) systems=(compressed-0.6 compressed-0.45 shared-0.6 shared-0.45) folder system pids=() failed=0
  if [ $tiny ]; then
    tiny_real "$work/real" || return
    REAL=$work/real updates=(2) systems=(shared-0.6)
  fi
  if [ ! -d "${REAL:-}" ]; then echo "run.sh: REAL must name a folder with models/NAME and data/NAME, or leave out real" >&2; return 2; fi
  for folder in "$REAL"/models/*; do
    for system in "${systems[@]}"; do
      # separate files, since processes must not append to the same file
      OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} limited 9 python3 benchmarks/refinement.py "$folder" "$REAL/data/${folder##*/}" "$system" \
        --updates "${updates[@]}" --seconds 480 --output "$output/part-${folder##*/}-$system.jsonl" &
      pids+=($!)
    done
  done
  for system in "${pids[@]}"; do wait "$system" || failed=1; done
  cat "$output"/part-*.jsonl >>"$output/refinement.jsonl" && rm "$output"/part-*.jsonl || failed=1
  return $failed
}

limited() { # MINUTES COMMAND…
  local minutes=$1
  shift
  timeout "${minutes}m" "$@"
}

failed=()
for step in "${steps[@]}"; do
  began=$SECONDS
  echo "== $step"
  "$step" || failed+=("$step")
  echo "== $step ended after $((SECONDS - began)) s"
done
if [ $tiny ]; then wc -l "$output"/*.jsonl 2>/dev/null; fi
if [ ${#failed[@]} -gt 0 ]; then echo "run.sh: failed: ${failed[*]}" >&2; exit 1; fi
