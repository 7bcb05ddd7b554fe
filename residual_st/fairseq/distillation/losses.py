"""The parts of the distillation loss."""

from torch import Tensor


def word_divergence(student: Tensor, teacher: Tensor, words: Tensor | None, counted: Tensor, temperature: float = 1.0) -> Tensor:
    """`T^2 KL(teacher || student)` of the next-word distributions at temperature T (Hinton et al., arXiv 1503.02531, section 2),
    summed over positions.

    Args:
        student: logits or log-probabilities (batch, length, vocabulary).
        teacher: log-probabilities of all words, in the student's shape; or, with `words`, of the teacher's k most probable words
            (batch, length, k), normalised to a sum of 1.
        words: None, or the indices of those words (batch, length, k).
        counted: mask of the positions that count (batch, length), bool.
        temperature: T, above 0.
    """
    student_log_probs = (student.float() / temperature).log_softmax(-1)
    if words is not None:
        student_log_probs = student_log_probs.gather(-1, words)
    teacher_log_probs = (teacher.float() / temperature).log_softmax(-1)
    divergence = (teacher_log_probs.exp() * (teacher_log_probs - student_log_probs)).sum(-1)
    return temperature**2 * divergence.masked_fill(~counted, 0).sum()


def state_difference(student: Tensor, teacher: Tensor, padding: Tensor | None) -> Tensor:
    """Squared distance of two layers' states / variance of the teacher's: 0 if they are equal, about 2 if unrelated.

    Args:
        student, teacher: (positions, batch, width).
        padding: (batch, positions), True for padding; None for no padding.
    """
    student, teacher = student.float(), teacher.float()
    if padding is not None:
        real = ~padding.t()
        student, teacher = student[real], teacher[real]
    else:
        student, teacher = student.flatten(0, 1), teacher.flatten(0, 1)
    variance = (teacher - teacher.mean(0)).square().sum()
    return (student - teacher).square().sum() / variance.clamp_min(1e-8)
