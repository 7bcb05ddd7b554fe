"""Kinds of fairseq models for tests: minimal data for each, from human recordings, and the flags of a small model."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece
import soundfile
import yaml

from residual_st.audio.filterbank import filterbank

SPEECH = Path(__file__).parent / "speech"

# recording, start and end in seconds, text
UTTERANCES = [
    ("arctic_a0007", 0.0, 1.3, "and you always"),
    ("arctic_a0007", 1.2, 2.3, "want to see it"),
    ("arctic_a0007", 2.2, 4.0, "in the superlative degree"),
    ("arctic_a0009", 0.0, 1.2, "he turned sharply"),
    ("arctic_a0009", 1.1, 2.1, "and faced gregson"),
    ("arctic_a0009", 2.0, 3.0, "across the table"),
]
SPLITS = {"train": range(6), "valid": (0, 4), "test": (1, 2, 5)}
UNITS = 12  # discrete units of speech, predicted by HuBERT and speech-to-speech models


@dataclass(frozen=True)
class Kind:
    """One kind of model.

    Attributes:
        data: its subfolder in the folder of `make_data`.
        task: flags of training and decoding.
        model: flags of training only.
        pretrained: the kind whose checkpoint it starts from, as `--w2v-path`.
        decode: the command that decodes with it. For CTC models fairseq has none that runs on Python 3.11, so they are
            validated, which reports
            the error rate of greedy decoding.
    """

    data: str
    task: str
    model: str
    pretrained: str | None = None
    decode: str = "fairseq-generate"

    @property
    def arch(self) -> str:
        return self.model.split()[1]


_LAYERS = "--encoder-layers 4 --encoder-embed-dim 16 --encoder-ffn-embed-dim 24 --encoder-attention-heads 2"
_DECODER = "--decoder-layers 1 --decoder-embed-dim 16 --decoder-ffn-embed-dim 24 --decoder-attention-heads 2"
_WORDS = "--criterion label_smoothed_cross_entropy --label-smoothing 0.1"
_SPEECH = "--task speech_to_text --config-yaml config.yaml"
_WAVE = f"{_SPEECH} --max-source-positions 100000"  # samples
_UNITS = f"--task speech_to_speech --config-yaml config.yaml --target-is-code --target-code-size {UNITS} --vocoder code_hifigan"
_LETTERS = "--task audio_finetuning --labels ltr"
_WAVES = f"{_LAYERS} --conv-feature-layers [(16,10,5),(16,8,4),(16,4,4),(16,4,4)] --conv-pos 8 --conv-pos-groups 2 --final-dim 8"
_CONFORMER = f"{_LAYERS} {_DECODER} --conv-channels 16 --depthwise-conv-kernel-size 5"
_S2T_CONFORMER = f"--arch s2t_conformer {_CONFORMER} {_WORDS}"

# models that other kinds start from
PRETRAINED = {
    "wav2vec2": Kind(
        "letters",
        "--task audio_pretraining",
        f"--arch wav2vec2 --criterion wav2vec --infonce --quantize-targets --num-negatives 4 --mask-length 2 {_WAVES}",
    ),
    "hubert": Kind(
        "letters",
        '--task hubert_pretraining --labels ["km"] --label-rate 50 --max-sample-size 16000',
        f"--arch hubert --criterion hubert --skip-nomask --mask-length 2 {_WAVES}",
    ),
}
KINDS = {
    "s2t_transformer": Kind("speech", _SPEECH, f"--arch s2t_transformer_s --conv-channels 16 {_LAYERS} {_DECODER} {_WORDS}"),
    "s2t_conformer": Kind("speech", _SPEECH, _S2T_CONFORMER),
    "s2t_conformer espnet abs": Kind("speech", _SPEECH, f"{_S2T_CONFORMER} --attn-type espnet"),
    "s2t_conformer espnet rope": Kind("speech", _SPEECH, f"{_S2T_CONFORMER} --attn-type espnet --pos-enc-type rope"),
    "s2t_conformer espnet rel_pos": Kind("speech", _SPEECH, f"{_S2T_CONFORMER} --attn-type espnet --pos-enc-type rel_pos"),
    "convtransformer": Kind("speech", _SPEECH, f"--arch convtransformer --conv-out-channels 4 {_LAYERS} {_DECODER} {_WORDS}"),
    "s2ut_transformer": Kind(
        "units", _UNITS, f"--arch s2ut_transformer --conv-channels 16 {_LAYERS} {_DECODER} --criterion speech_to_unit"
    ),
    "s2ut_conformer": Kind("units", _UNITS, f"--arch s2ut_conformer {_CONFORMER} --criterion speech_to_unit"),
    "xm_transformer": Kind(
        "wave", _WAVE, f"--arch xm_transformer --encoder-embed-dim 16 --adaptor-n-layers 1 {_DECODER} {_WORDS}", "wav2vec2"
    ),
    "wav2vec_ctc": Kind(
        "letters", _LETTERS, "--arch wav2vec_ctc --criterion ctc --zero-infinity", "wav2vec2", decode="fairseq-validate"
    ),
    "wav2vec_seq2seq": Kind(
        "letters",
        f"{_LETTERS} --autoregressive",
        # this decoder of fairseq assumes an encoder of width 512
        f"--arch wav2vec_seq2seq --criterion cross_entropy {_DECODER} --decoder-embed-dim 512",
        "wav2vec2",
    ),
    "hubert_ctc": Kind(
        "letters", _LETTERS, "--arch hubert_ctc --criterion ctc --zero-infinity", "hubert", decode="fairseq-validate"
    ),
    "transformer": Kind(
        "text-bin", "--task translation --source-lang en --target-lang units", f"--arch transformer {_LAYERS} {_DECODER} {_WORDS}"
    ),
}

# replaces the arch of a convtransformer
EMFORMER = (
    "--arch convtransformer_emformer --segment-length 16 --segment-left-context 16 --segment-right-context 8 --max-memory-size 2"
    " --simul-type waitk_fixed_pre_decision --waitk-lagging 2 --fixed-pre-decision-ratio 2"
)

_ALWAYS = "--required-batch-size-multiple 1 --cpu --num-workers 0 --data-buffer-size 0"
TRAIN = (  # one epoch has three batches
    f"{_ALWAYS} --train-subset train --valid-subset valid --max-update 3 --optimizer adam --lr 0.003 --seed 1 --batch-size 2"
    " --disable-validation --no-epoch-checkpoints --log-format json --log-interval 1"
)
DECODE = {
    "fairseq-generate": f"{_ALWAYS} --gen-subset test --beam 2 --max-len-b 20 --batch-size 3",
    "fairseq-validate": f"{_ALWAYS} --valid-subset test --batch-size 3",
}


def make_data(folder: Path) -> None:
    """Write the utterances in the format of each task into the subfolders `speech`, `wave`, `units`, `letters` and `text`."""
    for name in ("audio", "speech", "wave", "units", "letters", "text"):
        (folder / name).mkdir(parents=True)
    texts = [text for *_, text in UTTERANCES]
    lengths = [_cut(folder / "audio", number) for number in range(len(UTTERANCES))]
    frames = [np.load(folder / "audio" / f"{number}.npy") for number in range(len(UTTERANCES))]
    # quantised loudness instead of clusters of sounds, 50 per second
    clusters = [(np.abs(features[::2, 10:30]).sum(1).astype(int) % UNITS).tolist() for features in frames]
    for split, numbers in SPLITS.items():
        rows = {name: [] for name in ("speech", "wave", "units", "letters")}
        for number in numbers:
            audio, units = folder / "audio" / str(number), clusters[number][::4]
            rows["speech"].append((number, f"{audio}.npy", len(frames[number]), texts[number], "speaker"))
            rows["wave"].append((number, f"{audio}.wav", lengths[number], texts[number], "speaker"))
            rows["units"].append((number, f"{audio}.npy", len(frames[number]), _line(units), len(units)))
            rows["letters"].append((f"{number}.wav", lengths[number]))
        heads = {"units": ("id", "src_audio", "src_n_frames", "tgt_audio", "tgt_n_frames"), "letters": (folder / "audio",)}
        for name, table in rows.items():
            head = heads.get(name, ("id", "audio", "n_frames", "tgt_text", "speaker"))
            _write(folder / name / f"{split}.tsv", ["\t".join(map(str, row)) for row in (head, *table)])
        _write(folder / "letters" / f"{split}.ltr", [_line(texts[number].replace(" ", "|") + "|") for number in numbers])
        _write(folder / "letters" / f"{split}.km", [_line(clusters[number]) for number in numbers])
        _write(folder / "text" / f"{split}.en", [texts[number] for number in numbers])
        _write(folder / "text" / f"{split}.units", [_line(clusters[number][::4]) for number in numbers])
    _write(folder / "letters" / "dict.ltr.txt", [f"{letter} 1" for letter in sorted({*"|".join(texts)} - {" "})])
    _write(folder / "letters" / "dict.km.txt", [f"{unit} 1" for unit in range(UNITS)])
    _write_configs(folder, texts)


def _cut(folder: Path, number: int) -> int:
    """Write the audio and the filterbank of an utterance. Returns its length in samples."""
    recording, start, end, _ = UTTERANCES[number]
    samples, rate = soundfile.read(SPEECH / f"{recording}.wav", dtype="float32")
    samples = samples[round(start * rate) : round(end * rate)]
    soundfile.write(folder / f"{number}.wav", samples, rate)
    np.save(folder / f"{number}.npy", filterbank(samples, rate))
    return len(samples)


def _write_configs(folder: Path, texts: list[str]) -> None:
    model = folder / "speech" / "spm"
    options = {"vocab_size": 40, "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(texts), model_prefix=str(model), **options)
    pieces = sentencepiece.SentencePieceProcessor(model_file=f"{model}.model")
    words = {"vocab_filename": "spm.txt", "bpe_tokenizer": {"bpe": "sentencepiece", "sentencepiece_model": f"{model}.model"}}
    for name, config in {"speech": words, "wave": {**words, "use_audio_input": True}, "units": {}}.items():
        config = {"input_feat_per_channel": 80, "input_channels": 1, **config}
        (folder / name / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        _write(folder / name / "spm.txt", [f"{pieces.id_to_piece(index)} 1" for index in range(3, len(pieces))])


def _line(units) -> str:
    return " ".join(map(str, units))


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
