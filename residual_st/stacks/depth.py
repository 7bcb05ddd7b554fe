"""Pairing of the layers of two stacks by depth."""


def layer_map(student_layers: int, teacher_layers: int, groups: tuple[int, ...] | None = None) -> list[tuple[int, int]]:
    """Pairs (layer of the student, layer of the teacher) of equal depth, both counted from 0.

    Layer i of L (from 1) has depth i / L and is paired with the teacher's layer of nearest depth, the last with the last. Of a
    group of shared layers only the last one is paired.

    Args:
        groups: the student's layer -> group; None for a dense student, in which each layer is paired.
    """
    groups = groups or tuple(range(student_layers))
    last = {group: layer for layer, group in enumerate(groups)}
    return [(layer, max(1, round((layer + 1) * teacher_layers / student_layers)) - 1) for layer in sorted(last.values())]
