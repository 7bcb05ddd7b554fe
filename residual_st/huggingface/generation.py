"""Texts as transformers' own generate makes them, with the settings of the model's folder."""

import contextlib
import copy
from collections.abc import Iterator, Sequence

import torch
import transformers
from torch import Tensor

from residual_st.errors import refusing
from residual_st.huggingface.quiet import quiet
from residual_st.languages import AUTO


@torch.no_grad()
def prompts_of(model: transformers.PreTrainedModel, inputs: dict[str, Tensor], **asked: str | int) -> Tensor:
    """What generate begins each text of a batch with: (batch, tokens).

    Args:
        inputs: what generate takes, such as `input_features`, or `encoder_outputs` in their place.
        asked: generate's `language`, `task` or `tgt_lang`, or the `forced_bos_token_id`, in place of the folder's settings. The
            language `AUTO` is that which the model detects in each.

    Raises:
        InputError: if generate cannot use the folder's settings, or what is asked for.
    """
    if model.config.model_type != "whisper":
        settings = model.generation_config
        start = settings.decoder_start_token_id
        start = model.config.decoder_start_token_id if start is None else start
        languages = getattr(settings, "text_decoder_lang_to_code_id", None) or {}
        forced = asked.get("forced_bos_token_id", settings.forced_bos_token_id)
        prompt = (start, forced, languages.get(asked.get("tgt_lang")))
        prompt = torch.tensor([word for word in prompt if word is not None], device=model.device)
        return prompt.expand(len(next(iter(inputs.values()))), -1)
    if asked.get("language") == AUTO:
        tags = {number: tag for tag, number in model.generation_config.lang_to_id.items()}
        asked["language"] = [tags[number] for number in model.detect_language(**inputs).tolist()]
    given = []

    def note(words: Tensor, scores: Tensor) -> Tensor:
        given.append(words)
        return scores

    with _greedy(model, max_new_tokens=1):
        model.generate(**inputs, logits_processor=[note], return_timestamps=False, **asked)
    return given[0]


def prompt_of(model: transformers.PreTrainedModel, **asked: str) -> list[int] | None:
    """`prompts_of` any audio; None where generate begins texts with the language that it hears."""
    prompt, is_heard = opening_of(model, **asked)
    return None if is_heard else prompt


def opening_of(model: transformers.PreTrainedModel, **asked: str) -> tuple[list[int], bool]:
    """`prompts_of` any audio, and whether the language in it would be the one that is heard."""
    if model.config.model_type != "whisper":
        return prompts_of(model, {"input_features": torch.zeros(1)})[0].tolist(), False

    heard = []

    def hear(*arguments, **options) -> Tensor:
        heard.append(next(iter(model.generation_config.lang_to_id.values())))
        return torch.tensor(heard, device=model.device)

    states = torch.zeros(1, model.config.max_source_positions, model.config.d_model, dtype=model.dtype, device=model.device)
    model.detect_language = hear  # hides the class's until it is deleted
    try:
        prompts = prompts_of(model, {"encoder_outputs": transformers.modeling_outputs.BaseModelOutput(states)}, **asked)
    finally:
        del model.detect_language
    return prompts[0].tolist(), bool(heard)


@torch.no_grad()
def greedy_words(
    model: transformers.PreTrainedModel,
    inputs: dict[str, Tensor],
    most: int,
    stopping: Sequence[transformers.StoppingCriteria] = (),
    **asked: str | int,
) -> tuple[Tensor, int]:
    """What generate begins the texts of a batch with and writes by greedy search, and how many words of it are the beginning.

    Args:
        inputs: as in `prompts_of`.
        most: words of a text; fewer where the decoder takes no more.
        stopping: what else ends a text.
        asked: as in `prompts_of`.

    Returns:
        Words (batch, words), with the tokens behind a text's end padding, and the length of the prompt.

    Raises:
        InputError: as `prompts_of`.
    """
    if model.config.model_type == "whisper" and "encoder_outputs" not in inputs:
        inputs = {"encoder_outputs": model.get_encoder()(**inputs)}
    prompts = prompts_of(model, inputs, **asked)
    length = prompts.size(1)
    most = min(most, _positions(model.config) - length)
    # forced words are in the prompt, and older releases refuse them here
    with _greedy(model, max_new_tokens=most, forced_decoder_ids=None):
        # past Whisper's own generate, which would leave out the prompt and continue behind time stamps
        criteria = transformers.StoppingCriteriaList(stopping)
        words = transformers.GenerationMixin.generate(model, **inputs, decoder_input_ids=prompts, stopping_criteria=criteria)
    return words, length


def _positions(config: transformers.PretrainedConfig) -> int:
    """How many words a model's decoder takes."""
    decoder = getattr(config, "decoder", config)  # which may have a config of its own
    names = ("max_target_positions", "max_position_embeddings", "n_positions")
    return next(value for name in names if (value := getattr(decoder, name, None)) is not None)


@contextlib.contextmanager
def _greedy(model: transformers.PreTrainedModel, **settings) -> Iterator[None]:
    """Have generate search greedily, with other settings of the model's, and without warnings on how it is called.

    Older releases keep the model's own number of beams, whatever generate is given.

    Raises:
        InputError: if generate cannot use the settings.
    """
    own = model.generation_config
    model.generation_config = copy.deepcopy(own)
    model.generation_config.update(num_beams=1, num_return_sequences=1, do_sample=False, return_dict_in_generate=False, **settings)
    try:
        with quiet(), refusing("the folder has settings of generation that transformers' generate cannot use"):
            yield
    finally:
        model.generation_config = own
