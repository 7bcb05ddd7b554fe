#!/usr/bin/env bash
# The whole path on synthetic speech: corpus, preparation, training, averaging, BLEU on unseen voices and sentences.
#
#     bash examples/must_c/demo.sh [--dense] [KEY=VALUE ...]
#
# Keys are those of configs/demo.yaml, such as lr=1e-3 or seed=2. Each model uses its best learning rate.
# DEMO_ROOT is the output folder (default: demo). Existing files in it are reused.
set -euo pipefail
cd "$(dirname "$0")/../.."
export DEMO_ROOT="${DEMO_ROOT:-$PWD/demo}"
[ -n "${OMP_WAIT_POLICY:-}" ] || export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-10000}" # threads that wait soon leave their core to others: see residual_st/cli/train.py
name=residual
overrides=()
if [ "${1:-}" = --dense ]; then
  shift
  name=dense
  overrides=(arch=s2t_transformer_s encoder-group-size= encoder-residual-rank= lr=2e-3 "save-dir=$DEMO_ROOT/dense")
fi
for argument; do
  case $argument in
    *=*) overrides+=("$argument") ;;
    *)
      echo "demo.sh: $argument is not an option; it must be --dense or KEY=VALUE" >&2
      exit 2
      ;;
  esac
done

echo "== 1 of 5: a synthetic English-German corpus in the layout of MuST-C (nobody recorded this speech: espeak-ng made it)"
[ -d "$DEMO_ROOT/en-de" ] || python examples/must_c/make_demo_corpus.py --output "$DEMO_ROOT" --hours 4

echo "== 2 of 5: filterbanks, manifests and vocabulary"
[ -f "$DEMO_ROOT/en-de/config_st.yaml" ] ||
  python examples/must_c/prepare.py --data-root "$DEMO_ROOT" --languages de --task st --vocab-size 240 --specaugment none

run="$DEMO_ROOT/$name" test_set=tst-COMMON_st
echo "== 3 of 5: training the $name model, the longest step; the log is $run/train.log"
residual-st train configs/demo.yaml "${overrides[@]}" 2>&1 | python examples/must_c/show_training.py
residual-st average "$run" --num-update-checkpoints 4 --output "$run.pt" --force

echo "== 4 of 5: translating tst-COMMON in half a minute; no sentence and no voice of it was in training"
fairseq-generate "$DEMO_ROOT/en-de" --user-dir residual_st --task speech_to_text --config-yaml config_st.yaml \
  --gen-subset $test_set --path "$run.pt" --max-tokens 20000 --beam 5 --scoring sacrebleu --cpu \
  >"$run/generate-$test_set.txt"

echo "== 5 of 5: result"
residual-st inspect "$run.pt" | sed '/^residual . shared/,$d'
python examples/must_c/show_translations.py "$run/generate-$test_set.txt"
python examples/must_c/compare_with_dense.py

residual-st export "$run.pt" --data "$DEMO_ROOT/en-de" --output "$DEMO_ROOT/device" --precision int8 --force >/dev/null
talk=$(ls "$DEMO_ROOT"/en-de/data/tst-COMMON/wav/*.wav | head -1)
cat <<TEXT

== Now try
PATH="$PWD/.venv/bin:\$PATH"
residual-st translate "$DEMO_ROOT/device" "$talk"
residual-st serve "$DEMO_ROOT/device"      # a page in your browser
residual-st report "$run" --test-set $test_set --output "$DEMO_ROOT/report.html" --force      # then open that file
TEXT
