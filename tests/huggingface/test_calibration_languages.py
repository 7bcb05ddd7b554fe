"""Tasks and languages of the words that a folder is calibrated on: those that transformers' own generate writes."""

import json

import numpy as np
import pytest
import sentencepiece
import soundfile
import torch
from conftest import ROOT, cli

transformers = pytest.importorskip("residual_st.huggingface")
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
    """A multilingual Whisper, whose words depend on its prompt."""
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
    """Two windows of speech in each of two languages, by the names of folders, and a TSV of its first seconds."""
    samples, rate = soundfile.read(SPEECH)
    rows = []
    for name in ("es", "French"):
        (tmp_path / "audio" / name).mkdir(parents=True)
        for index in range(2):
            soundfile.write(tmp_path / "audio" / name / f"{index}.wav", np.resize(samples, 16 * rate), rate)
            rows.append(f"{name}/{index}.wav:{rate}:{12 * rate}\t{name}\ten")
    (tmp_path / "audio" / "train.tsv").write_text("\n".join(["audio\tsrc_lang\ttgt_lang", *rows]), encoding="utf-8")
    return tmp_path / "audio"


def prompts(folder, data, *asked, batches=3):
    """The prompts of all batches, and each batch's own words beside those of generate."""
    model = transformers.load(folder)
    calibration, held_out = transformers.audio_calibration(model, folder, data, batches, 1, 0, Direction(*asked))
    return model, [*calibration.batches, *held_out.batches]


def opening(batch):
    return batch.words[0, : batch.prompt].tolist()


def test_folders_are_named_by_language(folder, audio):
    """Each half minute is of one of them, and its words are those that generate writes of it."""
    model, batches = prompts(folder, audio, "translate")
    languages = [opening(batch)[1] for batch in batches]
    assert sorted(languages) == [41, 41, 42, 42]
    assert languages[0] != languages[1]  # in turn
    for batch, language in zip(batches, languages):
        assert opening(batch) == [START, language, TASKS["translate"], NO_TIMESTAMPS]
        tag = next(tag for tag, number in LANGUAGES.items() if number == language)
        own = batch.words[0, batch.prompt :].tolist()
        written = model.generate(batch.inputs["input_features"], language=tag, task="translate", num_beams=1)[0].tolist()
        assert written[-len(own) :] == own or written[: len(own)] == own


def test_the_command_says_what_was_calibrated_on(folder, audio, tmp_path):
    calibration = ["--calibration", audio, "--calibration-batches", "3", "--task", "translate"]
    figures = json.loads(cli("compress", folder, "--output", tmp_path / "small", *SIZES, *calibration, "--json").stdout)
    assert {(row["source_lang"], row["task"]) for row in figures["calibrated_on"]} == {("es", "translate"), ("fr", "translate")}
    table = cli("compress", folder, "--output", tmp_path / "other", *SIZES, *calibration[:-2], "--source-lang", "Spanish").stdout
    assert "es" in table and "transcribe" in table and "translate" not in table


def test_a_table_lists_recordings_and_parts_of_them(folder, audio):
    """A text in another language than the spoken one is a translation; what is asked for goes first."""
    (audio / "train.tsv").write_text((audio / "train.tsv").read_text().replace("\tFrench\t", "\tfr\t"), encoding="utf-8")
    _, batches = prompts(folder, audio / "train.tsv")
    assert {tuple(opening(batch)[1:3]) for batch in batches} == {(41, 50), (42, 50)}
    _, batches = prompts(folder, audio / "train.tsv", "transcribe", "en")
    assert {tuple(opening(batch)[1:3]) for batch in batches} == {(40, 51)}


@pytest.mark.parametrize("own", ["spanish", "es", "<|es|>"])
def test_the_folder_s_own_settings_decide_where_nothing_is_asked(folder, audio, own):
    saved(transformers.load(folder), folder, language=own, task="translate")
    _, (batch, *_) = prompts(folder, audio / "es", batches=1)
    assert opening(batch) == [START, 41, 50, NO_TIMESTAMPS]


def test_an_older_folder_may_detect_the_language_and_translate(folder, audio):
    """Which forced_decoder_ids say."""
    saved(transformers.load(folder), folder, forced_decoder_ids=[[1, None], [2, TASKS["translate"]]])
    settings = folder / "generation_config.json"  # of another release's, 4.50's own generate refuses them
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "transformers_version": "4.31.0"}))
    _, (batch, *_) = prompts(folder, audio / "es", batches=1)
    assert opening(batch)[2:] == [TASKS["translate"], NO_TIMESTAMPS]


@pytest.mark.parametrize("asked", [(), (None, "auto")])
def test_or_else_the_language_is_detected(folder, audio, asked):
    model, batches = prompts(folder, audio / "es", *asked, batches=1)
    for batch in batches:
        (detected,) = model.detect_language(**batch.inputs).tolist()
        assert opening(batch) == [START, detected, TASKS["transcribe"], NO_TIMESTAMPS]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--source-lang", "klingon"], "source_lang=klingon is not supported by this model; it must be one of auto, en, es, fr"),
        (["--task", "sing"], "task=sing is not supported by this model; it must be one of transcribe, translate"),
        (["--task", "translate", "--target-lang", "de"], "target_lang=de is not supported by this model; it must be en"),
    ],
)
def test_what_a_model_cannot_do_is_refused(folder, audio, tmp_path, flags, said):
    done = cli("compress", folder, "--output", tmp_path / "small", *SIZES, "--calibration", audio, *flags, check=False)
    assert done.returncode == 2 and said in done.stderr
    assert not (tmp_path / "small").exists()


def test_an_english_model_transcribes_english(audio, tmp_path):
    model = make("whisper", tmp_path / "english")
    saved(model, tmp_path / "english", is_multilingual=False)
    calibration = ["--calibration", audio, "--calibration-batches", "1"]
    for flags, said in ((["--task", "translate"], "must be transcribe"), (["--source-lang", "es"], "must be en")):
        done = cli("compress", tmp_path / "english", "--output", tmp_path / "x", *SIZES, *calibration, *flags, check=False)
        assert done.returncode == 2 and said in done.stderr
    _, (batch, *_) = prompts(tmp_path / "english", audio, "transcribe", "en", batches=1)
    assert opening(batch) == [START]


def test_a_row_that_the_model_cannot_do_is_named(folder, audio):
    (audio / "train.tsv").write_text("audio\tsrc_lang\nes/0.wav\tes\nes/1.wav\tklingon\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"train.tsv, line 3: source_lang=klingon is not supported by this model"):
        prompts(folder, audio / "train.tsv")


def test_speech2text_of_several_target_languages(audio, tmp_path):
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
    _, (batch, *_) = prompts(folder, audio, None, None, "fr", batches=1)
    assert opening(batch) == [START, tokenizer.lang_code_to_id["fr"]]
    with pytest.raises(InputError, match="target_lang=en is not supported by this model; it must be one of"):
        prompts(folder, audio, None, None, "en", batches=1)
    saved(model, folder, forced_bos_token_id=tokenizer.lang_code_to_id["de"])
    _, (batch, *_) = prompts(folder, audio, batches=1)
    assert opening(batch) == [START, tokenizer.lang_code_to_id["de"]]


def test_repetition_loops_end_a_text():
    """Three times the same, 24 words at least."""
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
