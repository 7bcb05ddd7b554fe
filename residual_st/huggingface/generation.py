"""Text generation by transformers' own generate, with the settings of the model's folder."""

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor

from residual_st.errors import refusing
from residual_st.huggingface.quiet import quiet
from residual_st.languages import AUTO

Inputs = Mapping[str, Any]  # of generate: features, or `encoder_outputs`


@torch.no_grad()
def prompts_of(model: transformers.PreTrainedModel, inputs: Inputs, **generate_kwargs: str | int) -> Tensor:
    """The prompts that generate uses for a batch: (batch, tokens).

    Args:
        inputs: inputs of generate, such as `input_features` or `encoder_outputs`.
        generate_kwargs: generate's `language`, `task` or `tgt_lang`, or the `forced_bos_token_id`, instead of the folder's
            settings. With the language `AUTO`, the model detects the language of each utterance.

    Raises:
        InputError: if generate cannot use the folder's settings or `generate_kwargs`.
    """
    if not isinstance(model, transformers.WhisperForConditionalGeneration):
        settings = model.generation_config
        start = settings.decoder_start_token_id
        start = model.config.decoder_start_token_id if start is None else start
        languages = getattr(settings, "text_decoder_lang_to_code_id", None) or {}
        forced = generate_kwargs.get("forced_bos_token_id", settings.forced_bos_token_id)
        words = [word for word in (start, forced, languages.get(generate_kwargs.get("tgt_lang"))) if word is not None]
        return torch.tensor(words, device=model.device).expand(len(next(iter(inputs.values()))), -1)
    options: dict[str, Any] = dict(generate_kwargs)
    if generate_kwargs.get("language") == AUTO:
        tags = {number: tag for tag, number in language_tags(model).items()}
        options["language"] = [tags[number] for number in model.detect_language(**inputs).tolist()]
    prompts: list[Tensor] = []

    def note(words: Tensor, scores: Tensor) -> Tensor:
        prompts.append(words)
        return scores

    with _greedy(model, max_new_tokens=1):
        model.generate(**inputs, logits_processor=[note], return_timestamps=False, **options)
    return prompts[0]


def language_tags(model: transformers.WhisperForConditionalGeneration) -> dict[str, int]:
    """Whisper's language tags, such as `<|en|>` -> word; empty for a model without them."""
    return getattr(model.generation_config, "lang_to_id", None) or {}


def prompt_of(model: transformers.PreTrainedModel, **generate_kwargs: str) -> list[int] | None:
    """`prompts_of` for any audio; None if generate's prompt depends on the detected language."""
    prompt, is_detected = opening_of(model, **generate_kwargs)
    return None if is_detected else prompt


def opening_of(model: transformers.PreTrainedModel, **generate_kwargs: str) -> tuple[list[int], bool]:
    """`prompts_of` for any audio, and whether the language in it would be detected from the audio."""
    if not isinstance(model, transformers.WhisperForConditionalGeneration):
        return prompts_of(model, {"input_features": torch.zeros(1)})[0].tolist(), False

    detected: list[int] = []

    def detect(*arguments, **options) -> Tensor:
        detected.append(next(iter(language_tags(model).values())))
        return torch.tensor(detected, device=model.device)

    states = torch.zeros(1, model.config.max_source_positions, model.config.d_model, dtype=model.dtype, device=model.device)
    vars(model).update(detect_language=detect)  # hides the class's method until it is deleted
    try:
        prompts = prompts_of(model, {"encoder_outputs": transformers.modeling_outputs.BaseModelOutput(states)}, **generate_kwargs)
    finally:
        del vars(model)["detect_language"]
    return prompts[0].tolist(), bool(detected)


@torch.no_grad()
def greedy_words(
    model: transformers.PreTrainedModel,
    inputs: Inputs,
    most: int,
    stopping: Sequence[transformers.StoppingCriteria] = (),
    **generate_kwargs: str | int,
) -> tuple[Tensor, int]:
    """Greedy output of generate for a batch, including the prompt, and the length of the prompt.

    Args:
        inputs: see `prompts_of`.
        most: maximum number of words; fewer if the decoder takes fewer.
        stopping: additional stopping criteria.
        generate_kwargs: see `prompts_of`.

    Returns:
        Words (batch, words), padded after a text's end, and the length of the prompt.

    Raises:
        InputError: see `prompts_of`.
    """
    if model.config.model_type == "whisper" and "encoder_outputs" not in inputs:
        inputs = {"encoder_outputs": model.get_encoder()(**inputs)}
    prompts = prompts_of(model, inputs, **generate_kwargs)
    length = prompts.size(1)
    most = min(most, _positions(model.config) - length)
    # forced words are in the prompt, and older releases refuse them here
    with _greedy(model, max_new_tokens=most, forced_decoder_ids=None):
        # bypasses Whisper's own generate, which would remove the prompt and continue after timestamps
        criteria = transformers.StoppingCriteriaList(stopping)
        words = transformers.GenerationMixin.generate(model, **inputs, decoder_input_ids=prompts, stopping_criteria=criteria)
    return words, length


def _positions(config: transformers.PretrainedConfig) -> int:
    """Maximum number of words of a model's decoder."""
    decoder = getattr(config, "decoder", config)  # which may have its own config
    names = ("max_target_positions", "max_position_embeddings", "n_positions")
    return next(value for name in names if (value := getattr(decoder, name, None)) is not None)


@contextlib.contextmanager
def _greedy(model: transformers.PreTrainedModel, **settings) -> Iterator[None]:
    """Make generate search greedily, with `settings` in place of the model's, and without warnings about how it is called.

    Older releases use the model's own number of beams regardless of generate's arguments.

    Raises:
        InputError: if generate cannot use the settings.
    """
    configured = model.generation_config
    model.generation_config = copy.deepcopy(configured)
    model.generation_config.update(num_beams=1, num_return_sequences=1, do_sample=False, return_dict_in_generate=False, **settings)
    try:
        with quiet(), refusing("transformers' generate cannot use the folder's generation settings"):
            yield
    finally:
        model.generation_config = configured
