"""A model's tasks and languages, and the prompt words that select them."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from residual_st.errors import InputError

AUTO = "auto"  # the source language that the model detects
TRANSCRIBE, TRANSLATE = "transcribe", "translate"  # Whisper's names of its tasks


@dataclass(frozen=True)
class Direction:
    """A task and its languages; None for the model's own setting.

    Attributes:
        task: `transcribe` or `translate`, for a model that does both.
        source_lang: the spoken language, or `AUTO`.
        target_lang: the language of the translation.
    """

    task: str | None = None
    source_lang: str | None = None
    target_lang: str | None = None


@dataclass(frozen=True)
class Languages:
    """A model's tasks and languages, each with the prompt words that select it.

    Attributes:
        tasks: name -> words; empty for a model with one task.
        sources: code of a source language -> words; empty for a model that has no prompt words for it.
        targets: code of a target language -> words; empty for a model with one.
        names: other names of languages, in lower case -> code.
        default: direction used if none is given.
    """

    tasks: dict[str, list[int]] = field(default_factory=dict)
    sources: dict[str, list[int]] = field(default_factory=dict)
    targets: dict[str, list[int]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    default: Direction = Direction()

    def __post_init__(self):
        if self.default != Direction():
            try:
                self.resolved(Direction())
            except InputError as error:
                raise ValueError(f"the default direction: {error}") from error

    @property
    def numbers(self) -> list[int]:
        """Every prompt word."""
        return [word for table in (self.tasks, self.sources, self.targets) for words in table.values() for word in words]

    @property
    def detected(self) -> dict[str, int]:
        """Code -> word of the languages that the model can detect; empty if it has fewer than two source languages."""
        return {code: words[0] for code, words in self.sources.items()} if len(self.sources) > 1 else {}

    def resolved(self, direction: Direction) -> Direction:
        """A direction, completed with defaults and in the model's own codes.

        Raises:
            InputError: if the model does not support it. The message lists what it supports.
        """
        source = self._code("source_lang", direction.source_lang or self.default.source_lang, self.sources)
        if not self.tasks:
            if direction.task is not None:
                raise InputError(f"task={direction.task}: the model has one task, so task must not be given")
            return Direction(None, source, self._target(direction))
        target = direction.target_lang and self._known(direction.target_lang, {**self.sources, **self.targets})
        task = direction.task or self.default.task
        if direction.task is None and target:  # the language implies the task
            task = TRANSCRIBE if target == source or not self.targets else TRANSLATE
        if task not in self.tasks:
            raise InputError(f"task={task} is not supported by this model; it {_must_be(self.tasks)}")
        if task == TRANSLATE:
            return Direction(task, source, self._target(direction))
        if target not in (None, source):
            raise InputError(f"target_lang={target} must equal source_lang={source}: a transcript is in the spoken language")
        return Direction(task, source)

    def _target(self, direction: Direction) -> str | None:
        return self._code("target_lang", direction.target_lang or self.default.target_lang, self.targets)

    def words(self, direction: Direction) -> list[int]:
        """Prompt words for a direction that is `resolved` and whose source language is known."""
        selected = ((self.sources, direction.source_lang), (self.tasks, direction.task), (self.targets, direction.target_lang))
        return [word for table, name in selected if name is not None for word in table[name]]

    def _code(self, what: str, name: str | None, table: dict[str, list[int]]) -> str | None:
        """The code of a language in `table`. If it has one language, None and `AUTO` mean that one."""
        is_source = table is self.sources
        if not table:
            if name is not None:
                raise InputError(
                    f"{what}={name}: the model has one {'source' if is_source else 'target'} language, so {what} must not be given"
                )
            return None
        if name is None or is_source and name.lower() == AUTO:
            if len(table) == 1:
                return next(iter(table))
            if name is None:
                raise InputError(f"{what} is missing; it {_must_be(table)}")
            return AUTO
        code = self._known(name, table)
        if code not in table:
            accepted = _must_be([*([AUTO] if self.detected and is_source else []), *table])
            raise InputError(f"{what}={name} is not supported by this model; it {accepted}")
        return code

    def _known(self, name: str, table: dict[str, list[int]]) -> str:
        """The code for a code, a name or a tag: `es`, `Spanish`, `<|es|>`."""
        if name in table:
            return name
        plain = name.lower().removeprefix("<|").removesuffix("|>")
        return self.names.get(plain, plain)


def _must_be(known: Iterable[str]) -> str:
    names = [*known]
    return f"must be one of {', '.join(names)}" if len(names) > 1 else f"must be {names[0]}"
