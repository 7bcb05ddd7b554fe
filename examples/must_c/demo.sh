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

echo "== A synthetic English-German corpus in the layout of MuST-C (nobody recorded this speech: espeak-ng made it)"
[ -d "$DEMO_ROOT/en-de" ] || python examples/must_c/make_demo_corpus.py --output "$DEMO_ROOT" --hours 4

echo "== Filterbanks, manifests and vocabulary"
[ -f "$DEMO_ROOT/en-de/config_st.yaml" ] ||
  python examples/must_c/prepare.py --data-root "$DEMO_ROOT" --languages de --task st --vocab-size 240 --specaugment none

echo "== Training the $name model"
residual-st train configs/demo.yaml "${overrides[@]}"
residual-st average "$DEMO_ROOT/$name" --num-update-checkpoints 4 --output "$DEMO_ROOT/$name.pt" --force

echo "== Translating tst-COMMON: no sentence and no voice of it was in training"
fairseq-generate "$DEMO_ROOT/en-de" --user-dir residual_st --task speech_to_text --config-yaml config_st.yaml \
  --gen-subset tst-COMMON_st --path "$DEMO_ROOT/$name.pt" --max-tokens 20000 --beam 5 --scoring sacrebleu --cpu \
  >"$DEMO_ROOT/$name.txt"

echo "== Result"
residual-st inspect "$DEMO_ROOT/$name.pt" | sed '/^residual . shared/,$d'
python examples/must_c/show_translations.py "$DEMO_ROOT/$name.txt"
