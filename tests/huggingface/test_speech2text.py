"""`residual-st convert` between fairseq checkpoints and Speech2Text folders."""

import json

import pytest
import soundfile
import torch
import yaml
from conftest import cli, linked, tiny_flags, tiny_model
from fairseq.data.audio.data_cfg import S2TDataConfig
from test_end_to_end import are_alike, generate, hypotheses

pytest.importorskip("residual_st.huggingface")
from tiny_models import make  # noqa: E402
from transformers import Speech2TextForConditionalGeneration, Speech2TextProcessor  # noqa: E402

from residual_st.compression import CompressionConfig, compress  # noqa: E402
from residual_st.fairseq.model_input import model_input  # noqa: E402
from residual_st.fairseq.standalone import load_model  # noqa: E402
from residual_st.stacks import stack_of  # noqa: E402

WIDTH = {"encoder_embed_dim": 32, "decoder_embed_dim": 32, "decoder_ffn_embed_dim": 48, "decoder_attention_heads": 4}


def save(path, arch="s2t_transformer_s", **options):
    options = {**WIDTH, **options}
    flags = tiny_flags(arch, tgt_dict_size=20, **options)
    cfg = {"model": flags, "task": flags, "common": {"user_dir": None}, "criterion": None}
    torch.save({"args": None, "cfg": cfg, "model": tiny_model(arch, **options).state_dict()}, path)
    return path


@pytest.mark.parametrize("tied", [True, False])
def test_conversion_in_both_directions(fairseq_train, data, tmp_path, tied):
    """Equal states and texts on both sides, and equal parameters after converting back, including the CTC head."""
    options = {"arch": "s2t_transformer_s", "max_update": 30, "lr": 5e-3, "share_decoder_input_output_embed": tied or None}
    options |= {"criterion": "label_smoothed_cross_entropy_with_residual", "ctc_weight": 0.3}
    fairseq_train(data, tmp_path / "run", **WIDTH, **options)
    source = tmp_path / "run" / "checkpoint_last.pt"
    cli("convert", source, "--output", tmp_path / "folder", "--data", data)
    cli("convert", tmp_path / "folder", "--output", tmp_path / "back.pt")
    (_, model), (_, again) = load_model(source), load_model(tmp_path / "back.pt")
    assert list(model.state_dict()) == list(again.state_dict())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.named_parameters())

    converted = Speech2TextForConditionalGeneration.from_pretrained(tmp_path / "folder").eval()
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["tie_word_embeddings"] == tied
    frames, lengths = torch.randn(2, 90, 80), torch.tensor([90, 51])
    mask = torch.arange(90) < lengths[:, None]
    words = torch.tensor([[2, 5, 6, 7], [2, 9, 8, 4]])
    with torch.no_grad():
        logits = converted(frames, attention_mask=mask.long(), decoder_input_ids=words).logits
        torch.testing.assert_close(logits, model(frames, lengths, words)[0], rtol=1e-4, atol=1e-5)

    flags = ["--batch-size", "1", "--beam", "5", "--max-len-b", "200"]
    outputs = [generate(data, path, tmp_path, *flags).stdout for path in (source, tmp_path / "back.pt")]
    assert are_alike(hypotheses(outputs[0]), hypotheses(outputs[1]))

    state = torch.load(source, weights_only=True)
    state["model"] = {name: value.half() for name, value in state["model"].items()}
    torch.save(state, tmp_path / "half.pt")
    cli("convert", tmp_path / "half.pt", "--output", tmp_path / "half", "--data", data)
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "float16"
    cli("convert", tmp_path / "half", "--output", tmp_path / "half-back.pt")
    back = torch.load(tmp_path / "half-back.pt", weights_only=True)["model"]
    assert all(torch.equal(value, back[name]) for name, value in state["model"].items() if name in dict(model.named_parameters()))


def test_converted_folder_transcribes_audio(data, tmp_path, release):
    """Features of transformers equal the recipe's, and its tokenizer has the words of the dictionary."""
    path = save(tmp_path / "a.pt")
    vocabulary = [line.split()[0] for line in (data / "spm_unigram150_st.txt").read_text().splitlines()]
    model = tiny_model("s2t_transformer_s", **WIDTH)
    state = torch.load(path, weights_only=True)
    embedding = {name: torch.randn(len(vocabulary) + 4, 32) for name in ("embed_tokens.weight", "output_projection.weight")}
    state["model"] = {**model.state_dict(), **{f"decoder.{name}": value for name, value in embedding.items()}}
    torch.save(state, path)
    config = linked(data, tmp_path / "data", "config_st.yaml")
    unscaled = {"utterance_cmvn": {"norm_vars": False}}
    config.write_text(yaml.safe_dump(yaml.safe_load((data / config.name).read_text()) | unscaled))
    convert = ["convert", path, "--output", tmp_path / "folder", "--data", config.parent, "--config-yaml", config.name]
    cli(*convert)
    processor = Speech2TextProcessor.from_pretrained(tmp_path / "folder")
    wav = next((release / "en-de" / "data" / "tst-HE" / "wav").glob("*.wav"))
    samples, rate = soundfile.read(wav)
    samples = samples[: 3 * rate]
    features = processor(samples, sampling_rate=rate, return_tensors="np").input_features[0]
    expected = model_input(S2TDataConfig(config)).features(samples).numpy()
    assert expected.std() > 2  # variances are unchanged
    assert abs(features - expected).mean() < 0.02 * expected.std()
    assert processor.tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 4]) == ["<s>", "<pad>", "</s>", "<unk>", vocabulary[0]]
    back = cli("convert", tmp_path / "folder", "--output", tmp_path / "back.pt").stdout
    assert '"utterance_cmvn": {"norm_means": true, "norm_vars": false}' in back
    for entries, message in (
        ({"sample_rate": 8000}, "sample_rate=8000; for Speech2Text it must be 16000"),
        (
            {"sample_rate": 16000, "prepend_tgt_lang_tag": True},
            "has prepend_tgt_lang_tag, which is not supported; texts must consist of sentencepiece",
        ),
        ({"prepend_tgt_lang_tag": False, "pre_tokenizer": {"tokenizer": "moses"}}, "has the tokenizer moses"),
        (
            {"pre_tokenizer": {}, "transforms": {"*": ["delta_deltas"]}},
            "transforms DeltaDeltas for unseen data; Speech2Text can have none or",
        ),
    ):
        config.write_text(yaml.safe_dump(yaml.safe_load((data / config.name).read_text()) | entries))
        result = cli(*convert, "--force", check=False)
        assert result.returncode == 2 and message in result.stderr, result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder_normalize_before": False}, "Speech2Text does not support encoder_normalize_before=False; it must be True"),
        (
            {"decoder_embed_dim": 64, "decoder_attention_heads": 4},
            "Speech2Text needs one width, but the model has decoder_embed_dim=64",
        ),
        ({"activation_fn": "gelu_fast"}, "activation_fn=gelu_fast is not supported; it must be one of relu, gelu"),
        ({"encoder_chunk_frames": "16"}, "Speech2Text does not support encoder_chunk_frames=16; it must be None"),
    ],
)
def test_models_that_speech2text_cannot_express_are_refused(tmp_path, options, message):
    from residual_st.errors import InputError
    from residual_st.huggingface.speech2text import to_speech2text

    flags, model = tiny_flags("s2t_transformer_s", **{**WIDTH, **options}), tiny_model("s2t_transformer_s", **{**WIDTH, **options})
    with pytest.raises(InputError, match=message):
        to_speech2text(flags, model.state_dict())


def test_wrong_usage_is_refused(data, tmp_path):
    dense, residual = save(tmp_path / "a.pt"), save(tmp_path / "b.pt", "s2t_residual_transformer_s")
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ([dense, "--output", "x"], "--data DATA is missing: a checkpoint contains no vocabulary"),
        ([dense, "--output", "x", "--data", tmp_path, "--config-yaml", "c.yaml"], "c.yaml does not exist"),
        ([dense, "--output", "x", "--data", data, "--config-yaml", "config_st.yaml"], "words, but the model's has 20"),
        ([residual, "--output", "x", "--data", data], "is already a residual checkpoint"),
        ([tmp_path / "empty", "--output", "x.pt"], "config.json cannot be read"),
        ([tmp_path / "empty", "--output", "x.pt", "--data", data], "a folder contains its vocabulary"),
        ([dense, "--output", tmp_path / "a.pt", "--data", data], "a.pt already exists"),
    ):
        result = cli("convert", *arguments, check=False)
        assert result.returncode == 2 and message in result.stderr, result.stderr


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_shared_models_must_be_expanded_first(tmp_path, part):
    model = make("speech2text", tmp_path / "dense")
    compress(model, CompressionConfig(group_size=2, rank=2), stack=stack_of(model, part))
    model.save_pretrained(tmp_path / "shared")
    result = cli("convert", tmp_path / "shared", "--output", tmp_path / "back.pt", check=False)
    assert result.returncode == 2 and "shared has shared layers; convert it to a dense folder first" in result.stderr
