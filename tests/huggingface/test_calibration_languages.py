"""Tasks and languages of calibration texts, which equal those that transformers generates."""

import json

import numpy as np
import pytest
import sentencepiece
import soundfile
import torch
from conftest import ROOT, cli

huggingface = pytest.importorskip("residual_st.huggingface")
from tiny_models import SIZE, make  # noqa: E402
from transformers import Speech2TextTokenizer  # noqa: E402

from residual_st.errors import InputError  # noqa: E402
from residual_st.huggingface.words.repeating import Repeating  # noqa: E402
from residual_st.languages import Direction  # noqa: E402

SPEECH = ROOT / "tests" / "speech" / "arctic_a0007.wav"
SIZES = ["--group-size", "2", "--residual-rank", "1"]
LANGUAGES, TASKS = {"<|en|>": 40, "<|es|>": 41, "<|fr|>": 42}, {"translate": 50, "transcribe": 51}
START, NO_TIMESTAMPS = SIZE["decoder_start_token_id"], 55


@pytest.fixture
def folder(tmp_path):
    """A multilingual Whisper whose texts depend on the prompt."""
    model = make("whisper", tmp_path / "whisper")
    settings = {"lang_to_id": LANGUAGES, "task_to_id": TASKS, "no_timestamps_token_id": NO_TIMESTAMPS, "is_multilingual": True}
    return saved(model, tmp_path / "whisper", **settings)


def saved(model, folder, **settings):
    torch.nn.init.normal_(model.get_output_embeddings().weight)
    for name, value in {**settings, "_from_model_config": False}.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def audio(tmp_path):
    """Folders named by language, two windows of speech in each, and a TSV that lists their first seconds."""
    samples, rate = soundfile.read(SPEECH)
    rows = []
    for name in ("es", "French"):
        (tmp_path / "audio" / name).mkdir(parents=True)
        for index in range(2):
            soundfile.write(tmp_path / "audio" / name / f"{index}.wav", np.resize(samples, 16 * rate), rate)
            rows.append(f"{name}/{index}.wav:{rate}:{12 * rate}\t{name}\ten")
    (tmp_path / "audio" / "train.tsv").write_text("\n".join(["audio\tsrc_lang\ttgt_lang", *rows]), encoding="utf-8")
    return tmp_path / "audio"


def calibration_batches(folder, data, *direction, batches=3):
    """The model and all calibration batches, for this task and these languages."""
    model = huggingface.load(folder)
    calibration, held_out = huggingface.audio_calibration(model, folder, data, batches, 1, 0, Direction(*direction))
    return model, [*calibration.batches, *held_out.batches]


def prompt_of(batch):
    return batch.words[0, : batch.prompt].tolist()


def test_folder_names_give_the_language(folder, audio):
    """Each half minute has one language, and its text equals that of generate."""
    model, batches = calibration_batches(folder, audio, "translate")
    languages = [prompt_of(batch)[1] for batch in batches]
    assert sorted(languages) == [41, 41, 42, 42]
    assert languages[0] != languages[1]  # alternating
    for batch, language in zip(batches, languages):
        assert prompt_of(batch) == [START, language, TASKS["translate"], NO_TIMESTAMPS]
        tag = next(tag for tag, number in LANGUAGES.items() if number == language)
        own = batch.words[0, batch.prompt :].tolist()
        written = model.generate(batch.inputs["input_features"], language=tag, task="translate", num_beams=1)[0].tolist()
        assert written[-len(own) :] == own or written[: len(own)] == own


def test_compress_reports_tasks_and_languages_of_calibration(folder, audio, tmp_path):
    calibration = ["--calibration", audio, "--calibration-batches", "3", "--task", "translate"]
    figures = json.loads(cli("compress", folder, "--output", tmp_path / "small", *SIZES, *calibration, "--json").stdout)
    assert {(row["source_lang"], row["task"]) for row in figures["calibrated_on"]} == {("es", "translate"), ("fr", "translate")}
    table = cli("compress", folder, "--output", tmp_path / "other", *SIZES, *calibration[:-2], "--source-lang", "Spanish").stdout
    assert "es" in table and "transcribe" in table and "translate" not in table


def test_tsv_lists_recordings_and_parts_of_recordings(folder, audio):
    """A target language other than the spoken one means translation. Flags override the TSV."""
    (audio / "train.tsv").write_text((audio / "train.tsv").read_text().replace("\tFrench\t", "\tfr\t"), encoding="utf-8")
    _, batches = calibration_batches(folder, audio / "train.tsv")
    assert {tuple(prompt_of(batch)[1:3]) for batch in batches} == {(41, 50), (42, 50)}
    _, batches = calibration_batches(folder, audio / "train.tsv", "transcribe", "en")
    assert {tuple(prompt_of(batch)[1:3]) for batch in batches} == {(40, 51)}


@pytest.mark.parametrize("own", ["spanish", "es", "<|es|>"])
def test_generation_config_gives_the_default(folder, audio, own):
    saved(huggingface.load(folder), folder, language=own, task="translate")
    _, (batch, *_) = calibration_batches(folder, audio / "es", batches=1)
    assert prompt_of(batch) == [START, 41, 50, NO_TIMESTAMPS]


def test_forced_decoder_ids_of_older_folders_give_the_default(folder, audio):
    saved(huggingface.load(folder), folder, forced_decoder_ids=[[1, None], [2, TASKS["translate"]]])
    settings = folder / "generation_config.json"  # transformers 4.50 refuses them in a folder of its own version
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "transformers_version": "4.31.0"}))
    _, (batch, *_) = calibration_batches(folder, audio / "es", batches=1)
    assert prompt_of(batch)[2:] == [TASKS["translate"], NO_TIMESTAMPS]


@pytest.mark.parametrize("asked", [(), (None, "auto")])
def test_language_is_detected_without_a_default(folder, audio, asked):
    model, batches = calibration_batches(folder, audio / "es", *asked, batches=1)
    for batch in batches:
        (detected,) = model.detect_language(**batch.inputs).tolist()
        assert prompt_of(batch) == [START, detected, TASKS["transcribe"], NO_TIMESTAMPS]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--source-lang", "klingon"], "source_lang=klingon is not supported by this model; it must be one of auto, en, es, fr"),
        (["--task", "sing"], "task=sing is not supported by this model; it must be one of transcribe, translate"),
        (["--task", "translate", "--target-lang", "de"], "target_lang=de is not supported by this model; it must be en"),
    ],
)
def test_unsupported_tasks_and_languages_are_refused(folder, audio, tmp_path, flags, said):
    done = cli("compress", folder, "--output", tmp_path / "small", *SIZES, "--calibration", audio, *flags, check=False)
    assert done.returncode == 2 and said in done.stderr
    assert not (tmp_path / "small").exists()


def test_english_model_only_transcribes_english(audio, tmp_path):
    model = make("whisper", tmp_path / "english")
    saved(model, tmp_path / "english", is_multilingual=False)
    calibration = ["--calibration", audio, "--calibration-batches", "1"]
    for flags, said in ((["--task", "translate"], "must be transcribe"), (["--source-lang", "es"], "must be en")):
        done = cli("compress", tmp_path / "english", "--output", tmp_path / "x", *SIZES, *calibration, *flags, check=False)
        assert done.returncode == 2 and said in done.stderr
    _, (batch, *_) = calibration_batches(tmp_path / "english", audio, "transcribe", "en", batches=1)
    assert prompt_of(batch) == [START]


@pytest.mark.parametrize("audio_field", ["es/0.wav:x:10", "es/0.wav:0:16000:5", "es/0.wav:-5:16000"])
def test_span_that_is_not_two_numbers_is_refused(folder, audio, audio_field):
    (audio / "train.tsv").write_text(f"audio\tsrc_lang\n{audio_field}\tes\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"train.tsv, line 2: audio .* must be FILE or FILE:OFFSET:LENGTH"):
        calibration_batches(folder, audio / "train.tsv")


def test_span_behind_the_end_of_its_file_is_refused(folder, audio):
    (audio / "train.tsv").write_text("audio\tsrc_lang\nes/0.wav:0:999999999\tes\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"0.wav has \d+ samples, too few for 999999999 from sample 0 on"):
        calibration_batches(folder, audio / "train.tsv")


def test_unsupported_row_of_a_tsv_is_named(folder, audio):
    (audio / "train.tsv").write_text("audio\tsrc_lang\nes/0.wav\tes\nes/1.wav\tklingon\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"train.tsv, line 3: source_lang=klingon is not supported by this model"):
        calibration_batches(folder, audio / "train.tsv")


def test_multilingual_speech2text_uses_its_target_language(audio, tmp_path):
    folder, languages = tmp_path / "speech2text", ["pt", "fr", "ru", "nl", "ro", "it", "es", "de"]
    model = make("speech2text", folder)
    pieces = [f"<lang:{language}>" for language in languages]
    options = {"user_defined_symbols": pieces, "vocab_size": 40, "hard_vocab_limit": False}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["he went on", "we are here"]), model_prefix=str(tmp_path / "spm"), **options
    )
    names = ["<s>", "<pad>", "</s>", "<unk>", *pieces]
    (tmp_path / "vocab.json").write_text(json.dumps({name: index for index, name in enumerate(names)}), encoding="utf-8")
    tokenizer = Speech2TextTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "spm.model"), lang_codes="mustc", tgt_lang="de")
    tokenizer.save_pretrained(folder)
    _, (batch, *_) = calibration_batches(folder, audio, None, None, "fr", batches=1)
    assert prompt_of(batch) == [START, tokenizer.lang_code_to_id["fr"]]
    with pytest.raises(InputError, match="target_lang=en is not supported by this model; it must be one of"):
        calibration_batches(folder, audio, None, None, "en", batches=1)
    saved(model, folder, forced_bos_token_id=tokenizer.lang_code_to_id["de"])
    _, (batch, *_) = calibration_batches(folder, audio, batches=1)
    assert prompt_of(batch) == [START, tokenizer.lang_code_to_id["de"]]


def test_generation_stops_in_repetition_loops():
    """A loop is at least three repetitions of the same words with at least 24 words in total."""
    generator = torch.Generator().manual_seed(1)
    varied, sentence = torch.randperm(60, generator=generator), torch.randperm(20, generator=generator)
    texts = {
        "varied": varied,
        "one word": torch.cat([varied[:36], varied[0].repeat(24)]),
        "too few": torch.cat([varied[:37], varied[0].repeat(23)]),
        "a sentence": sentence.repeat(3),
        "twice": torch.cat([sentence + 20, sentence, sentence]),
    }
    ended = Repeating()(torch.stack(list(texts.values())), None)
    assert dict(zip(texts, ended.tolist())) == {
        "varied": False, "one word": True, "too few": False, "a sentence": True, "twice": False,
    }  # fmt: skip
    assert not Repeating()(varied[:5][None], None).any()
