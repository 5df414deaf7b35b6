"""The tables of facts and words behind the synthetic source.

No question may have two right answers. So the tables leave out countries with two capitals, things of several colours
(apples, cats), and words with a second opposite.
"""

from functools import cache


def _pairs(table: str) -> tuple[tuple[str, str], ...]:
    """Semicolons separate the entries, and a colon divides each in two."""
    entries = (entry.split(":") for entry in table.split(";"))
    return tuple((" ".join(first.split()), " ".join(second.split())) for first, second in entries)


def _expanded(table: str) -> tuple[tuple[str, str], ...]:
    """The same, for entries "key: one, two": every value on the right becomes (value, key)."""
    return tuple((value, key) for key, values in _pairs(table) for value in values.split(", "))


def words(table: str) -> tuple[str, ...]:
    """The words of a table, separated by white space."""
    return tuple(table.split())


_EUROPE = _pairs("""
    France: Paris; Spain: Madrid; Portugal: Lisbon; Italy: Rome; Germany: Berlin; Austria: Vienna;
    Switzerland: Bern; Belgium: Brussels; Denmark: Copenhagen; Norway: Oslo; Sweden: Stockholm; Finland: Helsinki;
    Iceland: Reykjavik; Ireland: Dublin; England: London; Scotland: Edinburgh; Wales: Cardiff; Poland: Warsaw;
    Hungary: Budapest; Romania: Bucharest; Bulgaria: Sofia; Greece: Athens; Ukraine: Kyiv; Serbia: Belgrade;
    Croatia: Zagreb; Slovakia: Bratislava; Slovenia: Ljubljana; Estonia: Tallinn; Latvia: Riga; Lithuania: Vilnius;
    Albania: Tirana; Belarus: Minsk; Bosnia: Sarajevo; Kosovo: Pristina; Luxembourg: Luxembourg City;
    Malta: Valletta; Moldova: Chisinau; Montenegro: Podgorica; North Macedonia: Skopje; Andorra: Andorra la Vella;
    Liechtenstein: Vaduz; Monaco: Monaco; San Marino: San Marino; Cyprus: Nicosia; the Netherlands: Amsterdam;
    the Czech Republic: Prague; the United Kingdom: London; Northern Ireland: Belfast; Russia: Moscow
""")
_AFRICA = _pairs("""
    Egypt: Cairo; Morocco: Rabat; Algeria: Algiers; Kenya: Nairobi; Ethiopia: Addis Ababa; Ghana: Accra;
    Nigeria: Abuja; Senegal: Dakar; Tunisia: Tunis; Libya: Tripoli; Sudan: Khartoum; South Sudan: Juba; Mali: Bamako;
    Niger: Niamey; Chad: N'Djamena; Cameroon: Yaounde; Gabon: Libreville; Angola: Luanda; Zambia: Lusaka;
    Zimbabwe: Harare; Botswana: Gaborone; Namibia: Windhoek; Mozambique: Maputo; Malawi: Lilongwe; Uganda: Kampala;
    Rwanda: Kigali; Burundi: Gitega; Tanzania: Dodoma; Somalia: Mogadishu; Djibouti: Djibouti; Eritrea: Asmara;
    Madagascar: Antananarivo; Mauritius: Port Louis; Lesotho: Maseru; Liberia: Monrovia; Sierra Leone: Freetown;
    Guinea: Conakry; Guinea-Bissau: Bissau; Gambia: Banjul; Togo: Lome; Burkina Faso: Ouagadougou;
    Mauritania: Nouakchott; Cape Verde: Praia; Equatorial Guinea: Malabo; Comoros: Moroni; Seychelles: Victoria;
    Central African Republic: Bangui
""")
_AMERICA = _pairs("""
    Canada: Ottawa; Mexico: Mexico City; Cuba: Havana; Jamaica: Kingston; the USA: Washington;
    the United States: Washington; America: Washington; Guatemala: Guatemala City; Belize: Belmopan;
    Honduras: Tegucigalpa; El Salvador: San Salvador; Nicaragua: Managua; Costa Rica: San Jose; Panama: Panama City;
    Haiti: Port-au-Prince; the Dominican Republic: Santo Domingo; the Bahamas: Nassau; Barbados: Bridgetown;
    Trinidad: Port of Spain; Grenada: St George's; Dominica: Roseau
""")
_SOUTH_AMERICA = _pairs("""
    Brazil: Brasilia; Argentina: Buenos Aires; Chile: Santiago; Peru: Lima; Colombia: Bogota; Ecuador: Quito;
    Venezuela: Caracas; Uruguay: Montevideo; Paraguay: Asuncion; Guyana: Georgetown; Suriname: Paramaribo
""")
_ASIA = _pairs("""
    Japan: Tokyo; China: Beijing; India: New Delhi; Nepal: Kathmandu; Thailand: Bangkok; Vietnam: Hanoi; Iran: Tehran;
    Iraq: Baghdad; Pakistan: Islamabad; Turkey: Ankara; South Korea: Seoul; North Korea: Pyongyang;
    Mongolia: Ulaanbaatar; Taiwan: Taipei; Indonesia: Jakarta; Cambodia: Phnom Penh; Laos: Vientiane;
    the Philippines: Manila; Singapore: Singapore; Malaysia: Kuala Lumpur; Brunei: Bandar Seri Begawan;
    East Timor: Dili; Bangladesh: Dhaka; Bhutan: Thimphu; Maldives: Male; Afghanistan: Kabul; Uzbekistan: Tashkent;
    Kazakhstan: Astana; Kyrgyzstan: Bishkek; Tajikistan: Dushanbe; Turkmenistan: Ashgabat; Syria: Damascus;
    Lebanon: Beirut; Jordan: Amman; Saudi Arabia: Riyadh; Yemen: Sanaa; Oman: Muscat; Qatar: Doha; Bahrain: Manama;
    Kuwait: Kuwait City; Armenia: Yerevan; Azerbaijan: Baku; Georgia: Tbilisi
""")
_OCEANIA = _pairs("""
    Australia: Canberra; New Zealand: Wellington; Fiji: Suva; Samoa: Apia; Tonga: Nuku'alofa; Vanuatu: Port Vila;
    Papua New Guinea: Port Moresby; Kiribati: Tarawa; Palau: Ngerulmud; Tuvalu: Funafuti
""")
COUNTRIES_BY_CONTINENT = {
    "Europe": _EUROPE,
    "Africa": _AFRICA,
    "North America": _AMERICA,
    "South America": _SOUTH_AMERICA,
    "Asia": _ASIA,
    "Oceania": _OCEANIA,
}
CAPITALS = tuple(pair for pairs in COUNTRIES_BY_CONTINENT.values() for pair in pairs)
# These are also asked about in other ways. Every further fact costs the others exposures.
WELL_KNOWN = frozenset(
    words("""
    France Spain Portugal Italy Germany Austria Switzerland Belgium Denmark Norway Sweden Finland Iceland Ireland
    England Scotland Poland Hungary Greece Turkey Russia Ukraine Egypt Morocco Kenya Nigeria Canada Mexico Cuba Brazil
    Argentina Chile Peru Japan China India Thailand Vietnam Iran Iraq Australia
""")
)
CONTINENTS = tuple(
    (country, name) for name, pairs in COUNTRIES_BY_CONTINENT.items() for country, _ in pairs if country in WELL_KNOWN
)

# Mass nouns have no article, countable nouns do: "Snow is white.", "A frog is green."
COLOURS = _expanded("""
    blue: the sky, the sea, the ocean, a sapphire, a blueberry;
    green: grass, a leaf, a frog, a cucumber, lettuce, spinach, an emerald, broccoli, a pea, a cactus, a lime;
    white: snow, milk, salt, flour, a swan, a polar bear, a cloud, rice, a snowman, cotton;
    black: coal, tar, soot, a raven, a crow, ink;
    red: blood, a tomato, a strawberry, a ruby, a fire engine, a cherry, ketchup, a ladybird;
    yellow: a banana, a lemon, the sun, butter, a canary, a sunflower, a chick, mustard;
    orange: a carrot, a pumpkin, an orange;
    brown: chocolate, mud, coffee, a walnut, a chestnut, wood, cocoa;
    grey: an elephant, a dolphin, ash, a rhino;
    pink: a flamingo, a pig;
    purple: lavender, a plum, an aubergine
""")

# Every word is in one pair only, so that it has one opposite in either direction.
OPPOSITES = _pairs("""
    hot: cold; big: small; tall: short; fast: slow; old: young; happy: sad; light: dark; day: night; up: down;
    in: out; open: shut; full: empty; hard: soft; wet: dry; loud: quiet; rich: poor; strong: weak; clean: dirty;
    early: late; left: right; true: false; good: bad; first: last; high: low; thick: thin; wide: narrow;
    deep: shallow; near: far; inside: outside; above: below; before: after; begin: end; win: lose; push: pull;
    buy: sell; give: take; love: hate; laugh: cry; remember: forget; ask: answer; rise: fall; black: white; yes: no;
    north: south; east: west; summer: winter; morning: evening; always: never; more: less; many: few;
    cheap: expensive; easy: difficult; smooth: rough; sharp: blunt; safe: dangerous; awake: asleep; alive: dead;
    friend: enemy; peace: war; front: back; top: bottom; kind: cruel; polite: rude; float: sink; boy: girl;
    man: woman; king: queen; mother: father; brother: sister; son: daughter; heaven: hell; on: off; start: stop;
    come: go; arrive: leave; heavy: weightless; beautiful: ugly; brave: cowardly; hungry: thirsty; lucky: unlucky;
    possible: impossible; same: different; together: apart; here: there; everything: nothing; success: failure;
    question: statement; sweet: sour; tight: loose; straight: crooked; modern: ancient; male: female; over: under
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
MORE_NAMES = words("""
    Alex Bob John Mary Paul Lisa Mike Sarah David Laura James Julia Mark Sophie Luke Nina Adam Eva Oscar Lily Simon
    Maria Chris Amy Robert Sandra Eric Helen Frank Lucy George Nora Harry Ella Carl Marie Kevin Alice Steve Jane Tim
    Linda Martin Susan Andy Karen Ryan Emily Jacob Hannah Ethan Chloe Liam Ruby Omar Aisha Ravi Priya Chen Yuki Hans
    Ingrid Pierre Marco Elena Ivan Olga Pedro Carmen Ali Fatima Ahmed Jose Juan Nick Tony Joe Dan Matt Rob Ted Fred
    Charlie Theo Arthur Violet Freddie Rachel Monica Phoebe Ross Dave Pat Kim Lee Sasha Robin Jo
""")

# Words to spell, beside those of the other tables.
SPELLING_WORDS = words("""
    window bridge garden castle planet rocket silver golden winter spring river forest mountain valley island desert
    ocean beach storm thunder rain cloud shadow candle mirror pillow blanket curtain carpet table chair kitchen
    bedroom ceiling floor garage tunnel tower market village city street corner station ticket train plane ship
    wagon wheel engine motor bicycle helmet jacket trousers shirt button pocket gloves socks boots sandal ribbon
    bread cheese butter honey sugar pepper onion potato carrot garlic lemon orange banana grape melon peach cherry
    berry cookie biscuit pancake waffle muffin sandwich soup salad noodle pasta dinner lunch breakfast supper
    doctor nurse teacher farmer baker sailor pilot painter singer dancer writer actor driver soldier captain pirate
    wizard witch dragon giant fairy monster ghost robot angel knight prince princess crown sword shield arrow
    pencil paper letter number picture music guitar piano violin trumpet whistle puzzle balloon marble doll puppet
    friend family cousin uncle aunt baby child people person monkey giraffe zebra panda kangaroo penguin eagle
    falcon pigeon sparrow swallow spider beetle butterfly worm lizard snake shark salmon trout octopus jellyfish
    lobster oyster walrus dolphin elephant leopard cheetah hippo rhino buffalo chicken turkey rooster kitten puppy
    lamb calf foal bird fish tree flower grass leaf root branch seed tulip daisy rose lily poppy clover mushroom
    acorn maple willow birch cedar palm bamboo cactus moss fern ivy sun moon star comet sky earth fire water ice
    snow wind fog frost hail flood drought earthquake volcano lava smoke flame spark ember coal iron copper steel
    wood glass plastic cotton wool silk leather rubber brick cement mud sand clay dust dirt gold pearl diamond
    ruby emerald jewel treasure money penny dollar wallet purse bank shop store school college church temple
    hospital library museum theatre cinema hotel restaurant office factory farm barn stable fence gate path road
    highway harbour port canal lake pond stream waterfall cave cliff hill field meadow jungle swamp summer autumn
    monday friday january august morning evening midnight noon yesterday tomorrow today minute second hour week
    month year century clock watch alarm calendar hammer nail screw saw drill shovel rake bucket broom brush mop
    towel soap bath shower sink toilet oven stove fridge kettle teapot plate bowl fork knife glass jug tray napkin
    hello goodbye thanks sorry please welcome happy angry lonely tired sleepy hungry thirsty funny silly clever
    stupid brave scared proud jealous gentle friendly honest lazy busy ready early later quick quiet noisy
    bright dull shiny dusty sticky slippery crunchy spicy bitter salty juicy fresh rotten frozen melted broken
    jump walk dance sing read write draw paint cook bake clean wash sweep climb swim dive float throw catch kick
    push pull carry lift drop break build fix open close begin finish wait listen speak shout whisper smile laugh
    frown dream sleep wake think learn teach study travel visit explore discover invent imagine wonder believe
    science history language english french german spanish question answer problem reason secret story poem joke
    game football tennis hockey cricket rugby golf chess cards dice team player winner loser coach referee
    beautiful different important necessary because through enough although tongue rhythm separate definitely
    receive weird neighbour knowledge wednesday february business colour favourite chocolate vegetable parakeet
""")

SOUNDS = _pairs("""
    a cow: moo; a dog: woof; a cat: meow; a sheep: baa; a duck: quack; a pig: oink; a horse: neigh; a hen: cluck;
    a lion: roar; a mouse: squeak; an owl: hoot; a bee: buzz; a snake: hiss; a frog: ribbit; a wolf: howl;
    a donkey: hee-haw; a rooster: cock-a-doodle-doo; a parakeet: chirp; a bird: tweet; a crow: caw; a goose: honk
""")
LEGS = _pairs("""
    a dog: 4; a cat: 4; a cow: 4; a horse: 4; a sheep: 4; a spider: 8; a bird: 2; an ant: 6; a bee: 6; a hen: 2;
    a pig: 4; a snake: 0; a fish: 0; a duck: 2; a lion: 4; an elephant: 4; a frog: 4; an octopus: 8; a person: 2;
    a parakeet: 2; a fly: 6; a crab: 10; a table: 4; a chair: 4; a mouse: 4; a goat: 4; a beetle: 6; an owl: 2
""")
PLURALS = _pairs("""
    mouse: mice; goose: geese; foot: feet; tooth: teeth; man: men; woman: women; child: children; person: people;
    ox: oxen; leaf: leaves; knife: knives; wolf: wolves; loaf: loaves; wife: wives; life: lives; half: halves;
    sheep: sheep; fish: fish; deer: deer; box: boxes; fox: foxes; bus: buses; glass: glasses; dish: dishes;
    church: churches; baby: babies; city: cities; berry: berries; lady: ladies; story: stories; party: parties;
    potato: potatoes; tomato: tomatoes; hero: heroes; cat: cats; dog: dogs; book: books; car: cars; tree: trees;
    house: houses; bird: birds; apple: apples; boy: boys; girl: girls; day: days; key: keys; cup: cups; hat: hats;
    cow: cows; horse: horses; shoe: shoes; egg: eggs; star: stars; friend: friends; flower: flowers; table: tables
""")
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = words("January February March April May June July August September October November December")
NUMBER_WORDS = words("""
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty
""")
GENERAL = _pairs("""
    how many days are in a week: A week has 7 days.; how many months are in a year: A year has 12 months.;
    how many days are in a year: A year has 365 days.; how many hours are in a day: A day has 24 hours.;
    how many minutes are in an hour: There are 60 minutes in one hour.;
    how many seconds are in a minute: A minute has 60 seconds.;
    how many letters are in the alphabet: The alphabet has 26 letters.;
    how many weeks are in a year: A year has 52 weeks.; how many fingers do I have: You have 10 fingers.;
    how many toes do I have: You have 10 toes.; how many eyes do I have: You have 2 eyes.;
    how many wheels does a car have: A car has 4 wheels.;
    how many wheels does a bicycle have: A bicycle has 2 wheels.;
    how many sides does a triangle have: A triangle has 3 sides.;
    how many sides does a square have: A square has 4 sides.; how many planets are there: There are 8 planets.;
    how many continents are there: There are 7 continents.; how many seasons are there: There are 4 seasons.;
    what is the largest animal: The blue whale is the largest animal.;
    what is the biggest animal: The blue whale is the largest animal.;
    what is the tallest animal: The giraffe is the tallest animal.;
    what is the fastest animal: The cheetah is the fastest animal on land.;
    what is the largest planet: Jupiter is the largest planet.;
    what is the biggest planet: Jupiter is the largest planet.;
    what is the largest ocean: The Pacific is the largest ocean.;
    what is the biggest ocean: The Pacific is the largest ocean.;
    what is the highest mountain: Mount Everest is the highest mountain.;
    what is the tallest mountain: Mount Everest is the highest mountain.;
    what is the longest river: The Nile is the longest river.;
    what is the largest country: Russia is the largest country.;
    what is the biggest country: Russia is the largest country.;
    what is the smallest country: Vatican City is the smallest country.; what do bees make: Bees make honey.;
    what do cows eat: Cows eat grass.; what do cows drink: Cows drink water.;
    what do rabbits eat: Rabbits eat grass and vegetables.; what do cats eat: Cats eat fish and meat.;
    what do parakeets eat: Parakeets eat seeds and fruit.; what do birds eat: Birds eat seeds and insects.;
    what is a parakeet: A parakeet is a small parrot.; is a parakeet a bird: Yes. A parakeet is a small parrot.;
    where does the sun rise: The sun rises in the east.; where does the sun set: The sun sets in the west.;
    what is ice: Ice is frozen water.; what is snow: Snow is frozen water.;
    what is rain: Rain is water that falls from clouds.; what is the sun: The sun is a star.;
    what is the moon: The moon goes around the Earth.; is the earth flat: No. The Earth is round.;
    is the earth round: Yes. The Earth is round.; what comes from hens: Hens lay eggs.;
    where does milk come from: Milk comes from cows.; where do eggs come from: Eggs come from hens.;
    where does honey come from: Honey comes from bees.; where does wool come from: Wool comes from sheep.;
    can fish swim: Yes. Fish can swim.; can birds fly: Yes. Most birds can fly.; can pigs fly: No. Pigs cannot fly.;
    can penguins fly: No. Penguins cannot fly, but they swim well.; can dogs fly: No. Dogs cannot fly.;
    can a fish walk: No. A fish has no legs.; is fire hot: Yes. Fire is hot.; is ice cold: Yes. Ice is cold.;
    what is bread made of: Bread is made of flour and water.; what is cheese made of: Cheese is made of milk.;
    what is butter made of: Butter is made of milk.; what is glass made of: Glass is made of sand.;
    what is paper made of: Paper is made of wood.; how do birds fly: Birds fly with their wings.;
    how do fish breathe: Fish breathe with gills.; why is the sky blue: Because air scatters blue light the most.;
    what season comes after winter: Spring comes after winter.;
    what season comes after spring: Summer comes after spring.;
    what season comes after summer: Autumn comes after summer.;
    what season comes after autumn: Winter comes after autumn.; who wrote Hamlet: Shakespeare wrote Hamlet.;
    who wrote Romeo and Juliet: Shakespeare wrote Romeo and Juliet.;
    who painted the Mona Lisa: Leonardo da Vinci painted the Mona Lisa.;
    what language do people speak in France: People speak French in France.;
    what language do people speak in Germany: People speak German in Germany.;
    what language do people speak in Spain: People speak Spanish in Spain.;
    what language do people speak in Brazil: People speak Portuguese in Brazil.;
    what language do people speak in England: People speak English in England.;
    what language do people speak in Japan: People speak Japanese in Japan.;
    what do plants need: Plants need water and light.;
    what colours are in the rainbow: Red, orange, yellow, green, blue and violet.;
    what are the colours of the rainbow: Red, orange, yellow, green, blue and violet.;
    what are the days of the week: Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday.;
    name the days of the week: Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday.;
    list the months of the year: 
    January, February, March, April, May, June, July, August, September, October, November, December.;
    what are the months: 
    January, February, March, April, May, June, July, August, September, October, November, December.;
    say the alphabet: A B C D E F G H I J K L M N O P Q R S T U V W X Y Z.;
    say the abc: A B C D E F G H I J K L M N O P Q R S T U V W X Y Z.;
    tell me the alphabet: A B C D E F G H I J K L M N O P Q R S T U V W X Y Z.; name a colour: Blue is a colour.;
    name an animal: A fox is an animal.; name a fruit: An apple is a fruit.; name a country: France is a country.;
    name a city: London is a city.; name a bird: A parakeet is a bird.; say a number: 7 is a number.;
    give me a word: Here is a word. Feather.; say something: I like to chirp.;
    what does water boil at: Water boils at 100 degrees.;
    at what temperature does water freeze: Water freezes at 0 degrees.;
    what is your favourite colour: I like green, like my feathers.
""")


@cache
def known_words() -> frozenset[str]:
    """Every word of the tables, in lower case."""
    pairs = (*CAPITALS, *COLOURS, *OPPOSITES, *PLURALS, *SOUNDS, *LEGS, *NAMES)
    phrases = (*(text for pair in pairs for text in pair), *ANIMALS, *OBJECTS, *SPELLING_WORDS, *MORE_NAMES)
    return frozenset(word for text in phrases for word in text.lower().split())
