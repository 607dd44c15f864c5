"""The demo model's village: its people, animals, tools and computers, and how stories are told of it.

Knows the tables and the sentence templates of the text from which the demo model learns.
Refuses to know how a template becomes a sentence: that is `stories`.

In a template `[a|b]` is a choice and `{slot}` is filled in; a story is one template per stage.
"""
# ruff: noqa: E501 - a template is one sentence and stays on one line

from __future__ import annotations

from typing import NamedTuple

Slots = dict[str, str]


class Person(NamedTuple):
    """Someone of the village; `job` is unique, `place` is where the work is done."""

    name: str
    pronoun: str
    job: str
    place: str
    does: str


class Animal(NamedTuple):
    """An animal with a name, a kind (unique) and the name of its owner."""

    name: str
    kind: str
    owner: str
    sound: str


class Repair(NamedTuple):
    """A thing that breaks: what is wrong, why, what mends it, and how one sees that it is mended."""

    thing: str
    damage: str
    cause: str
    tool: str
    material: str
    trouble: str
    proof: str


class Fault(NamedTuple):
    """What is wrong with a computer: the sign, the cause, the cure (past tense) and the tool."""

    sign: str
    cause: str
    cure: str
    tool: str


class Crop(NamedTuple):
    """What a field bears, the verb (base and past form) that brings it in, and what becomes of it."""

    name: str
    verb: str
    past: str
    tool: str
    dish: str


VILLAGE = "Solbat"
PEOPLE = tuple(
    Person(*row.split(","))
    for row in """Mina,she,baker,bakery,bakes bread before sunrise
Joon,he,blacksmith,forge,makes hooks and hinges
Sora,she,beekeeper,orchard,looks after nine hives
Taeho,he,miller,mill,grinds the grain of the whole village
Hana,she,shepherd,hill,walks with the flock all day
Daniel,he,carpenter,workshop,builds doors and tables
Yuri,she,weaver,weaving house,makes warm blankets
Minho,he,fisherman,river,sets his nets at dawn
Bora,she,teacher,school,teaches the children to read
Jisu,she,potter,kiln,makes bowls from red clay
Kang,he,rice farmer,north field,grows rice
Nari,she,barley farmer,south field,grows barley
Oto,he,ferryman,landing,brings people over the water
Elin,she,gardener,herb garden,grows mint and sage
Marek,he,cooper,cellar,makes barrels of oak
Lena,she,nurse,clinic,bandages cuts and cools fevers
Pavel,he,woodcutter,forest,cuts only the old trees
Ada,she,engineer,granary,keeps the five small computers running
Tomas,he,postman,post office,carries letters over the pass
Rosa,she,cook,village hall,cooks for every work party
Ivan,he,mason,quarry,builds walls without mortar
Suni,she,painter,gate house,paints signs and boats
Chul,he,roofer,lane,knows every roof by heart
Gita,she,tailor,sewing room,mends coats and sails
Halim,he,shopkeeper,shop,sells salt and candles
Petra,she,innkeeper,inn,has a bed for every traveller
Dae,he,bell ringer,bell tower,rings the bell at noon
Wen,he,musician,square,plays the flute at every feast""".splitlines()
)
CHILDREN = (("Somi", "she"), ("Bin", "he"), ("Lulu", "she"), ("Theo", "he"), ("Mari", "she"))
ANIMALS = tuple(
    Animal(*row.split(","))
    for row in """Dot,goat,Hana,bleating
Bruno,ox,Kang,snorting
Pip,dog,Daniel,barking
Moss,cat,Mina,meowing
Clover,cow,Nari,mooing
Juniper,donkey,Taeho,braying
Gus,goose,Oto,honking
Biscuit,hen,Elin,clucking
Star,horse,Joon,neighing
Fern,lamb,Yuri,crying
Pepper,pony,Petra,whinnying
Olive,duck,Minho,quacking""".splitlines()
)
COMPUTERS = ("Barley", "Millet", "Rice", "Wheat", "Sesame")
REPAIRS = tuple(
    Repair(*row.split(";"))
    for row in """barn roof;had a hole in it;the wind had torn off three tiles;ladder;new tiles;the hay was getting wet;not a drop came through
old cart;stood crooked on the road;one wheel had hit a stone;mallet;a piece of oak;the sacks could not be moved;it rolled without a sound
garden fence;lay flat on the ground;the posts were rotten;hammer;chestnut posts;the hens were walking into the road;not even a mouse could get through
wooden bridge;was missing two planks;the flood had carried them away;saw;pine planks;nobody could reach the far bank;the heaviest wagon crossed it safely
water pump;gave nothing but air;a seal had worn out;wrench;a ring of leather;every bucket in the village was empty;clear water ran out of it
mill wheel;would not turn;a branch was caught under it;crowbar;a new paddle;there was no flour left;it turned as smoothly as before
school bell;made no sound;its rope had frayed;knife;a strong rope;the children came too late;it could be heard on the hill
bread oven;was full of smoke;a brick had fallen into the flue;trowel;clay and sand;there was no bread for breakfast;the first loaf came out golden
fishing net;had a great tear in it;a log had been swept down the river;needle;waxed thread;the fish swam straight through;it held a pike as long as an arm
well cover;was broken in two;a heavy branch had fallen on it;drill;iron straps;leaves were falling into the water;it closed as tightly as a lid
stable door;hung by one hinge;the frost had split the wood;screwdriver;a forged hinge;the animals were cold at night;it opened with one finger
plough;had lost its point;there was a rock under the soil;file;a bar of iron;the field could not be turned;it cut the earth like butter
stone wall;had a gap in it;the rain had washed the ground away;spade;flat stones;the sheep kept getting out;it stood as firm as the hill
ferry rope;was almost worn through;it had rubbed against the pier;hook;new hemp;nobody dared to cross the river;it held three men and an ox
garden gate;would not close;the hinges were full of rust;oil can;a little oil;the goats were eating the cabbages;it closed with a soft click
loom;skipped every third thread;a peg had come loose;clamp;a wooden peg;the blankets had holes in them;it ran from morning until night
greenhouse window;had a long crack;hail had struck it;chisel;a clean pane of glass;the seedlings were freezing;the seedlings stood warm again
wind vane;pointed at the ground;a stork had sat on it;pliers;a copper pin;nobody knew where the wind came from;it swung around with every breeze
chimney;leaned to one side;a storm had shaken it;level;red bricks;nobody could light a fire;the smoke rose straight up
rowing boat;was full of water;a seam had opened in the hull;brush;warm pitch;the nets could not be reached;it floated as lightly as a leaf
kitchen table;wobbled on three legs;the fourth leg had snapped;plane;a leg of ash wood;the soup kept spilling;it did not move at all
street lamp;stayed dark;the wire had come loose;tester;a new wire;people stumbled on their way home;it lit up the whole lane
weather station;sent no figures;a spider had built a web in it;soft cloth;a new battery;nobody could plan the harvest;it reported every drop of rain
irrigation ditch;was blocked;mud and reeds had filled it;shovel;a wooden sluice;the young rice was drying out;the water reached the last row""".splitlines()
)
FAULTS = tuple(
    Fault(*row.split(";"))
    for row in """had stopped answering;its network cable had come loose;pushed the cable back until it clicked;torch
was far too slow;dust had filled its fan;blew the dust out of the fan;small brush
switched itself off every hour;its power supply was too weak;gave it a stronger power supply;meter
could not save anything;its disk was full of old logs;deleted the old logs;keyboard
was hotter than a kettle;it stood right beside the stove;moved it to the cool shelf;thermometer
gave wrong answers;a memory chip was broken;replaced the memory chip;screwdriver
showed the wrong time;its little battery was empty;changed the battery;pair of tweezers
was missing from the list;someone had unplugged it to charge a lamp;plugged it in again;label
started again and again;its card was worn out;copied everything to a new card;card reader
talked to the others in bursts;the switch had a bad port;used another port of the switch;spare cable""".splitlines()
)
CROPS = tuple(
    Crop(*row.split(","))
    for row in """barley,cut,cut,sickle,barley bread
rice,cut,cut,sickle,rice cakes
apples,pick,picked,basket,apple pie
potatoes,dig up,dug up,fork,potato soup
hay,turn,turned,rake,milk porridge
beans,pick,picked,bucket,bean stew
pumpkins,carry in,carried in,barrow,pumpkin soup
onions,pull up,pulled up,basket,onion tart
plums,shake down,shook down,long pole,plum cake
cabbages,cut,cut,knife,pickled cabbage
grapes,pick,picked,pair of scissors,grape juice
honey,gather,gathered,smoker,honey cake
corn,break off,broke off,sack,corn bread
millet,mow,mowed,scythe,millet porridge""".splitlines()
)
LOST = tuple(
    tuple(row.split(","))
    for row in """silver ring,under the flour bin
brass key,in the pocket of an old coat
straw hat,on the head of the scarecrow
red scarf,in the nest of a magpie
wooden flute,behind the stove
reading glasses,between two pages of a book
letter from the city,under the seat of the cart
blue button,in the hay
copper coin,at the bottom of the well bucket
pocket knife,beside the stump in the forest
map of the valley,inside the drum
little memory card,under the rug in the granary
bag of seeds,in the boat
pencil,behind one ear
wedding photo,at the back of the drawer""".splitlines()
)
HIDING = (
    "behind the old kiln", "in the reeds by the river", "under the stone bridge",
    "in the middle of the bean field", "on top of the hay", "at the edge of the forest",
    "in the cellar of the inn", "beside the warm oven", "between two apple trees",
    "in the empty boat", "on the steps of the school", "in the shade of the great oak",
)  # fmt: skip
FOOD = (
    "barley soup", "warm bread", "rice and beans", "apple pie", "fried fish", "pumpkin soup",
    "honey cake", "potato pancakes", "noodles with sesame", "goat cheese", "plum jam",
    "mushroom stew", "roasted chestnuts", "pickled cabbage", "sweet tea", "egg pie",
)  # fmt: skip
TOOLS = tuple(sorted({repair.tool for repair in REPAIRS} | {crop.tool for crop in CROPS}))
WEATHER = (
    "rainy", "windy", "foggy", "frosty", "sunny", "cloudy", "stormy", "warm", "cold", "snowy",
    "bright", "hot", "misty", "quiet", "grey",
)  # fmt: skip
WHEN = (
    "morning", "afternoon", "evening", "market day", "wash day", "holiday", "Sunday", "Monday",
    "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday",
)  # fmt: skip
MOODS = ("happy", "tired", "calm", "proud", "cheerful", "curious", "worried", "patient", "hungry")

OPENINGS = (
    "One {weather} {when}, {A} the {job} [walked|came|went] [to|past] the {place} [with {pet} the {animal}|with a basket on {his} arm|and sang a song|as {he} did every day].",
    "It was a {weather} {when} in {village}. {A} the {job} [stood near|sat in front of|walked around] the {place}.",
    "Once upon a time there was a {job} called {A}. [{He} lived|{He} had a small house|{He} worked] [near|behind|next to] the {place} in {village}.",
    "{A}, the {job} of {village}, [had slept badly|had risen early|had been up since four|was in no hurry] that {weather} {when}.",
    "On a {weather} {when} {A} [drank {his} tea|laced {his} boots|fed the {animal}|counted {his} coins] and [thought about the day|listened to the wind|hummed a tune].",
    "In {village}, where people [share their work|help each other|keep their doors open], lived {A} the {job}.",
    "Everyone in {village} knew {A}. {He} was the {job}, and {he} was [seldom alone|always a little {mood}|the first to get up].",
    "The day was {weather}, and [the lane was empty|the cocks were crowing|the smoke hung low over the roofs]. {A} [put on a coat|took {his} bag|locked the door] and set out for the {place}.",
)
CLOSINGS = (
    "[In the evening|After the work|When the sun went down|Before they went home], everyone [sat|met] [in the village hall|around the fire|under the oak] and [ate|shared] {food}.",
    "{Rosa} had made {food}, and [nobody went home hungry|there was enough for everyone|even the {animal} got a little].",
    '"[Many hands make light work|That is what a work party is for|Alone I would still be standing there|Tomorrow we will help you]," said {A}, and [{B} nodded|{B} laughed|everyone agreed].',
    "{A} thanked {B} with [a jar of honey|a loaf of bread|a basket of plums|a new rope|a bowl of {food2}]. [{Bhe} did not want to take it, but {he} insisted.|{Bhe} shared it with the children at once.]",
    "From that day on, {A} [always asked for help in time|looked after {his} things more carefully|never laughed at a small problem again|kept both eyes open].",
    "[Wen played the flute|The children sang|The dog slept by the stove|The lamps were lit], and {A} was [content|tired but happy|glad to live in {village}].",
    "That night {he} slept [like a stone|better than ever|with the window open], for [the work was done|tomorrow would be an easy day|the village was at peace].",
)
LESSONS = (
    "And that is how {A} learned that [two can carry more than one|a friend is worth more than a tool|it is good to ask].",
    "People in {village} still [talk|laugh] about [it|that day] [today|when the nights are long|at the well].",
    "So it was, and so it is [in {village}|among neighbours|wherever people share their work].",
    "The end.",
)

REPAIR_STORY = (
    (
        "There {he} saw that the {thing} {damage}. [{cause}, as everyone could see|The reason was plain: {cause}].",
        "[Then|Suddenly|A moment later] {he} noticed that the {thing} {damage}. {He} [looked closely|bent down|took a lamp] and found out that {cause}.",
        "But the {thing} {damage}, because {cause}.",
        "{He} stopped at once. The {thing} {damage}! [It seemed that|Surely] {cause}.",
    ),
    (
        "[That was bad|This could not wait], because {trouble}.",
        "[Since last night|For two days|Already] {trouble}, so something had to be done.",
        '"[Oh no|Look at that|What a mess|Dear me]," {he} said. "[We must mend it|I cannot leave it like this|It has to be done today]."',
        "{He} knew what it meant: {trouble}.",
    ),
    (
        "{He} tried to mend it alone, but [it was too heavy|{he} had only two hands|{he} did not have a {tool}]. So {he} went to {B}, the {bjob}.",
        '{He} ran to the {bplace} and asked {B} for help. "[Of course|Gladly|I will come at once|Give me a minute]," said {B}.',
        '{B} the {bjob} was passing by. "[Do you need a hand|What happened here|Shall we do it together]?" {bhe} asked. {A} was [glad|relieved] to hear it.',
        'Luckily {B}, the {bjob}, had a {tool}. "[Take it|Use mine|I will bring it]," {bhe} said, "[but let me help|and I will hold the lamp|and let us begin]."',
    ),
    (
        "{B} brought a {tool}, and {A} [found|fetched|carried] {material}.",
        "They [took|needed] a {tool} and {material}. {A} held it [still|tightly|in place] while {B} worked.",
        "While {B} worked with the {tool}, {A} [prepared|measured|cleaned] {material}.",
        "First they cleaned the place. Then {A} took the {tool}, and {B} handed {him} {material}.",
    ),
    (
        "[{C} brought hot tea|{C} swept the ground|{C} told a joke|{C} kept the children away], and the work [went quickly|was easier|took only an hour].",
        "It was [hard work|slow work], and [{A} hit {his} thumb|{B} lost a glove|the {tool} slipped twice], but nobody gave up.",
        '"[A little to the left|Hold it there|Not so fast|Once more]," said {B}. {A} [nodded and pushed|pulled with all {his} strength|did as {bhe} said].',
        "{pet} the {animal} watched them and [did not make a sound|wanted to help|fell asleep in the grass].",
    ),
    (
        "[At noon|By evening|After two hours|Before it got dark] the {thing} was mended: {proof}.",
        "When they tried it, {proof}. [The {thing} was as good as new|Everyone clapped|{A} smiled].",
        "At last the {thing} was ready, and {proof}.",
    ),
)
REPAIR_QA = (
    (
        "[What was broken|What had to be mended|What did they repair]?",
        "[The {thing} was broken|It was the {thing}].",
    ),
    (
        "[What was wrong with the {thing}|What happened to the {thing}]?",
        "The {thing} {damage}, because {cause}.",
    ),
    (
        "[Which tool did they use|What did they use to mend it]?",
        "They used a {tool} and {material}.",
    ),
    ("Why was that bad?", "It was bad because {trouble}."),
    ("How did they know that it was mended?", "They knew because {proof}."),
)
ANIMAL_STORY = (
    (
        "But {pet} the {animal} was gone. [The rope lay on the ground|The door stood open|There were tracks in the mud].",
        "{He} called for {pet} the {animal}, but [nothing moved|only the wind answered].",
        "[Then|At that moment] {he} saw that {pet} the {animal} was missing.",
    ),
    (
        "{He} looked [in the barn|under the cart|behind the house] and [in the cellar|on the road|in the garden], but {he} did not find {pet}.",
        '"[Where can {pet} be|Where is that {animal}]?" {he} asked. {He} was [worried|sad], because [it would soon be dark|the river was high|a storm was coming].',
        '{He} ran through the village and called, "{pet}, {pet}!" [People opened their windows|Even the bell ringer looked down].',
    ),
    (
        '{B} the {bjob} [heard {him}|met {him} at the well] and said, "[Let us look together|I will help you|Four eyes see more than two]."',
        '{He} asked {B}, the {bjob}. "[I saw the {animal} this morning|I heard a noise near the {bplace}]," {bhe} said. "Come with me."',
    ),
    (
        "They took a {tool} and a lamp and [went along the river|climbed the hill|searched every yard].",
        "{C} went left, {B} went right, and {A} walked straight ahead with a {tool} in {his} hand.",
        "They followed the tracks [past the mill|over the bridge|through the wet grass] until they heard something.",
    ),
    (
        "There, {hiding}, was {pet}, {sound} [happily|softly|loudly].",
        "At last they heard {pet} {sound}. The {animal} was {hiding}[, quite safe| and could not get out| and was eating grass].",
        '"Look!" said {B}. {pet} was {hiding}, [asleep|wet but well|as calm as ever].',
    ),
    (
        '{A} [hugged|stroked] the {animal} and [laughed|wiped away a tear]. "[Never do that again|You gave me a fright|Let us go home]," {he} said.',
        "They led {pet} home, and {A} [closed the gate twice|tied a better knot|gave the {animal} fresh hay].",
    ),
)
ANIMAL_QA = (
    (
        "[Who was lost|Which animal was missing|Who ran away]?",
        "{pet} the {animal} [was lost|was missing].",
    ),
    ("[Where did they find {pet}|Where was {pet}|Where was the {animal}]?", "{pet} was {hiding}."),
    ("What did they take with them?", "They took a {tool}."),
)
COMPUTER_STORY = (
    (
        "In the granary stood five small computers. That day {node} {sign}.",
        "{He} wanted to ask the computers in the granary for [a recipe|the weather|a story], but {node} {sign}.",
        "[The lamp of|The screen beside] {node}, one of the five small computers, was [red|dark]. It {sign}.",
    ),
    (
        "Without {node} the other four [could not go on|had to do all the work|waited and waited], because each of them holds a share of the model.",
        '"[One of them is missing|Something is wrong with {node}|The five are only four]," said {A}. "[We need an engineer|Let us have a look|It worked yesterday]."',
        "[The others waited|The answers stopped], for the five computers share their work just as the village does.",
    ),
    (
        '{A} called {B}, [who was good with such things|who came with a bag of cables]. "[Did you touch anything|When did it start|May I see it]?" {bhe} asked.',
        '{B} came from the {bplace} and listened to the fan. "[Do not worry|We will find it|Step by step]," {bhe} said.',
    ),
    (
        "They checked the power, then the network, then the disk. {B} used a {ftool} and found that {fcause}.",
        "{B} read the log line by line. [Soon|After a while] {bhe} saw the reason: {fcause}.",
        "With a {ftool} and some patience they found out that {fcause}.",
    ),
    (
        "So {A} {cure}, and {node} started again.",
        '{B} {cure}. "[Now try it|That should do|Count them]," {bhe} said.',
        "Together they {cure} and [waited|held their breath].",
    ),
    (
        "One after another the five lamps turned green: {nodes}.",
        "{node} came back, and [the model told a story about the sea|the answer came at once|the five worked as one again].",
    ),
)
COMPUTER_QA = (
    (
        "[Which computer had a problem|Which computer was broken|Which node failed]?",
        "It was {node}.",
    ),
    ("What was the problem?", "{node} {sign}, because {fcause}."),
    ("[Which tool did they use|What did they use]?", "They used a {ftool}."),
    ("Where are the computers?", "The computers are in the granary."),
)
HARVEST_STORY = (
    (
        "The {crop} [had to be brought in|could not wait any longer], for [a storm was coming|the nights were getting cold|the clouds were black].",
        "It was time to {verb} the {crop}. The field was [large|long and wide], and {A} was alone.",
    ),
    (
        '{He} began at [dawn|six], but by noon {he} had done only [one row|a small corner]. "[I will never finish|This is too much for one]," {he} [sighed|said].',
        '{He} looked at the sky and [counted the rows|shook {his} head]. "[It will rain before I am done|I need help]," {he} said.',
    ),
    (
        '{B} [saw it from the {bplace}|heard of it] and [rang the bell|went from door to door]. "[{A} needs us|Bring what you have|Everyone to the field]," {bhe} called.',
        "Then {B} the {bjob} came over the hill with a {htool}, and behind {bhim} came [the whole village|ten neighbours|every household].",
    ),
    (
        "Each household sent [two hands|somebody]. {C} brought a {htool}, {B} brought water, and the children carried the sacks.",
        "They stood in a long line and {past} the {crop}, row after row. [Someone sang, and the others answered|{C} told stories all the while].",
        "{B} and {C} {past} the {crop} on the left, and {A} worked on the right.",
    ),
    (
        "[The first drops fell|The wind rose|The sun was low], but nobody stopped.",
        "Even {pet} the {animal} [pulled a cart|carried a sack|kept the birds away].",
        '"[Faster|Only three rows left|We are nearly there]," cried {B}, and [everyone laughed|they worked on].',
    ),
    (
        "When the rain came, the {crop} [lay safe in the barn|stayed dry under the roof].",
        "By [noon|evening] the field was empty and the barn was full of {crop}. They made {dish} [from it|for everyone].",
    ),
)
HARVEST_QA = (
    ("[What did they bring in|What was the harvest]?", "They brought in the {crop}."),
    ("Why did {A} need help?", "The field was too large for one, and {A} was alone."),
    (
        "[What did {B} bring|What did {B} do]?",
        "{B} called the neighbours, and they {past} the {crop} together.",
    ),
)
LOST_STORY = (
    (
        "{He} put {his} hand into {his} pocket, but the {lost} was not there.",
        "[That day|That {when}] {he} could not find {his} {lost}.",
        '"My {lost} is gone!" {he} cried. [It had been a gift from {his} grandmother|{He} had had it since {he} was a child].',
    ),
    (
        "{He} searched the {place} from top to bottom and found [a spoon|an old shoe|two nails], but no {lost}.",
        "{He} emptied every [box|bag|drawer] and looked under [the bed|the table], but it was no use.",
    ),
    (
        '{B} [saw {his} sad face|heard the noise] and asked, "What are you looking for?" "For my {lost}," said {A}.',
        '{He} told {B}, the {bjob}, about it. "[Think back,|Where did you have it last?|Let us retrace your steps,]" {bhe} said.',
    ),
    (
        "They asked {C}, and {C} asked the children. [Soon the whole lane was looking|Everyone looked at home].",
        "First they went to the {bplace}, then back to the {place}, [and then they asked {C}|step by step].",
    ),
    (
        "In the end it was {C} who found the {lost} {spot}.",
        'And there it was, {spot}! "[How did it get there?|I would never have looked there,]" said {A}.',
        "Then {B} had an idea. They looked once more, and the {lost} was {spot}.",
    ),
)
LOST_QA = (
    (
        "[What was lost|What did {A} lose|What was {A} looking for]?",
        "{A} [lost|was looking for] the {lost}.",
    ),
    ("[Where was the {lost}|Where did they find it]?", "The {lost} was {spot}."),
)
GENERAL_QA = (
    ("[Who is the story about|Who is it about]?", "[It|The story] is about {A}, the {job}."),
    ("[Who helped {A}|Who came to help]?", "{B} helped {A}."),
    ("[What is {B}|What does {B} do]?", "{B} is the {bjob}."),
    ("[Where does the story take place|Where did it happen]?", "It happened in {village}."),
)
THEMES = {
    "repair": (REPAIR_STORY, REPAIR_QA),
    "animal": (ANIMAL_STORY, ANIMAL_QA),
    "computer": (COMPUTER_STORY, COMPUTER_QA),
    "harvest": (HARVEST_STORY, HARVEST_QA),
    "lost": (LOST_STORY, LOST_QA),
}
LINKS = (
    "[The next day|A week later|Some days later|The following morning] [the sky was {weather}|it was {weather}], and {A} [was at work again|had other things to do|was as {mood} as ever].",
    "But that was not all. [Two days later|On the way home|Soon after that], {A} [came past the {place}|sat down in front of the {place}].",
    "{A} [thought the trouble was over|wanted to rest], but [the week was long|there is always something to do in {village}].",
)
