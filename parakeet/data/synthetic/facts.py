"""The tables of facts and words behind the synthetic source.

No question may have two right answers. So the tables leave out countries with two capitals or an article ("the
Netherlands"), things of several colours (apples, cats), and words with a second opposite.
"""


def _pairs(table: str) -> tuple[tuple[str, str], ...]:
    """Semicolons separate the entries, and a colon divides each in two."""
    entries = (entry.split(":") for entry in table.split(";"))
    return tuple((first.strip(), second.strip()) for first, second in entries)


def words(table: str) -> tuple[str, ...]:
    """The words of a table, separated by white space."""
    return tuple(table.split())


CAPITALS = _pairs("""
    France: Paris; Spain: Madrid; Portugal: Lisbon; Italy: Rome; Germany: Berlin; Austria: Vienna;
    Switzerland: Bern; Belgium: Brussels; Denmark: Copenhagen; Norway: Oslo; Sweden: Stockholm; Finland: Helsinki;
    Iceland: Reykjavik; Ireland: Dublin; England: London; Scotland: Edinburgh; Poland: Warsaw; Hungary: Budapest;
    Romania: Bucharest; Bulgaria: Sofia; Greece: Athens; Turkey: Ankara; Russia: Moscow; Ukraine: Kyiv;
    Serbia: Belgrade; Croatia: Zagreb; Slovakia: Bratislava; Slovenia: Ljubljana; Estonia: Tallinn; Latvia: Riga;
    Lithuania: Vilnius; Egypt: Cairo; Morocco: Rabat; Algeria: Algiers; Kenya: Nairobi; Ethiopia: Addis Ababa;
    Ghana: Accra; Nigeria: Abuja; Senegal: Dakar; Canada: Ottawa; Mexico: Mexico City; Cuba: Havana;
    Jamaica: Kingston; Brazil: Brasilia; Argentina: Buenos Aires; Chile: Santiago; Peru: Lima; Colombia: Bogota;
    Ecuador: Quito; Venezuela: Caracas; Japan: Tokyo; China: Beijing; India: New Delhi; Nepal: Kathmandu;
    Thailand: Bangkok; Vietnam: Hanoi; Iran: Tehran; Iraq: Baghdad; Pakistan: Islamabad; Australia: Canberra
""")

# Mass nouns have no article, countable nouns do: "Snow is white.", "A frog is green."
_THINGS_BY_COLOUR = _pairs("""
    blue: the sky, the sea, a sapphire, a blueberry;
    green: grass, a leaf, a frog, a cucumber, lettuce, spinach, an emerald;
    white: snow, milk, salt, flour, a swan, a polar bear;
    black: coal, tar, soot, a raven;
    red: blood, a tomato, a strawberry, a ruby, a fire engine;
    yellow: a banana, a lemon, the sun, butter, a canary;
    orange: a carrot, a pumpkin;
    brown: chocolate, mud, coffee, a walnut;
    grey: an elephant, a dolphin, ash;
    pink: a flamingo, a pig;
    purple: lavender, a plum
""")
COLOURS = tuple((thing, colour) for colour, things in _THINGS_BY_COLOUR for thing in things.split(", "))

# Every word is in one pair only, so that it has one opposite in either direction.
OPPOSITES = _pairs("""
    hot: cold; big: small; tall: short; fast: slow; old: young; happy: sad; light: dark; day: night; up: down;
    in: out; open: shut; full: empty; hard: soft; wet: dry; loud: quiet; rich: poor; strong: weak; clean: dirty;
    early: late; left: right; true: false; good: bad; first: last; high: low; thick: thin; wide: narrow;
    deep: shallow; near: far; inside: outside; above: below; before: after; begin: end; win: lose; push: pull;
    buy: sell; give: take; love: hate; laugh: cry; remember: forget; ask: answer; rise: fall; black: white; yes: no;
    north: south; east: west; summer: winter; morning: evening; always: never; more: less; many: few;
    cheap: expensive; easy: difficult; smooth: rough; sharp: blunt; safe: dangerous; awake: asleep; alive: dead;
    friend: enemy; peace: war; front: back; top: bottom; kind: cruel; polite: rude; float: sink
""")

ANIMALS = words("""
    fox cat dog owl hen duck goat horse sheep mouse rabbit badger otter beaver donkey pony robin goose squirrel
    hedgehog tortoise turtle snail bee ant wolf lion tiger monkey camel whale seal crab parrot frog pig
""")

OBJECTS = words("""
    key bell ball boat book box coin cup drum flag hat kite lamp map nut pear apple egg pen ring rope scarf shell
    spoon stone umbrella basket bottle button feather flute ladder
""")

# Names in greetings and stories, with the pronoun that a story uses.
NAMES = _pairs("""
    Anna: she; Ben: he; Clara: she; Daniel: he; Emma: she; Felix: he; Grace: she; Henry: he; Ivy: she; Jack: he;
    Kate: she; Leo: he; Mia: she; Noah: he; Olive: she; Peter: he; Rosa: she; Sam: he; Tessa: she; Tom: he;
    Vera: she; Will: he; Zoe: she; Max: he
""")
