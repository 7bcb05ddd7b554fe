"""The decoder's attention to the source equals that of fairseq and transformers."""

import numpy as np
import pytest
import torch
from conftest import SPEECH, cli
from fairseq.models.transformer import TransformerDecoder

huggingface = pytest.importorskip("residual_st.huggingface")
pytest.importorskip("spox")
from tiny_whisper import END, SETTINGS, WORDS, features_of, save_whisper  # noqa: E402

from residual_st.audio.reading import read_audio  # noqa: E402
from residual_st.errors import InputError  # noqa: E402
from residual_st.fairseq.conversion import read_model  # noqa: E402
from residual_st.fairseq.model_input import model_input  # noqa: E402
from residual_st.fairseq.training_data import read_symbols  # noqa: E402
from residual_st.languages import Direction  # noqa: E402
from residual_st.runtime import Settings  # noqa: E402
from residual_st.runtime.model import Model  # noqa: E402
from residual_st.runtime.search import Search  # noqa: E402
from residual_st.streaming import Stream  # noqa: E402

GIVEN = [5, 9, 7, 12, 6]


@torch.no_grad()
def test_attention_equals_that_of_fairseq(exported, shared_checkpoint, data):
    """The mean over the heads of the first of two layers."""
    state, reference = read_model(shared_checkpoint)
    _, config = read_symbols(state, data, None)
    samples = read_audio(SPEECH, 16_000)
    frames = model_input(config).features(samples)
    encoded = reference.encoder(frames[None], torch.tensor([len(frames)]))
    tokens = torch.tensor([[2, *GIVEN]])
    _, extra = TransformerDecoder.extract_features_scriptable(reference.decoder, tokens, encoded, alignment_layer=0)
    model = Model(exported)
    search = Search(model.folder, Settings(), Direction())
    attention = search.attention(model.decoder_source([samples]), [*GIVEN, 8])
    np.testing.assert_allclose(attention, extra["attn"][0][0].numpy(), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("heads", [None, [[0, 1], [1, 0], [1, 3], [7, 0]]])
def test_attention_is_the_mean_of_whispers_alignment_heads(heads, tmp_path):
    """The valid heads that the folder names, or else all heads of one layer."""
    source = save_whisper(tmp_path / "whisper", WORDS, **SETTINGS, **({"alignment_heads": heads} if heads else {}))
    cli("export", source, "--output", tmp_path / "model")
    model = Model(tmp_path / "model")
    direction = Direction("transcribe", "en")
    search, samples = Search(model.folder, Settings(), direction), read_audio(SPEECH, 16_000)
    prompt, _ = model.vocabulary.opening(model.languages.words(direction))
    reference = huggingface.load(source)
    reference.set_attn_implementation("eager") if hasattr(reference, "set_attn_implementation") else None
    tokens = torch.tensor([[*prompt, *GIVEN]])
    attentions = reference(features_of(source), decoder_input_ids=tokens, output_attentions=True).cross_attentions
    expected = [
        attentions[layer][0, head]
        for layer, head in ([pair for pair in heads if pair[0] < 2] if heads else [(0, n) for n in range(4)])
    ]
    expected = torch.stack(expected).mean(0)[len(prompt) - 1 :].numpy()
    np.testing.assert_allclose(search.attention(model.decoder_source([samples]), [*GIVEN, END]), expected, atol=1e-5)


def test_folder_without_attention_is_refused(exported, monkeypatch):
    monkeypatch.setattr(Model, "has_attention", False)  # as in a folder exported by an earlier release
    with pytest.raises(InputError, match=r"fp32 has no decoder attention, which policy=alignatt needs; export it again"):
        Stream(exported, "alignatt")
    Stream(exported, "local-agreement")
