"""Streams decoded by the CTC head of a model."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import SPEECH as RECORDING
from conftest import cli, with_random_ctc
from streams import RATE, SPEECH, assert_texts_only_grow, segments_of, talk, updates_of

from residual_st.errors import InputError
from residual_st.evaluation.ctc import best_paths
from residual_st.fairseq.conversion import read_model
from residual_st.fairseq.model_input import model_input
from residual_st.fairseq.training_data import read_symbols
from residual_st.runtime import Settings, Translator
from residual_st.runtime.model import Model
from residual_st.streaming import Stream


@pytest.fixture
def whole(runs, shared_checkpoint, data):
    """The folder of a model whose encoder reads whole windows."""
    folder = runs / "ctc-whole"
    if not folder.exists():
        cli("export", with_random_ctc(shared_checkpoint, data, runs / "ctc-whole.pt"), "--data", data, "--output", folder)
    return folder


@pytest.mark.parametrize(("pause", "chunk_seconds"), [(0.6, 0.5), (0.3, 1.0), (0.3, 1.4)])
def test_windows_of_a_chunked_encoder_have_the_text_of_fairseqs_ctc_head(pause, chunk_seconds, streaming_ctc):
    """For steps of any length. Each word is final from the step in which it first appears."""
    checkpoint, data, folder = streaming_ctc
    state, torch_model = read_model(checkpoint)
    source, sound = model_input(read_symbols(state, data)[1]), talk(pause)
    updates = updates_of(Stream(folder, "ctc", chunk_seconds=chunk_seconds), sound)
    segments = segments_of(updates)
    assert len(segments) == 2
    for segment in segments:
        frames = source.features(sound[round(segment.start * RATE) : round(segment.end * RATE)])
        batch = {"net_input": {"src_tokens": frames[None], "src_lengths": torch.tensor([len(frames)])}}
        (path,) = best_paths(torch_model.eval(), batch)
        assert len(path) > 9 and segment.text == Model(folder).vocabulary.text(path.tolist())
    assert_texts_only_grow(updates)
    assert not any(update.tail for update in updates)
    grown = [update.text for update in updates if not update.closed and update.text]
    assert len({*grown}) > 1 and all(segments[text not in segments[0].text].text.startswith(text) for text in grown)


def test_words_of_whole_windows_are_final_after_half_a_second(whole):
    updates = updates_of(Stream(whole, "ctc", chunk_seconds=0.5), talk())
    assert_texts_only_grow(updates)
    assert len(segments_of(updates)) == 2
    assert any(update.text and update.tail for update in updates)


@pytest.mark.parametrize("name", ["streaming_ctc", "whole"])
def test_text_does_not_depend_on_the_size_of_pieces_by_ctc(name, request):
    folder, sound = request.getfixturevalue(name), talk()
    model = Model(folder[-1] if name == "streaming_ctc" else folder)
    expected = updates_of(Stream(model, "ctc"), sound)
    assert any(update.text for update in expected)
    for size in (777, 12_345):
        assert segments_of(updates_of(Stream(model, "ctc"), sound, size)) == segments_of(expected)
    by_decoder = updates_of(Stream(model, "retranslation", Settings(beam=1, max_len_b=12)), sound)  # unchanged
    assert by_decoder != expected and len(segments_of(by_decoder)) == 2


def test_recording_is_decoded_by_ctc(streaming_ctc):
    model = Model(streaming_ctc[-1])
    translation = Translator(model.by_ctc()).translate(SPEECH[0])
    (segment,) = translation.segments
    samples = SPEECH[0][round(segment.start * RATE) : round(segment.end * RATE)]
    symbols = model.encode([samples])["ctc_log_probs"][0].argmax(-1)
    path = symbols[np.flatnonzero(np.diff(symbols, prepend=-1) != 0)]
    assert segment.text == model.vocabulary.text(path[path != 0].tolist()) != ""


def test_models_without_suitable_ctc_are_refused(exported, with_languages, tmp_path):
    without = tmp_path / "without"
    shutil.copytree(exported, without)
    description = json.loads((exported / "model.json").read_text(encoding="utf-8"))
    (without / "model.json").write_text(json.dumps({**description, "has_ctc": False}), encoding="utf-8")
    result = cli("listen", without, RECORDING, "--policy", "ctc", check=False)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert "without has no CTC head; decoding by CTC needs a model trained with --ctc-weight" in result.stderr
    for folder, settings, message in (
        (exported, Settings(beam=2), "beam=2 must be 1: .* is decoded by greedy CTC"),
        (with_languages, Settings(), "has the target languages de, fr, and CTC cannot choose one"),
    ):
        with pytest.raises(InputError, match=message):
            Stream(folder, "ctc", settings)
