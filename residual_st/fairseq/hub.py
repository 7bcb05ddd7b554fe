"""Translation of audio files in Python: the return value of `S2TResidualTransformerModel.from_pretrained`."""

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from fairseq import utils
from fairseq.data.audio.speech_to_text_dataset import SpeechToTextDataset
from fairseq.models.speech_to_text.hub_interface import S2THubInterface
from torch import Tensor, nn

from residual_st.audio.lengths import FRAMES_PER_SECOND, Lengths
from residual_st.errors import InputError, missing_package
from residual_st.fairseq.languages import languages_of
from residual_st.fairseq.manifest import trained_lengths
from residual_st.languages import Direction, Languages


class S2TResidualHubInterface(S2THubInterface):
    """fairseq's hub interface, with features computed as in the recipe.

    fairseq's own interface reads audio with parts of torchaudio that were removed in 2.9, and needs a `hub` entry in the data
    configuration, which its recipe does not write.

    >>> hub = S2TResidualTransformerModel.from_pretrained("run", "average.pt", "mustc/en-de", config_yaml="config_st.yaml")
    >>> hub.predict("talk.wav")
    """

    def __init__(self, cfg, task, model):
        nn.Module.__init__(self)
        self.cfg, self.task, self.model = cfg, task, model.eval()
        # fairseq 0.12.2 passes the whole configuration here, in which the task does not find the generation flags
        self.generator = task.build_generator([model], cfg.generation)

    def predict(
        self,
        audio: str | Path | np.ndarray | Tensor,
        target_lang: str | None = None,
        *,
        tgt_lang: str | None = None,
        task: str | None = None,
        source_lang: str | None = None,
        sample_rate: int | None = None,
        longest_seconds: float | None = None,
    ) -> str:
        """The text of a recording.

        Args:
            audio: a file, or samples: floats in [-1, 1] or integers, shape (n,), (n, channels) or (channels, n). It is converted
                to the sample rate of the data configuration and to one channel.
            target_lang: target language such as `fr`; required for models with several target languages.
            tgt_lang: fairseq's name for `target_lang`.
            task: as in `residual_st.runtime.Translator`; refused, since fairseq models have one task.
            source_lang: as in `residual_st.runtime.Translator`; refused, since fairseq models take none.
            sample_rate: sample rate of samples in Hz; None for the rate of the data configuration.
            longest_seconds: maximum length of the segments between pauses, which are translated separately. Longer ones are cut
                where they are quietest. None for the lengths that the model was trained on.

        Returns:
            The joined texts of all segments; empty without speech.

        Raises:
            InputError: if the audio cannot be read or is too short for one frame, the model does not have the language, or
                `longest_seconds` is too long for the model.
        """
        audio_of = _audio()
        from residual_st.audio.pauses import split_at_pauses

        direction = self._languages.resolved(Direction(task, source_lang, target_lang or tgt_lang))
        lengths = self._lengths.limited(longest_seconds, self.task.max_positions()[0] / FRAMES_PER_SECOND)
        rate = int(self.task.data_cfg.sample_rate)
        samples = audio_of.read_audio(audio, rate, sample_rate)
        if len(samples) < 0.025 * rate:
            raise InputError(f"{audio_of.audio_name(audio)} is shorter than one frame (25 ms)")
        texts = []
        for piece in split_at_pauses(samples, rate, lengths):
            sample = self.get_model_input(self.task, piece)
            texts.append(self.get_prediction(self.task, self.model, self.generator, sample, direction.target_lang))
        return " ".join(filter(None, texts))

    @cached_property
    def _languages(self) -> Languages:
        return languages_of(self.task.tgt_dict.symbols, self.task.data_cfg)

    @cached_property
    def _lengths(self) -> Lengths:
        """The lengths of the segments that the model was trained on."""
        return trained_lengths(self.task.args.data, getattr(self.task.args, "train_subset", None), self.task.max_positions()[0])

    @classmethod
    def get_model_input(cls, task, audio: str | Path | np.ndarray | Tensor) -> dict:
        """A batch of one utterance, with the task's transforms for unseen splits. `audio`: see `predict`, at the task's rate."""
        audio_of = _audio()
        from residual_st.fairseq.model_input import model_input

        of_task = model_input(task.data_cfg)
        source = of_task.features(audio_of.read_audio(audio, of_task.sample_rate)).unsqueeze(0)
        if not source.shape[1]:
            raise InputError(f"{audio_of.audio_name(audio)} is shorter than one frame (25 ms)")
        net_input = {"src_tokens": source, "src_lengths": torch.tensor([source.shape[1]]), "prev_output_tokens": None}
        return {"net_input": net_input, "target_lengths": None, "speaker": None}

    @classmethod
    def get_prediction(cls, task, model, generator, sample: dict, *arguments, **keywords) -> str:
        """fairseq's function, for a model on any device and in any precision."""
        return super().get_prediction(task, model, _OnModelsDevice(generator), sample, *arguments, **keywords)

    @classmethod
    def get_prefix_token(cls, task, lang: str | None) -> Tensor | None:
        """The language tag at the start of the target, (1, 1); None for models with one target language."""
        target = languages_of(task.tgt_dict.symbols, task.data_cfg).resolved(Direction(target_lang=lang)).target_lang
        return None if target is None else super().get_prefix_token(task, target)

    @classmethod
    def detokenize(cls, task, tokens: Tensor) -> str:
        """Text without language tags."""
        kept = [token for token in tokens.tolist() if not SpeechToTextDataset.is_lang_tag(task.tgt_dict[token])]
        return super().detokenize(task, torch.tensor(kept, dtype=torch.long))


class _OnModelsDevice:
    """A generator that moves its input to the model's device and precision; fairseq's hub leaves it on the CPU in fp32."""

    def __init__(self, generator):
        self._generator = generator

    def generate(self, models: list[nn.Module], sample: dict, prefix_tokens: Tensor | None = None) -> list:
        weight = next(models[0].parameters())

        def moved(value: Tensor) -> Tensor:
            return value.to(weight.device, weight.dtype if value.is_floating_point() else None)

        sample, prefix = utils.apply_to_sample(moved, {"sample": sample, "prefix": prefix_tokens}).values()
        return self._generator.generate(models, sample, prefix_tokens=prefix)


def _audio():
    """The audio functions. Raises InputError if their packages, which fairseq does not need, are missing."""
    try:
        import onnxruntime  # noqa: F401 - needed by the voice-activity detector

        from residual_st.audio import filterbank, reading  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(f"audio cannot be read: {missing_package(error, 'audio')}") from error
    return reading
