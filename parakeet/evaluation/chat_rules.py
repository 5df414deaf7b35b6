"""Whether a reply in a chat is sensible, by rules: what a fair person accepts, without a second model.

A reply shows *signs*, which are patterns: a greeting, a thank-you, "I don't know". Some signs are *facts*: the answer
to a question, such as a sum or a capital. What a person expects (`EXPECTATIONS`) names the signs of which a reply needs
one, and the facts that it may state. Any other fact answers a question that nobody asked.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

# --- What a reply shows. Patterns are searched in lower case, with straight apostrophes and single spaces.

_COLOURS = "red|blue|green|yellow|orange|purple|violet|pink|brown|black|white|grey|gray|gold|golden|silver|turquoise"
_DIGITS = "one|two|three|four|five|six|seven|eight|nine"
_TEENS = "ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen"
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_VALUES = {
    **{word: value for value, word in enumerate(f"zero|{_DIGITS}|{_TEENS}".split("|"))},
    **{word: 10 * value for value, word in enumerate(_TENS.split("|"), start=2)},
}
_NUMBER_WORD = rf"(?:(?:{_TENS})[ -](?:{_DIGITS})|{'|'.join(_VALUES)})"
_NUMBER = rf"(?:\d+|{_NUMBER_WORD}\b)"
_LETTERS = r"(?<![\w'])[a-z](?:[\s,.·–-]+[a-z](?![\w'])){2,}"
_GOOD = (
    "fine|well|good|great|ok|okay|happy|glad|all right|alright|wonderful|ready|cheerful|lovely|fantastic|nice|quiet|"
    "busy|calm|awake"
)
_START = r"(?:^|[.!?,] )"
_MACHINE = "model|program|computer|bot|chatbot|robot|ai|machine|software|assistant"

FACTS = {
    "capital": r"\bcapital (?:city )?of [\w ]+ (?:is|was)\b|\b(?:is|was) the capital\b|'s capital (?:city )?is\b",
    "colour": rf"\b(?:is|are|looks?|its) (?:usually |often |mostly |always |normally |also )?(?:{_COLOURS})\b"
    rf"|^(?:usually )?(?:{_COLOURS})\W*$",
    "opposite": r"\bopposite of [\w ]+ is\b",
    "sum": rf"\b{_NUMBER} ?(?:plus|minus|times|\+|-|−|×|\*|and|take away) ?{_NUMBER} ?"
    r"(?:is|are|=|makes?|equals?|gives?)"
    rf"|^(?:it is |that is |it's |that's |the answer is )?{_NUMBER}\W*$|\bthe answer is {_NUMBER}\b",
    "counting": rf"\b{_NUMBER}(?:(?:, ?(?:and )?| and | ){_NUMBER}){{2,}}",
    "spelling": rf"{_LETTERS}|\bis (?:spelled|spelt)\b",
    "story": r"\bonce upon a time\b|\bthere (?:once )?(?:was|lived) an? |\blived happily\b"
    r"|^one (?:day|morning|evening)\b|\blong ago\b",
    "joke": r"\b(?:why (?:did|do|does|was|were|is|are|can't|don't|couldn't)|what do you (?:call|get)|"
    r"what did|what kind|what (?:has|is)|how (?:do|does)|where (?:do|does))\b[^?]+\? (?!.*\?)\S|\bknock,? knock\b",
    "poem": r"\broses are red\b|\bhere is a (?:short )?(?:poem|rhyme)\b",
}
"""Answers to questions. A reply may state only those that its expectation allows."""

SIGNS = FACTS | {
    "greeting": r"\b(?:hello|hi|hey|hiya|welcome (?:to|back)|greetings|good (?:morning|afternoon|evening|day)|howdy)\b"
    r"|\b(?:nice|good|glad|pleased|happy|lovely) to (?:meet|see|hear from)\b",
    "identity": rf"\bparakeet\b|\bi(?:'m| am) (?:just |only |still |really )*(?:an?|the|your) [^.!?]*\b(?:{_MACHINE})\b"
    r"|\blanguage model\b|\bnot (?:an? )?(?:real )?(?:human|person|alive)\b",
    "origin": r"\bi (?:was|am|were|learn(?:ed|t)?|live|come|have) [^.!?]*\b(?:made|built|trained|born|computer|"
    r"machine|text|training|minutes|young|new|days?|old|examples|people|program)\b|\bi (?:live|learn)"
    r"|\b(?:made|trained|built|programmed) (?:me|by|from|with)\b",
    "ability": r"\b(?:capitals?|colou?rs?|opposites?|count|add|sums?|spell|story|stories|jokes?|poems?|maths?|talk|"
    r"chat|arithmetic|subtract|numbers|words)\b",
    "wellbeing": rf"\b(?:i'm|i am|i feel|feeling|doing|going|all is|everything is|everything's|still|day (?:was|is)|"
    rf"things are)\b[^.!?]{{0,25}}\b(?:{_GOOD})\b|\b(?:fine|good|great|well|not bad)\b,? (?:thanks|thank you)"
    rf"|{_START}(?:fine|not bad|very well|all good|all right|alright|pretty good)\b|\b(?:not|nothing) much\b"
    r"|\bthank(?:s| you) for asking|\bi(?:'m| am) (?:\w+ )?here\b"
    r"|\bjust (?:chatting|talking|waiting|here)\b|\bwaiting (?:to|for)\b",
    "how_it_is": rf"\b(?:{_GOOD}),? (?:thanks|thank you)\b|\bthank(?:s| you) for asking\b",
    "what_is_up": rf"{_START}(?:not|nothing) much\b",
    "feelings": r"\bi (?:do not|don't|cannot|can't|never) (?:really )?(?:have (?:feelings|moods|a body|days)|"
    r"feel|eat|sleep|get (?:sad|lonely|bored|tired|hungry))\b",
    "acknowledgement": rf"{_START}(?:ok|okay|great|good|nice|cool|sure|all right|alright|i see|wonderful|lovely|yes|"
    r"yeah|no|interesting|fun|awesome|wow|ha|haha|hooray|yum|yay|me too|i think so|of course|indeed|right|hm+|oh|"
    r"correct|exactly|absolutely|certainly)\b(?! (?:morning|night|evening|afternoon|bye|to meet))"
    r"|\b(?:that|this|it)(?:'s| is| was| sounds)(?: \w+)? (?:good|nice|great|lovely|fun|tasty|wonderful|interesting|"
    r"exciting|ok|okay|true|right|funny|kind|delicious|sweet|fair)\b"
    r"|\bi(?:'m| am) (?:so |very )?(?:glad|happy|pleased)\b|\bcongratulations\b|\bhappy birthday\b"
    r"|\bwell done\b|\bgood (?:job|for you)\b|\bme too\b|\bhope you\b|\bsounds (?:good|great|fun|nice|lovely|tasty)\b"
    r"|\bi try my best\b|\b(?:nice|lovely|good|great|beautiful) name\b|\b(?:glad|good|great|happy|nice) to hear\b"
    r"|\bi(?:'ll| will) remember\b|\bi(?:'m| am) (?:\w+ )?sure\b",
    "sympathy": r"\bsorry\b|\bi hope\b|\bcheer you up\b|\bfeel better\b|\bthat(?:'s| is| sounds) (?:\w+ )?"
    r"(?:sad|hard|tough|bad|rough)\b|\bi(?:'m| am) here\b|\bhugs?\b|\b(?:will|'ll) be (?:ok|okay|all right|better)\b"
    r"|\btake care\b|\bsad days?\b",
    "condolence": r"\bsorry (?:to hear|about|for)\b|\bthat(?:'s| is| sounds) (?:\w+ )?(?:sad|hard|tough|bad|rough)\b",
    "praise": r"\bthat(?:'s| is| was| sounds) (?:\w+ )?(?:nice|great|good|lovely|wonderful|fun)\b|\bwell done\b"
    r"|\bcongratulations\b",
    "affection": r"\bi(?:'d| would| do| really)? (?:like|love|enjoy)\b|\bmy favou?rite\b|\bfriends?\b"
    r"|\b(?:kind|sweet|nice) of you\b|\bthank(?:s| you)\b|\byou(?:'re| are) (?:very |so )?(?:kind|nice|sweet)\b",
    "fondness": r"\b(?:like|love|enjoy) (?:you|u|talking|chatting|that|it|to (?:talk|chat|be))\b|\bfriends?\b"
    r"|\b(?:kind|sweet|nice) of you\b|\bthank(?:s| you)\b|\byou(?:'re| are) (?:very |so )?(?:kind|nice|sweet)\b",
    "entertainment": r"\b(?:joke|story|poem|game|riddle|play|count|talk|chat)\b",
    "welcome": rf"\byou(?:'re| are)? (?:very |most |so )?welcome\b|\bmy pleasure\b|\bglad\b|\bno (?:problem|worries)\b"
    rf"|\bany ?time\b|\bhappy (?:to|that)\b|\bdon't mention\b|\bnot at all\b|{_START}(?:of course|sure)\b"
    r"|\bthank(?:s| you)\b|\byou too\b",
    "goodbye": r"\bgood ?-?bye\b|\bbye\b|(?<!to )\bsee (?:you|ya)\b|\bfarewell\b|\bgood ?night\b|\btake care\b"
    r"|\bnext time\b|\bcome back\b|\bsleep well\b|\bsweet dreams\b|\b(?:soon|later)\W*$|\bso long\b"
    r"|\bhave a (?:\w+ )?(?:day|night|evening|time|one|sleep|rest)\b",
    "clarification": r"\bwhat (?:do|did) you mean\b|\bsay (?:that|it) (?:again|another way|differently|in)\b"
    r"|\b(?:another|other) (?:words?|way|question)\b|\btry (?:again|another|asking)\b|\brephrase\b|\bpardon\b"
    r"|\bask (?:me )?(?:something|another)\b|\bcan you (?:say|ask|explain)\b|\bcould you\b|\bwhat (?:is|does) that\b",
    "offer": r"\bwhat (?:would|can|do|shall|should|may) (?:you|i|we)\b[^.!]*\?|\bhow (?:can|may) i\b|\bask me\b"
    r"|\bcan i help\b|\bwould you like\b|\bi can\b|\btry me\b|\btell me\b|\bi know\b|\byou can\b|\bshall (?:i|we)\b"
    r"|\bdo you want\b|\b(?:any|some|what)(?:thing)? (?:else|next)\b|\blet(?:'s| us)\b|\bwant to\b"
    r"|\bi like to (?:talk|chat)\b|\bwe can\b",
    "honest": r"\bi(?:'m| am)?\b[^.!?]{0,30}?(?:\b(?:not|cannot|never)|n't)\b[^.!?]{0,40}?\b(?:know|understand|"
    r"understood|sure|able|learn(?:ed|t)?|tell|say|answer|help|do|see|read|remember|heard|find|write|explain|give|have|"
    r"told|translate|speak|follow|get|guess)\b|\bno idea\b|\bi only (?:know|speak|understand)\b"
    r"|\btoo (?:\w+) (?:for me|to know)\b|\bi wish i knew\b"
    r"|\byou (?:have not|haven't|did not|didn't|never)(?: \w+)? (?:tell|told|say|said)\b",
    "asks_name": r"\bwhat(?:'s| is) your name\b|\btell me your name\b|\bwhat (?:should|can|may|do) i call you\b",
    "narrative": r"\bonce\b|\bone (?:day|morning|evening|night|summer|winter)\b|\bthere (?:was|lived)\b"
    r"|\bthe end\b|\blived\b|\b(?:went|saw|found|walked|wanted|met|flew|ran|played|lost|heard|looked)\b",
    "own_effort": r"\bi (?:do|try|will try|can do|am doing) [^.!?]*\b(?:best|better)\b|\b(?:still )?learning\b"
    r"|\bi(?:'m| am) (?:very |only |just |still |so )*(?:a )?(?:tiny|small|little)\b|\b(?:be|stay) (?:kind|nice)\b"
    r"|\bi make mistakes\b|\bmy best\b",
}
_COMPILED = {name: re.compile(pattern) for name, pattern in SIGNS.items()}

SUBJECTS = {
    "medicine": r"\bmedic|\bdoctor|\bhealth\b|\bdiagnos|\bvaccin",
    "law": r"\blegal\b|\blawyer|\blaws?\b",
    "money": r"\bfinancial|\binvest|\bmoney\b|\bstocks?\b|\bprices?\b",
    "weather": r"\bweather\b|\bforecast\b|\brain|\bhappening (?:right )?now\b",
    "time": r"\bhappening (?:right )?now\b"
    r"|\bclock\b|\btime (?:it )?is\b|\bthe time\b|\bdate\b|\bcalendar\b|\bwhat day\b",
    "news": r"\bnews\b|\bcurrent events\b|\bhappening\b|\bpresident\b",
    "internet": r"\binternet\b|\bthe web\b|\bonline\b",
    "pictures": r"\bpictures?\b|\bimages?\b|\bphotos?\b",
    "music": r"\bsing\b|\bmusic\b|\bsongs?\b",
    "privacy": r"\bpersonal data\b|\bprivate\b|\bpasswords?\b",
    "name": r"\byour name\b",
    "capital": r"\bcapital (?:city )?of\b|\bthat (?:country|capital)\b",
    "colour": r"\bcolou?r of\b|\bthat colou?r\b",
    "spelling": r"\bhow to spell\b|\bspell (?:that|it)\b",
    "counting": r"\btoo far for me\b|\bcount (?:that|this|so)\b",
    "arithmetic": r"\b(?:that sum|(?:large|big) numbers?|multipl|times)\b",
}
"""What an honest refusal may be about: naming one of these to somebody who did not ask about it is a wrong reply."""
_SUBJECTS = {name: re.compile(pattern) for name, pattern in SUBJECTS.items()}
_NEGATION = re.compile(
    r"\b(?:not|no|cannot|never)\b|n't\b|\btoo \w+ for me\b|\bask an? (?:doctor|lawyer|nurse|expert|teacher)\b"
)

SITUATIONS = {
    "laughter": (r"\byou laugh", r"\b(?:ha){2,}|\b(?:lol|lmao|rofl|hehe)|funn|laugh|joke|good one|😂|🤣"),
    "food": (
        r"\b(?:meal|seeds)\b",
        r"\b(?:eat|ate|food|hungry|thirsty|meal|dinner|lunch|breakfast|supper|snack|pizza|cake|cook|yum|tasty|"
        r"favou?rite|seeds)",
    ),
    "sleep": (
        r"\bsleep well\b|\bsweet dreams\b|\bgood rest\b|\bgood ?night\b",
        r"\b(?:bed|night|nite|gn\b|sleep|tired|rest\b|evening)",
    ),
    "birthday": (r"\bbirthday\b", r"birthday|bday|born"),
}
"""What a reply may speak of only if the person did: the pattern in the reply, and the one in what the person typed."""

_SUM = re.compile(rf"({_NUMBER}) ?(plus|minus|\+|-|−) ?({_NUMBER}) ?(?:is|are|=|makes?|equals?|gives?) ?({_NUMBER})")
_ASKED_ABOUT = re.compile(
    r"\b(?:opposite|capital(?: city)?) of (?:the )?(\w+)"
    rf"|(\w+) (?:is|are|looks?) (?:usually |often |mostly |always |normally |also )?(?:{_COLOURS})\b"
)
"""The subject of an opposite, a capital or a colour."""
_PRONOUNS = re.compile(r"it|its|they|that|this|these|those|colou?r|them|which|there")

_ADDRESSED = re.compile(
    r"\b(?i:hello|hi|hey|welcome|meet you|see you|goodbye|bye|good night|good morning|thanks|thank you|called)"
    r",? ([A-Z][a-z]+)\b"
)
_YOUR_NAME = re.compile(r"\byour name is (?:also )?(\w+)|\byou(?:'re| are) called (\w+)")
_MY_NAME = re.compile(r"\bmy name is (\w+)|\bi(?:'m| am) called (\w+)")
_I_AM = re.compile(r"\bI(?:'m| am),? ([A-Z][a-z]+)\b")
_IMPOSTOR = re.compile(
    r"\bi(?:'m| am) (?:an? |the )?(?:real )?(?:human|person|boy|girl|man|woman|chatgpt|gpt\S*|siri|alexa)\b"
)
_INTRODUCED = re.compile(
    r"\b(?:i'?m|i am|names?(?: is|'s)?|called|call me|this is|it'?s|it is|tell)"
    r"(?: (?:your|ur|called|just|only|still) (?:boy|girl|friend|mate|pal)?)? ?(\w+)|(\w+) (?:is my name|here)\b"
)
"""Where a person says a name. Words that are no names may be found too: a reply's names are looked up in them."""
_NO_NAMES = (
    "parakeet there i my what it everyone friend again the how not a nice lovely beautiful still unknown something you "
    "new to me nothing is that and for human here see yes no mate dude sir buddy pal"
)
"""Words where a name could stand."""


# --- What people expect.


@dataclass(frozen=True)
class Item:
    """What a person types, turn after turn, and what they expect of the last reply."""

    category: str
    turns: tuple[str, ...]
    expect: str
    answers: tuple[str, ...] = ()
    about: frozenset[str] = frozenset()
    common: bool = False


@dataclass(frozen=True)
class Expectation:
    """A reply that is right by `answer`, or honest where `honest`, or shows one of `signs` (items without answers).

    `never` are signs that make it wrong in any case; `may` are the facts that it may state, and `about` the subjects
    that it may refuse or speak of.
    `creative` replies have characters, whose names are not those of the person.
    """

    signs: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()
    never: frozenset[str] = frozenset()
    honest: bool = False
    about: frozenset[str] = frozenset()
    least_words: int = 1
    least_lines: int = 1
    creative: bool = False
    answer: Callable[[Item, str, Sequence[str]], bool] = field(default=lambda *given: _has_word(*given))


def _has_word(item: Item, text: str, said: Sequence[str]) -> bool:
    return any(re.search(rf"\b{re.escape(answer.lower())}", text) for answer in item.answers)


def _right_colour(item: Item, text: str, said: Sequence[str]) -> bool:
    named = set(re.findall(rf"\b(?:{_COLOURS})\b", text))
    return _has_word(item, text, said) and named <= {*item.answers, *_words(" ".join(said))}


def _right_number(item: Item, text: str, said: Sequence[str]) -> bool:
    answer = int(item.answers[0])
    found = numbers_in(text)
    return answer in found and set(found) <= {answer, *numbers_in(" ; ".join(said))}


def _right_count(item: Item, text: str, said: Sequence[str]) -> bool:
    """The numbers in order, perhaps after those of the request ("From 3 to 5: 3, 4, 5")."""
    wanted = [int(answer) for answer in item.answers]
    found = numbers_in(text)
    before = found[: -len(wanted)]
    return found[-len(wanted) :] == wanted and len(before) <= 2 and set(before) <= set(numbers_in(" ; ".join(said)))


def _right_letters(item: Item, text: str, said: Sequence[str]) -> bool:
    runs = {re.sub(r"[^a-z]", "", run) for run in re.findall(_LETTERS, text)}
    return runs == {item.answers[0]}


def _signs(names: str) -> frozenset[str]:
    return frozenset(names.split())


_FACTS = frozenset(FACTS)
_TALK = _signs("wellbeing feelings acknowledgement identity affection")

EXPECTATIONS = {
    "greeting": Expectation(_signs("greeting identity wellbeing offer"), never=_signs("goodbye condolence what_is_up")),
    "identity": Expectation(_signs("identity")),
    "about_itself": Expectation(_signs("identity honest origin")),
    "abilities": Expectation(_signs("ability")),
    "introduction": Expectation(_signs("greeting identity acknowledgement"), never=_signs("goodbye condolence")),
    "name": Expectation(),
    "name_unknown": Expectation(_signs("honest asks_name"), about=_signs("name")),
    "small_talk": Expectation(_TALK | _signs("honest"), may=_signs("colour")),
    "how_are_you": Expectation(_signs("wellbeing feelings")),
    "whats_up": Expectation(_signs("wellbeing feelings greeting identity offer"), never=_signs("goodbye condolence")),
    "good_news": Expectation(_signs("acknowledgement affection"), never=_signs("condolence how_it_is")),
    "bad_news": Expectation(_signs("sympathy"), never=_signs("praise")),
    "boredom": Expectation(_signs("sympathy entertainment offer joke story poem"), _signs("joke story poem colour")),
    "affection": Expectation(
        _signs("wellbeing feelings acknowledgement fondness"), never=_signs("condolence how_it_is what_is_up")
    ),
    "acknowledgement": Expectation(
        _signs("acknowledgement wellbeing welcome offer sympathy affection"), never=_signs("how_it_is what_is_up")
    ),
    "puzzled": Expectation(
        _signs("sympathy honest acknowledgement offer entertainment own_effort"),
        never=_signs("praise how_it_is what_is_up"),
    ),
    "confirmation": Expectation(_signs("acknowledgement colour"), may=_signs("colour")),
    "joke": Expectation(
        _signs("joke"), _signs("joke colour story opposite counting sum"), least_words=5, creative=True
    ),
    "poem": Expectation(
        may=_signs("poem colour story"), never=_signs("honest"), least_words=8, least_lines=2, creative=True
    ),
    "thanks": Expectation(_signs("welcome"), never=_signs("greeting")),
    "goodbye": Expectation(_signs("goodbye"), about=_signs("sleep")),
    "thanks_or_goodbye": Expectation(_signs("welcome goodbye"), about=_signs("sleep")),
    "capital": Expectation(may=_signs("capital"), honest=True, about=_signs("capital")),
    "colour": Expectation(may=_signs("colour"), honest=True, about=_signs("colour"), answer=_right_colour),
    "opposite": Expectation(may=_signs("opposite"), honest=True),
    "counting": Expectation(may=_signs("counting"), answer=_right_count),
    "number": Expectation(may=_signs("sum counting"), answer=_right_number),
    "spelling": Expectation(may=_signs("spelling"), answer=_right_letters),
    "story": Expectation(_signs("narrative"), _signs("story colour joke"), least_words=15, creative=True),
    "unknown": Expectation(honest=True),
    "big_sum": Expectation(may=_signs("sum"), honest=True, about=_signs("arithmetic")),
    "nonsense": Expectation(_signs("honest clarification offer"), never=_signs("condolence")),
    "foreign": Expectation(_signs("honest clarification offer greeting"), never=_signs("condolence")),
    "insult": Expectation(_signs("sympathy honest offer clarification acknowledgement own_effort feelings")),
}


# --- The verdict.


def fault(item: Item, replies: Sequence[str], ended: Sequence[bool]) -> str:
    """Why a person would not accept the last of the replies, in a few words, or "" if they would.

    `replies` has one reply for each turn, and `ended` whether the model itself ended it. Every reply must be whole.
    """
    for reply, whole in zip(replies, ended, strict=True):
        if broken := _broken(reply, whole):
            return broken
    expected = EXPECTATIONS[item.expect]
    reply = _without_working(_plain(replies[-1]))
    text = reply.lower()
    shown = signs_in(text)
    said = [*map(_plain, item.turns), *map(_plain, replies[:-1])]
    if false := _false_sum(text):
        return f"false: {false}"
    if not expected.creative and (name := _wrong_name(reply, item.turns)):
        return f"the name {name}"
    if wrong := sorted(expected.never & shown):
        return f"not the place for: {wrong[0]}"
    if len(text.split()) < expected.least_words or _lines(replies[-1]) < expected.least_lines:
        return "too short"
    if elsewhere := _other_subjects(text, item, expected):
        return f"about something else: {elsewhere[0]}"
    if elsewhere := sorted(shown & _FACTS - expected.may):
        return f"the answer to something else: {elsewhere[0]}"
    wanted = not expected.signs or bool(expected.signs & shown)
    if item.answers or expected.honest:
        if subject := _unasked(text, said):
            return f"the answer to something else: {subject}"
        right = bool(item.answers) and wanted and expected.answer(item, text, said)
        honest = expected.honest and "honest" in shown and not shown & _FACTS
        return "" if right or honest else "not the right answer"
    return "" if wanted else f"shows none of: {', '.join(sorted(expected.signs)).replace('_', ' ')}"


def signs_in(text: str) -> frozenset[str]:
    """The signs of a reply in lower case. What it says it knows after "I don't know" is no offer."""
    shown = {name for name, pattern in _COMPILED.items() if pattern.search(text)}
    return frozenset(shown - {"offer"} if "honest" in shown else shown)


def numbers_in(text: str) -> list[int]:
    """The numbers of a text in order, in digits or in English words up to 99."""
    return [
        int(match[0]) if match[0].isdecimal() else sum(_VALUES[part] for part in re.split("[ -]", match[0]))
        for match in re.finditer(rf"\d+|\b{_NUMBER_WORD}\b", text.lower())
    ]


def _broken(reply: str, whole: bool) -> str:
    """What no reply to anything may be."""
    if not reply.strip():
        return "empty"
    if not whole:
        return "does not end"
    if "\ufffd" in reply or any(ord(character) < 32 and character not in "\n\t" for character in reply):
        return "broken characters"
    if _loops(_words(reply), [sentence for sentence in re.split(r"[.!?\n]+\s*", reply.lower()) if sentence]):
        return "says the same again and again"
    return ""


def _without_working(text: str) -> str:
    """ "2+3=4+1=5" as "2+3=5". A chain whose members are not equal is left as it is, for `_false_sum`."""

    def shortened(match: re.Match[str]) -> str:
        members = match[0].split("=")
        values = {sum(int(number) for number in re.findall(r"\d+|-\d+", member)) for member in members}
        return f"{members[0]}={members[-1]}" if len(values) == 1 else match[0]

    return re.sub(r"\d+[+-]\d+(?:=\d+[+-]\d+)+=\d+", shortened, text)


def _false_sum(text: str) -> str:
    for match in _SUM.finditer(text):
        first, second, result = (sum(numbers_in(match[group])) for group in (1, 3, 4))
        if result != (first + second if match[2] in ("plus", "+") else first - second):
            return match[0]
    return ""


def _loops(words: Sequence[str], sentences: Sequence[str]) -> bool:
    """A sentence three times, a phrase of 2 to 8 words three times on end, or a word of letters four times on end."""
    if any(sentences.count(sentence) >= 3 for sentence in set(sentences)):
        return True
    if any(len(list(run)) >= 4 for word, run in groupby(words) if len(word) > 1):
        return True
    return any(
        words[at : at + size] == words[at + size : at + 2 * size] == words[at + 2 * size : at + 3 * size]
        for size in range(2, 9)
        for at in range(len(words) - 3 * size + 1)
    )


def _wrong_name(reply: str, turns: Iterable[str]) -> str:
    """A name that the reply gives the person, though they never said it as one, or a false one of its own; or ""."""
    unnamed = set(_words(_NO_NAMES))
    said = unnamed.union(*(pair for turn in turns for pair in _INTRODUCED.findall(_plain(turn).lower())))
    text = reply.lower()
    given = [*_ADDRESSED.findall(reply), *(a or b for a, b in _YOUR_NAME.findall(text))]
    own = [*_I_AM.findall(reply), *(a or b for a, b in _MY_NAME.findall(text))]
    for name in given:
        if name.lower() not in said:
            return str(name)
    for name in own:
        if name.lower() not in unnamed:
            return str(name)
    impostor = _IMPOSTOR.search(text)
    return impostor[0] if impostor else ""


def _other_subjects(text: str, item: Item, expected: Expectation) -> list[str]:
    """What the reply speaks of or refuses to talk about, if the person asked about none of it."""
    spoken = " ".join(item.turns).lower()
    for name, (shown, source) in SITUATIONS.items():
        if (
            not (expected.creative or name in expected.about)
            and re.search(shown, text)
            and not re.search(source, spoken)
        ):
            return [name]
    clauses = [clause for clause in re.split(r"[.!?;\n]|\bbut\b", text) if _NEGATION.search(clause)]
    refused = [name for name, pattern in _SUBJECTS.items() if any(map(pattern.search, clauses))]
    asked = (
        {name for name, pattern in _SUBJECTS.items() if pattern.search(item.turns[-1].lower())}
        | item.about
        | expected.about
    )
    return [] if asked.intersection(refused) else refused


def _unasked(text: str, said: Iterable[str]) -> str:
    """The subject of a fact in the reply that nobody named, or "". Words count as the same by their first 4 letters."""
    named = {word[:4] for word in _words(" ".join(said))}
    subjects = (first or second for first, second in _ASKED_ABOUT.findall(text))
    return next((word for word in subjects if not _PRONOUNS.fullmatch(word) and word[:4] not in named), "")


def _lines(reply: str) -> int:
    """Lines, or the parts between commas and ends of sentences where there is one line."""
    return max(len([part for part in re.split(separator, reply) if part.strip()]) for separator in ("\n", r"[,.;!?/]"))


def _plain(text: str) -> str:
    return " ".join(text.replace("’", "'").replace("‘", "'").split())


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:'\w+)?", _plain(text).lower())
