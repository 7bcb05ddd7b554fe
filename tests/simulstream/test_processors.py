"""simulstream's commands with exported models."""

import asyncio
import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import yaml
from conftest import BIN, ROOT, cli, run

pytest.importorskip("simulstream", reason="simulstream is not installed: pip install simulstream mweralign")
pytest.importorskip("mweralign", reason="mweralign is not installed: pip install mweralign")
from simulstream.metrics.readers import LogReader  # noqa: E402
from simulstream.server.message_processor import MessageProcessor  # noqa: E402
from simulstream.server.speech_processors import build_speech_processor  # noqa: E402
from simulstream.server.websocket_server import SpeechProcessorPool, connection_handler_factory  # noqa: E402

sys.path.append(str(ROOT / "tests" / "streaming"))
from streams import RATE, SPEECH, segments_of, talk, updates_of  # noqa: E402

from residual_st.errors import InputError  # noqa: E402
from residual_st.runtime import Settings  # noqa: E402
from residual_st.runtime.vocabulary import Vocabulary  # noqa: E402
from residual_st.simulstream.pieces import Pieces, text_of  # noqa: E402
from residual_st.streaming import Stream  # noqa: E402

CONFIGS = sorted((ROOT / "configs").glob("simulstream_s[tl]*.yaml"))
# its BLEU scorer imports COMET without using it, and COMET needs numpy before 2
SCORE_QUALITY = """
import importlib.util, sys, types
if importlib.util.find_spec("comet") is None:
    sys.modules["comet"] = types.SimpleNamespace(download_model=None, load_from_checkpoint=None)
from simulstream.metrics.score_quality import cli_main
cli_main()
"""


def config_of(path, model, **settings) -> dict:
    return {**yaml.safe_load(path.read_text()), "model": str(model), "beam": 1, **settings}


def processor_of(path, model, **settings):
    config = json.loads(json.dumps(config_of(path, model, **settings)), object_hook=lambda fields: SimpleNamespace(**fields))
    return build_speech_processor(config)


def outputs_of(processor, samples, chunk=RATE, languages=None) -> list:
    messages = MessageProcessor(1, processor)
    messages.process_metadata({"sample_rate": RATE, **(languages or {})})
    pcm = (samples * (2**15 - 1)).astype(np.int16)
    outputs = [messages.process_speech(pcm[start : start + chunk].tobytes()) for start in range(0, len(pcm), chunk)]
    return [*filter(None, outputs), messages.end_of_stream()]


def text_after(outputs) -> str:
    """The text after all outputs. Deleted tokens are always the last ones."""
    tokens = []
    for output in outputs:
        if output.deleted_tokens:
            assert tokens[-len(output.deleted_tokens) :] == output.deleted_tokens
            del tokens[-len(output.deleted_tokens) :]
        tokens += output.new_tokens
    return text_of(tokens).strip()


def test_simulstream_commands_run_and_score(exported, tmp_path):
    """`simulstream_inference`, the scorers and the statistics, with the arguments of its documentation."""
    soundfile.write(tmp_path / "talk.wav", talk(), RATE, "PCM_16")
    (tmp_path / "talks.txt").write_text("talk.wav\n")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config_of(ROOT / "configs" / "simulstream_stream.yaml", exported)))
    lengths = [len(samples) / RATE for samples in SPEECH]
    offsets = [0.7, 0.7 + lengths[0] + 0.6]
    segments = [{"wav": "talk.wav", "offset": offset, "duration": length} for offset, length in zip(offsets, lengths)]
    (tmp_path / "talk.yaml").write_text(yaml.safe_dump(segments))
    (tmp_path / "talk.de").write_text("ein Satz\nund noch einer\n")
    command = ["--speech-processor-config", "config.yaml", "--wav-list-file", "talks.txt", "--metrics-log-file", "log.jsonl"]
    run(BIN / "simulstream_inference", *command, "--tgt-lang", "de", "--src-lang", "en", cwd=tmp_path)
    scored = ["--eval-config", "config.yaml", "--log-file", "log.jsonl"]
    references = ["--audio-definition", "talk.yaml"]
    latency = run(
        BIN / "simulstream_score_latency", *scored, *references, "--reference", "talk.de", "--scorer", "stream_laal", cwd=tmp_path
    )
    scorer = [sys.executable, "-c", SCORE_QUALITY, *scored, *references, "--references", "talk.de", "--scorer", "sacrebleu"]
    quality = run(*scorer, cwd=tmp_path)
    statistics = run(BIN / "simulstream_stats", *scored, cwd=tmp_path)
    assert re.search(r"ideal_latency=-?\d", latency.stdout)
    assert re.search(r"sacrebleu score: \d", quality.stdout)
    assert json.loads(statistics.stdout.removeprefix("Stats: "))["normalized_erasure"]["value"] == 0
    reader = LogReader(SimpleNamespace(detokenizer_type="simuleval", latency_unit="spm"), str(tmp_path / "log.jsonl"))
    expected = [segment.text for segment in segments_of(updates_of(Stream(exported, settings=Settings(beam=1)), talk()))]
    assert reader.final_outputs() == {"talk": " ".join(filter(None, expected))}


@pytest.mark.parametrize("policy", ["local-agreement", "alignatt", "retranslation"])
def test_processor_outputs_the_text_of_a_stream(policy, exported):
    sound = np.concatenate([talk(), talk()])
    processor = processor_of(ROOT / "configs" / "simulstream_stream.yaml", exported, policy=policy)
    expected = " ".join(segment.text for segment in segments_of(updates_of(Stream(exported, policy, Settings(beam=1)), sound)))
    for _ in range(2):  # processors are reused
        outputs = outputs_of(processor, sound)
        assert text_after(outputs) == expected
        is_revised = any(output.deleted_tokens for output in outputs)
        assert is_revised == (policy == "retranslation")
        assert "".join(output.new_string for output in outputs).strip() == expected or is_revised


def test_processor_outputs_the_text_of_the_ctc_head(streaming_ctc):
    folder = streaming_ctc[-1]
    processor = processor_of(ROOT / "configs" / "simulstream_stream.yaml", folder, policy="ctc")
    outputs = outputs_of(processor, talk())
    expected = " ".join(segment.text for segment in segments_of(updates_of(Stream(folder, "ctc"), talk())))
    assert "".join(output.new_string for output in outputs).strip() == expected != ""
    assert not any(output.deleted_tokens for output in outputs)


@pytest.mark.parametrize("name", ["streamatt", "sliding_window"])
def test_simulstream_policies_run(name, exported):
    processor = processor_of(ROOT / "configs" / f"simulstream_{name}.yaml", exported, max_tokens_per_second=4)
    outputs = outputs_of(processor, talk())
    assert text_after(outputs)
    silence = outputs_of(processor, np.zeros(20 * RATE, np.float32))
    assert text_after(silence) == ""
    assert text_after(outputs_of(processor, talk())) == text_after(outputs)


def test_ten_simultaneous_websocket_clients(exported):
    """They send faster than real time, in empty pieces and pieces that split samples; one disconnects."""
    websockets = pytest.importorskip("websockets")
    from websockets.asyncio.server import serve

    pcm = (talk() * (2**15 - 1)).astype(np.int16).tobytes()
    config = SimpleNamespace(**config_of(ROOT / "configs" / "simulstream_stream.yaml", exported))

    async def client(port: int, stops: bool) -> str:
        async with websockets.connect(f"ws://localhost:{port}") as socket:
            await socket.send(json.dumps({"sample_rate": RATE, "target_lang": "de"}))
            for start in range(0, len(pcm) // (2 if stops else 1), 3210):
                await socket.send(pcm[start : start + 3210])
                await socket.send(b"")
            if stops:
                return ""
            await socket.send(json.dumps({"end_of_stream": True}))
            text = ""
            while "end_of_processing" not in (answer := json.loads(await socket.recv())):
                text = text.removesuffix(answer["deleted"]) + answer["new"]
            return text.strip()

    async def clients() -> list[str]:
        pool = SpeechProcessorPool(config, 10, 60)
        async with serve(connection_handler_factory(pool), "localhost", 0) as server:
            port = server.sockets[0].getsockname()[1]
            outputs = await asyncio.gather(*(client(port, number == 4) for number in range(10)))
            return [*outputs, await client(port, False)]

    texts = asyncio.run(clients())
    assert texts.pop(4) == "" and len({*texts}) == 1 and texts[0]


def test_checkpoint_is_exported_on_loading(shared_checkpoint, data, exported):
    path = ROOT / "configs" / "simulstream_stream.yaml"
    loaded = processor_of(path, shared_checkpoint, data=str(data))
    assert text_after(outputs_of(loaded, talk())) == text_after(outputs_of(processor_of(path, exported), talk()))


def test_whisper_uses_task_and_languages(tmp_path):
    pytest.importorskip("residual_st.huggingface")
    from tiny_whisper import SETTINGS, WORDS, save_whisper

    folder = save_whisper(tmp_path / "whisper", WORDS, **SETTINGS)
    cli("export", folder, "--output", tmp_path / "model")
    for path in CONFIGS:
        model = folder if path.stem == "simulstream_stream" else tmp_path / "model"
        processor = processor_of(path, model, task="transcribe", source_lang="de")
        as_configured = outputs_of(processor, talk())
        with_languages = outputs_of(processor_of(path, model), talk(), languages={"source_lang": "German", "target_lang": "de"})
        with_source_language = outputs_of(processor, talk(), languages={"source_lang": "en"})
        assert text_after(as_configured) and text_after(with_languages) == text_after(as_configured)
        assert text_after(with_source_language) != text_after(as_configured)
    with pytest.raises(InputError, match="source_lang=xx is not supported by this model"):
        outputs_of(processor, talk(), languages={"source_lang": "xx"})


def test_unsupported_settings_are_refused(exported, tmp_path, monkeypatch):
    stream, streamatt, window = (
        ROOT / "configs" / f"simulstream_{name}.yaml" for name in ("stream", "streamatt", "sliding_window")
    )
    for path, settings, message in (
        (stream, {"policy": "wait-k"}, "policy=wait-k is not known"),
        (window, {"window_len": 100}, "a window of 100 s must be above 0 and, for .*, at most 60"),
        (stream, {"model": str(tmp_path)}, "config.json"),
    ):
        with pytest.raises(InputError, match=message):
            processor_of(path, settings.pop("model", exported), **settings)
    monkeypatch.setattr("residual_st.runtime.model.Model.has_attention", False)
    with pytest.raises(InputError, match="has no decoder attention, which this type needs; export it again"):
        processor_of(streamatt, exported)


def test_tokens_are_complete_characters_and_map_back_to_words():
    """With sentencepiece bytes, and with byte-level words that form one character together."""
    pieces = Pieces(Vocabulary(["<s>", "▁a", "<0xE7>", "<0x88>", "<0xB1>", "b"], "sentencepiece", 0, [], 0, None, None, [0]))
    assert pieces.tokens([1, 2, 3, 4, 5]) == ["▁a", "爱", "b"]
    assert pieces.words(["爱", "b", "▁a"]) == [2, 3, 4, 5, 1]
    assert pieces.tokens([0, 1, 2]) == ["▁a", "\ufffd"]
