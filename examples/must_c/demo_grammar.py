"""A seeded English-German phrase grammar for the demo corpus.

The two languages differ here as they do in real text: verbs go to the end of German subordinate clauses and after modals and
auxiliaries, a fronted time inverts subject and verb, `half past three` is `halb vier`, `twenty-one` is `einundzwanzig`, two English
nouns become one compound, and articles and adjectives follow gender and case. `sentence(rng, open_vocabulary)` draws one pair.
"""

from random import Random
from typing import NamedTuple

# English, German, gender
PEOPLE = [
    ("teacher", "Lehrer", "m"),
    ("baker", "Bäcker", "m"),
    ("driver", "Fahrer", "m"),
    ("doctor", "Arzt", "m"),
    ("brother", "Bruder", "m"),
    ("man", "Mann", "m"),
    ("woman", "Frau", "f"),
    ("sister", "Schwester", "f"),
    ("mother", "Mutter", "f"),
    ("queen", "Königin", "f"),
    ("child", "Kind", "n"),
    ("girl", "Mädchen", "n"),
]
# English singular, plural, German singular, plural, gender
THINGS = [
    ("table", "tables", "Tisch", "Tische", "m"),
    ("letter", "letters", "Brief", "Briefe", "m"),
    ("key", "keys", "Schlüssel", "Schlüssel", "m"),
    ("coat", "coats", "Mantel", "Mäntel", "m"),
    ("chair", "chairs", "Stuhl", "Stühle", "m"),
    ("lamp", "lamps", "Lampe", "Lampen", "f"),
    ("bag", "bags", "Tasche", "Taschen", "f"),
    ("clock", "clocks", "Uhr", "Uhren", "f"),
    ("flower", "flowers", "Blume", "Blumen", "f"),
    ("book", "books", "Buch", "Bücher", "n"),
    ("picture", "pictures", "Bild", "Bilder", "n"),
    ("window", "windows", "Fenster", "Fenster", "n"),
]
# the first part of a compound: `garden chair` -> `Gartenstuhl`
COMPOUND_HEADS = [
    ("kitchen", "Küchen"),
    ("garden", "Garten"),
    ("school", "Schul"),
    ("winter", "Winter"),
    ("city", "Stadt"),
]
ADJECTIVES = [
    ("red", "rot"),
    ("old", "alt"),
    ("new", "neu"),
    ("small", "klein"),
    ("big", "groß"),
    ("green", "grün"),
    ("cheap", "billig"),
    ("heavy", "schwer"),
]
# English third person, infinitive, participle; German third person, infinitive, participle
VERBS = [
    ("buys", "buy", "bought", "kauft", "kaufen", "gekauft"),
    ("sells", "sell", "sold", "verkauft", "verkaufen", "verkauft"),
    ("sees", "see", "seen", "sieht", "sehen", "gesehen"),
    ("finds", "find", "found", "findet", "finden", "gefunden"),
    ("carries", "carry", "carried", "trägt", "tragen", "getragen"),
    ("paints", "paint", "painted", "malt", "malen", "gemalt"),
    ("cleans", "clean", "cleaned", "putzt", "putzen", "geputzt"),
    ("loses", "lose", "lost", "verliert", "verlieren", "verloren"),
]
GIVING_VERBS = [
    ("gives", "give", "given", "gibt", "geben", "gegeben"),
    ("shows", "show", "shown", "zeigt", "zeigen", "gezeigt"),
    ("brings", "bring", "brought", "bringt", "bringen", "gebracht"),
]
MODALS = [("wants to", "will"), ("must", "muss"), ("can", "kann"), ("should", "soll")]
PLACES = [
    ("in the garden", "im Garten"),
    ("in the city", "in der Stadt"),
    ("in the kitchen", "in der Küche"),
    ("at the station", "am Bahnhof"),
    ("in front of the house", "vor dem Haus"),
]
DAYS = [
    ("today", "heute"),
    ("every morning", "jeden Morgen"),
    ("on Monday", "am Montag"),
    ("on Wednesday", "am Mittwoch"),
    ("on Saturday", "am Samstag"),
]
OPENINGS = [
    ("I know that", "Ich weiß, dass"),
    ("I hope that", "Ich hoffe, dass"),
    ("She says that", "Sie sagt, dass"),
    ("Everyone sees that", "Alle sehen, dass"),
]
ENGLISH_DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
GERMAN_DIGITS = ["null", "ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf", "zwölf"]
TENS = [(20, "twenty", "zwanzig"), (30, "thirty", "dreißig"), (40, "forty", "vierzig"), (50, "fifty", "fünfzig")]

# article and adjective endings: (case, gender) -> (definite article, adjective ending)
DEFINITE = {
    ("nom", "m"): ("der", "e"),
    ("nom", "f"): ("die", "e"),
    ("nom", "n"): ("das", "e"),
    ("acc", "m"): ("den", "en"),
    ("acc", "f"): ("die", "e"),
    ("acc", "n"): ("das", "e"),
    ("dat", "m"): ("dem", "en"),
    ("dat", "f"): ("der", "en"),
    ("dat", "n"): ("dem", "en"),
}
# spelled as they are spoken, so that a listener can write down a name never encountered before
ONSETS = ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "t", "v"]
VOWELS = ["a", "e", "i", "o", "u"]
CODAS = ["", "", "n", "l", "r", "s"]


class Phrase(NamedTuple):
    english: str
    german: str


class Clause(NamedTuple):
    """The parts of one clause, from which each language orders its own."""

    subject: Phrase
    english_verb: str
    finite: str  # the German verb that carries the person
    nonfinite: str  # infinitive or participle, at the end of the German clause; may be empty
    recipient: Phrase
    object: Phrase
    place: Phrase
    time: Phrase

    def english(self, time_first: bool = False) -> str:
        body = [self.subject.english, self.english_verb, self.recipient.english, self.object.english, self.place.english]
        return _join([self.time.english, *body] if time_first else [*body, self.time.english])

    def german(self, verb_first: bool = False, time_first: bool = False) -> str:
        """A main clause; after a fronted time or a subordinate clause the verb comes before the subject."""
        inner = [self.place.german, self.recipient.german, self.object.german, self.nonfinite]
        if time_first:
            return _join([self.time.german, self.finite, self.subject.german, *inner])
        start = [self.finite, self.subject.german] if verb_first else [self.subject.german, self.finite]
        return _join([*start, self.time.german, *inner])

    def german_subordinate(self) -> str:
        parts = [self.subject, self.time, self.place, self.recipient, self.object]
        return _join([*(part.german for part in parts), self.nonfinite, self.finite])


def _join(parts: list) -> str:
    return " ".join(part for part in parts if part)


NOTHING = Phrase("", "")


def made_up_name(rng: Random) -> str:
    """A pronounceable word of two or three syllables that is in no lexicon."""
    syllables = (rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.choice((2, 2, 3))))
    return "".join(syllables).capitalize()


def number(rng: Random) -> Phrase:
    """Two to fifty-nine; German says the units before the tens."""
    if rng.random() < 0.5:
        digit = rng.randint(2, 12)
        return Phrase(ENGLISH_DIGITS[digit], GERMAN_DIGITS[digit])
    _, english, german = rng.choice(TENS)
    digit = rng.randint(0, 9)
    if not digit:
        return Phrase(english, german)
    return Phrase(f"{english}-{ENGLISH_DIGITS[digit]}", f"{GERMAN_DIGITS[digit]}und{german}")


def time_of_day(rng: Random) -> Phrase:
    hour = rng.randint(1, 11)
    english, german = ENGLISH_DIGITS, [*GERMAN_DIGITS]
    german[1] = "eins"
    return rng.choice(
        [
            Phrase(f"at half past {english[hour]}", f"um halb {german[hour + 1]}"),
            Phrase(f"at quarter past {english[hour]}", f"um Viertel nach {german[hour]}"),
            Phrase(f"at ten to {english[hour + 1]}", f"um zehn vor {german[hour + 1]}"),
            Phrase(f"at {english[hour + 1]} o'clock", f"um {GERMAN_DIGITS[hour + 1]} Uhr"),
        ]
    )


def person(rng: Random, case: str, open_vocabulary: bool) -> Phrase:
    if open_vocabulary and rng.random() < 0.5:
        name = made_up_name(rng)
        if rng.random() < 0.5:
            return Phrase(f"Mrs {name}", f"Frau {name}")
        return Phrase(f"Mr {name}", f"{'Herr' if case == 'nom' else 'Herrn'} {name}")
    english, german, gender = rng.choice(PEOPLE)
    article, ending = DEFINITE[case, gender]
    if rng.random() < 0.25:
        adjective = rng.choice(ADJECTIVES[1:5])
        return Phrase(f"the {adjective[0]} {english}", f"{article} {adjective[1]}{ending} {german}")
    return Phrase(f"the {english}", f"{article} {german}")


def thing(rng: Random) -> Phrase:
    """An accusative object: counted, described, or a compound."""
    singular, plural, german, german_plural, gender = rng.choice(THINGS)
    kind = rng.random()
    if kind < 0.3:
        count = number(rng)
        return Phrase(f"{count.english} {plural}", f"{count.german} {german_plural}")
    article, ending = DEFINITE["acc", gender]
    if kind < 0.55:
        head, german_head = rng.choice(COMPOUND_HEADS)
        return Phrase(f"the {head} {singular}", f"{article} {german_head}{german.lower()}")
    adjective = rng.choice(ADJECTIVES)
    return Phrase(f"the {adjective[0]} {singular}", f"{article} {adjective[1]}{ending} {german}")


def clause(rng: Random, open_vocabulary: bool, with_time: bool = False) -> Clause:
    giving = rng.random() < 0.25
    third, infinitive, participle, *german = rng.choice(GIVING_VERBS if giving else VERBS)
    tense = rng.random()
    if tense < 0.4:
        english_verb, finite, nonfinite = third, german[0], ""
    elif tense < 0.7:
        english_verb, finite, nonfinite = f"has {participle}", "hat", german[2]
    else:
        modal, finite = rng.choice(MODALS)
        english_verb, nonfinite = f"{modal} {infinitive}", german[1]
    extra = rng.random()
    place = Phrase(*rng.choice(PLACES)) if not with_time and extra < 0.3 else NOTHING
    if open_vocabulary and place is not NOTHING and rng.random() < 0.5:
        town = made_up_name(rng)
        place = Phrase(f"in {town}", f"in {town}")
    timed = with_time or extra > 0.7
    time = NOTHING
    if timed:
        time = time_of_day(rng) if rng.random() < 0.6 else Phrase(*rng.choice(DAYS))
    return Clause(
        subject=person(rng, "nom", open_vocabulary),
        english_verb=english_verb,
        finite=finite,
        nonfinite=nonfinite,
        recipient=person(rng, "dat", open_vocabulary) if giving else NOTHING,
        object=thing(rng),
        place=place,
        time=time,
    )


def sentence(rng: Random, open_vocabulary: bool = False) -> Phrase:
    """Draw one English sentence and its German translation; `open_vocabulary` adds made-up names."""
    kind = rng.random()
    if kind < 0.35:
        c = clause(rng, open_vocabulary)
        english, german = c.english(), c.german()
    elif kind < 0.55:
        c = clause(rng, open_vocabulary, with_time=True)
        english, german = c.english(time_first=True), c.german(time_first=True)
    elif kind < 0.85:
        c = clause(rng, open_vocabulary)
        opening = rng.choice(OPENINGS)
        english, german = f"{opening[0]} {c.english()}", f"{opening[1]} {c.german_subordinate()}"
    else:
        c, d = clause(rng, open_vocabulary), clause(rng, open_vocabulary)
        english = f"if {c.english()}, {d.english()}"
        german = f"wenn {c.german_subordinate()}, {d.german(verb_first=True)}"
    return Phrase(english[0].upper() + english[1:] + ".", german[0].upper() + german[1:] + ".")
