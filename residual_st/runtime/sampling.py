"""Greedy decoding or sampling of one text."""

import numpy as np

from residual_st.runtime.beam_search import Hypothesis, Step
from residual_st.runtime.rules import Rules


def draw(step: Step, rules: Rules, prompt: list[int], temperature: float, random: np.random.Generator) -> Hypothesis:
    """Decode one text greedily or by sampling.

    Args:
        step, prompt: as for a `BeamSearch` with one utterance and one hypothesis.
        temperature: 0 for the likeliest words; above 0, words are sampled with probabilities raised to the power 1 / temperature.

    Returns:
        A text whose score is the mean log-probability of its words and its end, normalised over the allowed words.
    """
    row = np.zeros(1, np.int64)
    for word in prompt[:-1]:
        step(np.array([[word]]), row)
    tokens: list[int] = []
    total, word = 0.0, prompt[-1]
    while True:
        log_probs = rules.allowed(step(np.array([[word]]), row)[0], np.array([tokens], np.int64))[0]
        # Gumbel noise: the maximum then falls on each word with its probability
        noise = random.gumbel(size=len(log_probs)) if temperature else 0.0
        word = int(np.argmax(log_probs / (temperature or 1.0) + noise))
        total += float(log_probs[word] - _log_of_sum(log_probs))
        if word == rules.eos:
            return Hypothesis(tokens, total / (len(tokens) + 1))
        tokens.append(word)


def _log_of_sum(log_probs: np.ndarray) -> float:
    most = log_probs.max()
    return float(most + np.log(np.exp(log_probs - most).sum()))
