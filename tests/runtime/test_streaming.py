"""Exported encoders that run chunk by chunk."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
import yaml
from conftest import SPEECH, cli, linked

from residual_st.audio.reading import read_audio
from residual_st.errors import InputError
from residual_st.fairseq.conversion import read_model
from residual_st.fairseq.model_input import model_input
from residual_st.fairseq.streaming import StreamingEncoder
from residual_st.fairseq.training_data import read_symbols
from residual_st.runtime.model import Model

RATE = 16_000


def noise(seconds: float, seed: int = 1) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype(np.float32)


def pieces(samples: np.ndarray, count: int, seed: int = 1) -> list[np.ndarray]:
    places = [0, *sorted(np.random.default_rng(seed).integers(0, len(samples), count - 1)), len(samples)]
    return [samples[start:end] for start, end in pairwise(places)]


def streamed(stream, parts: list[np.ndarray], name: str = "states") -> np.ndarray:
    return np.concatenate([*(stream.feed(part)[name] for part in parts), stream.finish()[name]], axis=1)


def torch_model(chunked):
    state, model = read_model(chunked[0])
    return model, model_input(read_symbols(state, chunked[1])[1])


def test_states_equal_torchs_for_samples_in_pieces_of_any_size(chunked, streaming):
    model, source = torch_model(chunked)
    stream = Model(streaming).stream()
    speech = read_audio(SPEECH, RATE)
    for number, samples in enumerate((speech, noise(0.025), noise(0.3), noise(2.3), noise(3))):
        frames = source.features(samples)
        with torch.no_grad():
            whole = model.encoder(frames[None], torch.tensor([len(frames)]))["encoder_out"][0].transpose(0, 1).numpy()
        in_chunks = streamed(stream, pieces(samples, 12, number))
        np.testing.assert_allclose(in_chunks, whole, rtol=0, atol=1e-4)
        torch_stream = StreamingEncoder(model.encoder, source)
        by_torch = torch.cat([*map(torch_stream.feed, pieces(samples, 5, number)), torch_stream.finish()], dim=1)
        np.testing.assert_allclose(in_chunks, by_torch.numpy(), rtol=0, atol=1e-4)
    log_probs = streamed(stream, [speech], "ctc_log_probs")
    with torch.no_grad():
        states = torch.from_numpy(streamed(stream, [speech]))
        expected = model.encoder.ctc_proj(states).log_softmax(-1).numpy()
    np.testing.assert_allclose(log_probs, expected, rtol=0, atol=1e-3)


def test_chunks_are_returned_once_their_look_ahead_is_complete(streaming):
    model = Model(streaming)
    form, stream = model.folder.streaming, model.stream()
    assert (form.chunk_frames, form.left_chunks, form.frame_samples, form.look_ahead_samples) == (4, 2, 640, 720)
    first = form.chunk_frames * form.frame_samples + form.look_ahead_samples
    samples = noise(2)
    assert stream.feed(samples[: first - 1])["states"].shape == (1, 0, 32)
    assert stream.feed(samples[first - 1 : first])["states"].shape == (1, 4, 32)
    assert stream.feed(samples[first : first + 4 * 640])["states"].shape == (1, 4, 32)
    assert stream.frames == 8
    assert stream.finish()["states"].shape[1] and stream.frames == 0
    assert stream.feed(samples[:100])["ctc_log_probs"].shape[:2] == stream.finish()["states"].shape[:2] == (1, 0)


def test_streams_of_one_model_are_independent(streaming):
    model = Model(streaming)
    one, two = pieces(noise(1.5, 1), 8), pieces(noise(1.5, 2), 8)
    streams = [model.stream(), model.stream()]
    states_of_each = [[], []]
    for pair in zip(one, two):
        for stream, part, states in zip(streams, pair, states_of_each):
            states.append(stream.feed(part)["states"])
    for parts, stream, states in zip((one, two), streams, states_of_each):
        together = np.concatenate([*states, stream.finish()["states"]], axis=1)
        assert np.array_equal(together, streamed(model.stream(), parts))


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantised_streaming_encoders(precision, chunked, streaming, tmp_path):
    cli("export", chunked[0], "--data", chunked[1], "--output", tmp_path / "model", "--streaming", "--precision", precision)
    samples = read_audio(SPEECH, RATE)
    stream, exact = Model(tmp_path / "model").stream(), streamed(Model(streaming).stream(), [samples])
    states = streamed(stream, pieces(samples, 30))
    assert np.array_equal(states, streamed(stream, [samples]))  # inputs have one scale per chunk, whatever the size of the pieces
    assert 0 < np.abs(states - exact).mean() < 0.1


def test_checkpoint_is_exported_with_other_chunks_and_for_whole_utterances(chunked, streaming, tmp_path):
    """`export` compares each with the checkpoint. The last two attend in chunks of four."""
    cli("export", chunked[0], "--data", chunked[1], "--output", tmp_path / "eight", "--streaming", "8")
    cli("export", chunked[0], "--data", chunked[1], "--output", tmp_path / "whole")
    assert Model(tmp_path / "eight").folder.streaming.chunk_frames == 8
    whole, in_chunks = Model(tmp_path / "whole"), Model(streaming)
    utterances = [noise(1.2), read_audio(SPEECH, RATE)[: 2 * RATE], noise(0.4)]
    one, two = whole.encode(utterances), in_chunks.encode(utterances)
    assert one["state_lengths"].tolist() == two["state_lengths"].tolist()
    assert one.keys() == two.keys()
    for name in ("states", "ctc_log_probs"):
        length = one["state_lengths"].max()
        np.testing.assert_allclose(one[name][1, : length - 2], two[name][1, : length - 2], rtol=0, atol=1e-3)
    sizes = [(folder / "encoder.onnx").stat().st_size for folder in (tmp_path / "whole", streaming)]
    assert sizes[1] < sizes[0] * 1.02  # each shared matrix is stored once
    flags = ["--max-len-b", "10"]
    assert cli("translate", streaming, SPEECH, *flags).stdout == cli("translate", tmp_path / "whole", SPEECH, *flags).stdout


def test_long_stream_restarts_and_its_memory_is_bounded(streaming, tmp_path):
    folder = tmp_path / "short"
    shutil.copytree(streaming, folder)
    description = json.loads((folder / "model.json").read_text())
    description["streaming"]["longest_frames"] = 40  # 1.6 s
    (folder / "model.json").write_text(json.dumps(description))
    stream, samples = Model(folder).stream(), noise(1.6)
    states = stream.feed(np.tile(samples, 4))["states"]
    np.testing.assert_allclose(states[:, 80:120], states[:, 40:80], rtol=0, atol=1e-5)  # equal sound at equal positions
    assert np.abs(Model(streaming).stream().feed(np.tile(samples, 4))["states"][:, 80:120] - states[:, 80:120]).max() > 1e-3
    held = {name: value.shape() for name, value in stream._caches.items()}
    for _ in range(6):
        stream.feed(samples)
        assert {name: value.shape() for name, value in stream._caches.items()} == held
        assert len(stream._samples) < 4 * 640 + 720


def test_invalid_streaming_exports_are_refused(data, shared_checkpoint, chunked, exported, streaming, tmp_path):
    def refused(message, *arguments):
        result = cli("export", *arguments, "--output", tmp_path / "model", check=False)
        assert result.returncode == 2 and message in result.stderr, result.stderr
        assert len(result.stderr.splitlines()) == 1 and not (tmp_path / "model").exists()

    refused("has UtteranceCMVN, which needs the whole utterance", chunked[0], "--data", data, "--streaming")
    refused("attends to whole utterances", shared_checkpoint, "--data", chunked[1], "--streaming")
    refused("chunks of -4 encoder frames cannot be streamed", chunked[0], "--data", chunked[1], "--streaming", "-4")
    refused("--streaming cannot be combined with --web", chunked[0], "--data", chunked[1], "--streaming", "--web")
    with pytest.raises(InputError, match="reads whole utterances; export it with residual-st export --streaming"):
        Model(exported).stream()
    for name, value in (("chunk_frames", 0), ("left_chunks", -1), ("heads", 10**9), ("tails", [[2]]), ("stride", 2.5), ("more", 1)):
        folder = tmp_path / f"{name}"
        shutil.copytree(streaming, folder)
        description = json.loads((folder / "model.json").read_text())
        description["streaming"][name] = value
        (folder / "model.json").write_text(json.dumps(description))
        with pytest.raises(InputError, match=r"model\.json is damaged"):
            Model(folder)


def test_graph_with_another_chunk_size_is_refused(streaming, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(streaming, folder)
    description = json.loads((folder / "model.json").read_text())
    description["streaming"]["stride"] = 8
    (folder / "model.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match="returned 7 frames for a chunk of 4; export it again"):
        Model(folder).encode([noise(1)])


def test_configuration_without_normalisation_is_exported(data, chunked, tmp_path):
    config = linked(data, tmp_path / "data", "config_st_plain.yaml")
    config.write_text(yaml.safe_dump(yaml.safe_load((data / config.name).read_text()) | {"transforms": {"*": []}}))
    cli("export", chunked[0], "--data", config.parent, "--output", tmp_path / "model", "--streaming", "--check", SPEECH)
    assert json.loads((tmp_path / "model" / "model.json").read_text())["differences"]["states"] < 1e-3
