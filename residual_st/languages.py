"""What a model does: its tasks, the languages that it hears and writes, and the words that ask for them in front of a text."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from residual_st.errors import InputError

AUTO = "auto"  # the source language that the model detects
TRANSCRIBE, TRANSLATE = "transcribe", "translate"  # Whisper's words for its tasks


@dataclass(frozen=True)
class Direction:
    """What is asked of a model; None for its own setting.

    Attributes:
        task: `transcribe` or `translate`, of a model that does both.
        source_lang: the spoken language, or `AUTO`.
        target_lang: the language that is translated into.
    """

    task: str | None = None
    source_lang: str | None = None
    target_lang: str | None = None


@dataclass(frozen=True)
class Languages:
    """A model's tasks and languages, each with the words that ask for it.

    Attributes:
        tasks: name -> words; none for a model that was trained for one task.
        sources: code of a spoken language -> words; none for a model that is not told.
        targets: code of a language that is translated into -> words; none for a model of one.
        names: other names of languages, in lower case -> code.
        default: what is done where nothing is asked for.
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
                raise ValueError(f"what is done where nothing is asked for: {error}") from error

    @property
    def numbers(self) -> list[int]:
        """Every word that asks for something."""
        return [word for table in (self.tasks, self.sources, self.targets) for words in table.values() for word in words]

    @property
    def detected(self) -> dict[str, int]:
        """Code -> word of the languages that the model can tell apart; none where it knows one, or is not told."""
        return {code: words[0] for code, words in self.sources.items()} if len(self.sources) > 1 else {}

    def resolved(self, asked: Direction) -> Direction:
        """What is asked for, completed and in the model's own codes.

        Raises:
            InputError: if the model cannot do it. The sentence says what it can.
        """
        source = self._code("source_lang", asked.source_lang or self.default.source_lang, self.sources)
        if not self.tasks:
            if asked.task is not None:
                raise InputError(f"task={asked.task}: the model was trained for one task and takes none")
            return Direction(None, source, self._code("target_lang", asked.target_lang or self.default.target_lang, self.targets))
        given = asked.target_lang and self._known(asked.target_lang, {**self.sources, **self.targets})
        task = asked.task or self.default.task
        if asked.task is None and given:  # a language says which task is meant
            task = TRANSCRIBE if given == source or not self.targets else TRANSLATE
        if task not in self.tasks:
            raise InputError(f"task={task} is not what this model does; it {_must_be(self.tasks)}")
        if task == TRANSLATE:
            return Direction(task, source, self._code("target_lang", asked.target_lang or self.default.target_lang, self.targets))
        if given not in (None, source):
            raise InputError(f"target_lang={given} must be source_lang={source}: transcribing writes the language that is spoken")
        return Direction(task, source)

    def words(self, direction: Direction) -> list[int]:
        """In front of a text, of a direction that is `resolved` and whose source language is known."""
        targets = {} if direction.task == TRANSCRIBE else self.targets
        asked = ((self.sources, direction.source_lang), (self.tasks, direction.task), (targets, direction.target_lang))
        return [word for table, name in asked if table for word in table[name]]

    def _code(self, what: str, asked: str | None, table: dict[str, list[int]]) -> str | None:
        """Of a language of the table; where it has one language alone, that is meant by nothing and by `AUTO`."""
        is_source = table is self.sources
        if not table:
            if asked is not None:
                raise InputError(f"{what}={asked}: the model has one {'source' if is_source else 'target'} language and takes none")
            return None
        if asked is None or is_source and asked.lower() == AUTO:
            if len(table) == 1:
                return next(iter(table))
            if asked is None:
                raise InputError(f"{what} is missing; it {_must_be(table)}")
            return AUTO
        code = self._known(asked, table)
        if code not in table:
            raise InputError(
                f"{what}={asked} is not known; it {_must_be(([AUTO] if self.detected and is_source else []) + [*table])}"
            )
        return code

    def _known(self, asked: str, table: dict[str, list[int]]) -> str:
        """The code that is meant by a code, a name or a tag: `es`, `Spanish`, `<|es|>`."""
        if asked in table:
            return asked
        plain = asked.lower().removeprefix("<|").removesuffix("|>")
        return self.names.get(plain, plain)


def _must_be(known: Iterable[str]) -> str:
    names = [*known]
    return f"must be one of {', '.join(names)}" if len(names) > 1 else f"must be {names[0]}"
