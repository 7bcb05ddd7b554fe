"""Translate audio files in Python: what `S2TResidualTransformerModel.from_pretrained` returns."""

import torch
from fairseq.data.audio.feature_transforms import CompositeAudioFeatureTransform
from fairseq.models.speech_to_text.hub_interface import S2THubInterface

from residual_st.errors import InputError


class S2TResidualHubInterface(S2THubInterface):
    """fairseq's hub interface, with features computed as the recipe computes them.

    fairseq's own reads audio through parts of torchaudio that are gone since 2.9, and only with a `hub` entry in the data
    configuration, which its recipe does not write.

    >>> hub = S2TResidualTransformerModel.from_pretrained("run", "average.pt", "mustc/en-de", config_yaml="config_st.yaml")
    >>> hub.predict("talk.wav")
    """

    @classmethod
    def get_model_input(cls, task, audio: str | torch.Tensor) -> dict:
        """A batch of one utterance.

        Args:
            task: the speech_to_text task, whose transforms for unseen splits are applied.
            audio: a file at the sampling rate of the training data, or its samples in [-1, 1], shape (1, n), at 16 kHz.

        Raises:
            InputError: if the file cannot be read, or is too short for one frame.
        """
        import soundfile  # an extra: the recipe's dependencies

        from residual_st.filterbank import filterbank

        if isinstance(audio, str):
            try:
                samples, sample_rate = soundfile.read(audio, dtype="float32", always_2d=True)
            except (soundfile.LibsndfileError, OSError) as error:
                raise InputError(f"{audio} cannot be read as audio: {error}") from error
            samples = samples.mean(axis=1)
        else:
            samples, sample_rate = audio.squeeze(0).numpy(), 16_000
        features = filterbank(samples, sample_rate)
        if not len(features):
            raise InputError(f"{audio if isinstance(audio, str) else 'the audio'} is shorter than one frame of 25 ms")
        transforms = CompositeAudioFeatureTransform.from_config_dict(task.data_cfg.get_feature_transforms("test", False))
        if transforms is not None:
            features = transforms(features)
        source = torch.from_numpy(features).float().unsqueeze(0)
        net_input = {"src_tokens": source, "src_lengths": torch.tensor([source.shape[1]]), "prev_output_tokens": None}
        return {"net_input": net_input, "target_lengths": None, "speaker": None}
