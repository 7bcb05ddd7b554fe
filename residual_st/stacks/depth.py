"""Which layers of two stacks stand at the same depth."""


def layer_map(student_layers: int, teacher_layers: int, groups: tuple[int, ...] | None = None) -> list[tuple[int, int]]:
    """Pairs (layer of the student, layer of the teacher), both from 0, of equal depth.

    Layer i of L, from 1, stands at depth i / L and is compared with the teacher's layer nearest to it; the last with the last.
    Of layers that share their matrices only a group's last is compared.

    Args:
        groups: the student's layer -> group; None for a dense student, each of whose layers is compared.
    """
    groups = groups or tuple(range(student_layers))
    last = {group: layer for layer, group in enumerate(groups)}
    return [(layer, max(1, round((layer + 1) * teacher_layers / student_layers)) - 1) for layer in sorted(last.values())]
