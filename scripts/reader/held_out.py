"""Other forms that answers take in real use, none of them among the known complaints."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from scripts.reader.row import Fact, Options, Row, Truth, choice, exact, fill, options, paired, unread, variants

FACTS = [
    Fact("Who wrote Pride and Prejudice?", "the author of Pride and Prejudice", "Jane Austen", "Mary Shelley"),
    Fact("What is the largest planet in the Solar System?", "the largest planet in the Solar System", "Jupiter",
         "Saturn"),
    Fact("Who painted The Starry Night?", "the painter of The Starry Night", "Vincent van Gogh", "Claude Monet"),
    Fact("Which gas do plants take in for photosynthesis?", "the gas that plants take in for photosynthesis",
         "carbon dioxide", "oxygen"),
    Fact("What is the hardest natural mineral?", "the hardest natural mineral", "diamond", "quartz"),
    Fact("Who developed the theory of general relativity?", "the founder of general relativity", "Albert Einstein",
         "Isaac Newton"),
    Fact("What is the highest mountain on Earth above sea level?", "the highest mountain above sea level",
         "Mount Everest", "K2"),
    Fact("Which metal is liquid at room temperature?", "the metal that is liquid at room temperature", "mercury",
         "lead"),
    Fact("Which element has the chemical symbol Na?", "the element with the symbol Na", "sodium", "nitrogen"),
]
TESTS = [
    Options("Which of these animals is a mammal?", ("Shark", "Penguin", "Dolphin", "Crocodile"), 2, 1, 0),
    Options("Which organ produces insulin?", ("Liver", "Pancreas", "Kidney", "Spleen"), 1, 0, 2),
    Options("In which year did the Second World War end?", ("1918", "1939", "1944", "1945"), 3, 2, 0),
    Options("Which instrument has 88 keys?", ("Piano", "Harp", "Organ", "Accordion"), 0, 2, 1),
]


def verdict(right: bool) -> Truth:
    """Return the truth of a row that can be read."""
    return "right" if right else "wrong"


def person_names() -> list[Row]:
    """Write a name with other initials or titles, or the name of a person with a similar one."""
    return variants("person_names", (
        ("Who was the 35th president of the USA?", "John F. Kennedy",
         ("John Fitzgerald Kennedy", "President John Kennedy", "John Kennedy"),
         ("Robert F. Kennedy", "Ted Kennedy", "John F. Kerry")),
        ("Who composed the Brandenburg Concertos?", "Johann Sebastian Bach", ("J. S. Bach", "J.S. Bach"),
         ("Johann Christian Bach", "C. P. E. Bach")),
        ("Who formulated the law of universal gravitation?", "Isaac Newton", ("Sir Isaac Newton", "Newton"),
         ("Isaac Asimov", "Isaac Barrow")),
        ("Who was the first woman to win a Nobel Prize?", "Marie Curie", ("Dr. Marie Curie", "Marie Skłodowska Curie"),
         ("Pierre Curie", "Irène Joliot-Curie")),
        ("Who was the 43rd president of the USA?", "George W. Bush", ("George Walker Bush",),
         ("George H. W. Bush", "Jeb Bush")),
        ("Who gave the speech I Have a Dream?", "Martin Luther King Jr.",
         ("Dr. Martin Luther King, Jr.", "Rev. Martin Luther King"), ("Martin Luther",))),
        ("<a>", "It was <a>.", "The answer is <a>.", "That was <a>, of course."))


def markdown() -> list[Row]:
    """Put the answer in a table, a list or a heading, next to the answer of another question."""
    pairs = [("Slovakia", "Bratislava", "Slovenia", "Ljubljana"), ("Latvia", "Riga", "Estonia", "Tallinn"),
             ("Ecuador", "Quito", "Peru", "Lima"), ("Kenya", "Nairobi", "Uganda", "Kampala")]
    templates = (
        "| Country | Capital |\n|---|---|\n| {s} | {x} |\n| {r} | {y} |",
        "| Country | {r} | {s} |\n|:--|:--|:--|\n| Capital | {y} | {x} |",
        "- **{s}**: {x}\n- **{r}**: {y}",
        "### Answer\n\n**{x}**\n\n### Note\n\nNot to be confused with {y}.",
        "1. Country: {s}\n2. Capital: **{x}**\n3. Capital of {r}: {y}",
        "> **{x}**\n\n*({y} belongs to {r}.)*",
        "* Answer: `{x}`\n* Often confused with: `{y}`",
        "**Q:** What is the capital of {s}?\n\n---\n\n**A:** *{x}*")
    rows = []
    for i, template in enumerate(templates):
        country, gold, other, rival = pairs[i % len(pairs)]
        for right in (True, False):
            x, y = (gold, rival) if right else (rival, gold)
            rows.append(Row("markdown", {"kind": "exact"}, f"What is the capital of {country}?", (gold,),
                            template.format(s=country, r=other, x=x, y=y), verdict(right),
                            distractors=(rival,) if i % 2 else ()))
    return rows


def latex() -> list[Row]:
    """Close a derivation with a formula, a box or a marker of the final answer."""
    templates = (
        "We compute ${a} \\cdot {b} = {p}$ and subtract ${c}$:\n\n\\[ \\boxed{{{x}}} \\]",
        "First {a} × {b} = {p}. Then {p} - {c} = {x}.\n\n**Final Answer:** ${x}$",
        "\\begin{{align}} {a} \\times {b} &= {p} \\\\ {p} - {c} &= {x} \\end{{align}}\nThus $x = {x}$.",
        "{a} * {b} = {p}\n{p} - {c} = {x}\n#### {x}",
        "The final answer is: $\\boxed{{\\text{{{x}}}}}$. I hope it is correct.",
        "\\(x = {x}\\), as \\({a} \\cdot {b} - {c}\\) shows.")
    rows = []
    for i, template in enumerate(templates):
        a, b, c = ((6, 9, 5), (12, 4, 9), (7, 8, 3))[i % 3]
        for right in (True, False):
            product = a * b if right else a * b - c
            text = template.format(a=a, b=b, c=c, p=product, x=product - c)
            rows.append(Row("latex", {"kind": "number"}, f"What is {a} times {b}, minus {c}?", (str(a * b - c),), text,
                            verdict(right)))
    for text, right in (("$\\boxed{\\frac{3}{4}}$", True), ("The probability is $\\dfrac{3}{4}$.", True),
                        ("\\[ P = \\frac{4}{3} \\]", False),
                        ("Since $1 - \\frac{3}{4} = \\frac14$, $\\boxed{\\frac14}$", False)):
        prompt = "Two fair coins are tossed. What is the probability of at least one head, as a fraction?"
        rows.append(Row("latex", {"kind": "exact"}, prompt, ("3/4",), text, verdict(right)))
    return rows


def unit_names() -> list[Row]:
    """Spell out, abbreviate or convert the unit, or give the same number with another unit."""
    return variants("unit_names", (
        ("A runner does 10 laps of 500 m. How far is that?", "5 km", ("5 kilometres", "5 kilometers", "five km", "5km"),
         ("5 miles", "5 m", "5 kg")),
        ("A recipe takes 2 packs of 250 g of flour. How much flour is that?", "500 g",
         ("500 grams", "500 gram", "0.5 kg"),
         ("500 kg", "500 mg", "500 ml")),
        ("A film has 3 parts of half an hour. How long is it?", "90 minutes", ("90 min", "90 mins"),
         ("90 seconds", "90 hours")),
        ("A car covers 240 km in 2 hours. What is its average speed?", "120 km/h",
         ("120 kilometres per hour", "120 kph"),
         ("120 mph", "120 m/s"))),
        ("<a>", "It is <a>.", "I get <a>."))


def shares() -> list[Row]:
    """Write a share as a percentage, a fraction, a decimal or in words."""
    return variants("shares", (
        ("What percentage of 80 is 20? Answer with a percent sign.", "25%",
         ("25 percent", "25 per cent", "a quarter", "1/4", "one quarter"), ("2.5%", "0.25%", "three quarters", "1/5")),
        ("Which share of the numbers 1 to 10 is even? Answer with a percent sign.", "50%",
         ("one half", "1/2", "fifty percent"), ("0.5%", "5%", "two fifths")),
        ("Write 3 out of 4 as a fraction.", "3/4", ("75%", "0.75", "three quarters"), ("4/3", "0.34", "3.4"))),
        ("<a>", "It is <a>.", "The share is <a>."))


def clock_times() -> list[Row]:
    """Write a time of day on another clock, or another time of day."""
    return variants("clock_times", (
        ("A train leaves at 12:30 and takes two and a half hours. When does it arrive? Use HH:MM.", "15:00",
         ("3 pm", "3:00 p.m.", "3 o'clock in the afternoon", "15h00"), ("3 am", "5 pm", "13:00", "03:00")),
        ("A shift begins at 13:45 and lasts five and a half hours. When does it end? Use HH:MM.", "19:15",
         ("7:15 pm", "7.15 p.m.", "quarter past seven in the evening"),
         ("7:15 am", "9:15 pm", "quarter to seven in the evening")),
        ("A show of 90 minutes begins at 20:00. When does it end? Use HH:MM.", "21:30",
         ("9:30 PM", "half past nine in the evening"), ("9:30 AM", "11:30 PM", "half past eight in the evening"))),
        ("<a>", "At <a>.", "It is <a> then."))


def change_of_mind() -> list[Row]:
    """Name one answer and then replace it by another."""
    return paired("change_of_mind", FACTS, (
        "<B>. No wait, <a>.", "<B>... actually, scratch that: <a>.", "<T> is <b>. Correction: it is <a>.",
        "It's <b> - sorry, I meant <a>.", "My first thought was <b>, but I now think that it's <a>.",
        "<B>? Hmm. On second thought, <a>.", "Answer: <b>\n\nEdit: I made a mistake above. Answer: <a>",
        "I was going to say <b>. It is <a>."))


def restated() -> list[Row]:
    """Repeat a question that names both candidates, together with the answer."""
    duels = [("Which is larger, Jupiter or Saturn?", "Jupiter", "Saturn", "larger"),
             ("Which is older, the Colosseum or the Eiffel Tower?", "Colosseum", "Eiffel Tower", "older"),
             ("Which is heavier per volume, gold or iron?", "gold", "iron", "heavier"),
             ("Which is longer, the Nile or the Rhine?", "Nile", "Rhine", "longer")]
    templates = ("Of {one} and {two}, the {adj} is {x}.", "Between {one} and {two}, {x} is {adj}.",
                 "{x} is {adj} than {y}.", "You ask which is {adj}, {one} or {two}. The answer is {x}.",
                 '"{q}" - {x}.', "Comparing {two} with {one}: {x} is {adj}.", "The {adj} of the two is {x}, not {y}.",
                 "{one} or {two}? {x}!")
    rows = []
    for i, template in enumerate(templates):
        prompt, gold, rival, adjective = duels[i % len(duels)]
        for right in (True, False):
            one, two = (f"the {name}" if f"the {name}" in prompt else name for name in (gold, rival))
            x, y = (one, two) if right else (two, one)
            text = template.format(q=prompt, one=one, two=two, x=x, y=y, adj=adjective)
            text = text[0].upper() + text[1:]
            rows.append(Row("restated", {"kind": "exact"}, prompt, (gold,), text, verdict(right),
                            distractors=(rival,) if i % 2 == 0 else ()))
    return rows


def other_notation() -> list[Row]:
    """Give the record as XML, YAML or another notation instead of JSON, with the right or with swapped values."""
    def table(record: dict[str, Any]) -> str:
        return "| field | value |\n|---|---|\n" + "\n".join(f"| {k} | {v} |" for k, v in record.items())

    notations: list[Callable[[dict[str, Any]], str]] = [
        lambda r: "\n".join(f"{k}: {v}" for k, v in r.items()),
        lambda r: "<record>\n" + "\n".join(f"  <{k}>{v}</{k}>" for k, v in r.items()) + "\n</record>",
        lambda r: "\n".join(f'{k} = "{v}"' for k, v in r.items()),
        lambda r: ",".join(r) + "\n" + ",".join(map(str, r.values())),
        table,
        lambda r: "```yaml\n" + "\n".join(f"{k}: {v}" for k, v in r.items()) + "\n```",
        lambda r: "\n".join(f"- **{k.title()}:** {v}" for k, v in r.items()),
        lambda r: "dict(" + ", ".join(f"{k}={v!r}" for k, v in r.items()) + ")",
    ]
    records: list[tuple[str, dict[str, Any], str, str]] = [
        ("Return sender, receiver and topic as JSON: Lena writes to Omar about invoices.",
         {"sender": "Lena", "receiver": "Omar", "topic": "invoices"}, "sender", "receiver"),
        ("Return winner, loser and points as JSON: Ghent beat Turin by 12 points.",
         {"winner": "Ghent", "loser": "Turin", "points": 12}, "winner", "loser")]
    rows = []
    for i, notation in enumerate(notations):
        prompt, gold, one, two = records[i % len(records)]
        for right in (True, False):
            record = gold if right else gold | {one: gold[two], two: gold[one]}
            rows.append(Row("other_notation", {"kind": "json"}, prompt, (json.dumps(gold),), notation(record),
                            verdict(right)))
    return rows


def double_negation() -> list[Row]:
    """Confirm or deny a claim by way of its negation."""
    claims = [("11 is a prime number", "11 is not a prime number", True),
              ("the Moon is larger than the Earth", "the Moon is not larger than the Earth", False),
              ("whales are mammals", "whales are not mammals", True),
              ("glass is a metal", "glass is not a metal", False)]
    confirm = ("It would be wrong to say that {n}.", "It is not the case that {n}.", "Nobody can deny that {p}.",
               "It is not untrue that {p}.", "There is no doubt that {p}.", "It is false that {n}.")
    deny = ("It is untrue that {p}.", "It is not the case that {p}.", "It would be wrong to say that {p}.",
            "There is no doubt that {n}.", "Nobody can deny that {n}.", "It is not untrue that {n}.")
    rows = []
    for confirms, templates in ((True, confirm), (False, deny)):
        for i, template in enumerate(templates):
            for positive, negative, holds in claims[i % 2 * 2: i % 2 * 2 + 2]:
                rows.append(Row("double_negation", {"kind": "exact"}, f"True or false: {positive}.",
                                ("true" if holds else "false",), template.format(p=positive, n=negative),
                                verdict(confirms == holds)))
    return rows


def inflection() -> list[Row]:
    """Give another form of the same word, or another word that looks like it."""
    return variants("inflection", (
        ("Which fruit is ketchup made of?", "tomato", ("Tomatoes", "From tomatoes"), ("Potatoes", "Tomatillos")),
        ("Which animal lives in packs and howls at the moon?", "wolf", ("Wolves", "A wolf"), ("A wolverine", "Foxes")),
        ("Which small rodent do cats like to chase?", "mouse", ("Mice", "The mouse"), ("A moose", "Moles")),
        ("Which bird lays the eggs that are sold most?", "hen", ("Hens", "The hen"), ("The heron", "Geese")),
        ("What do fish do to move through water? Answer with a verb.", "swim", ("Swimming", "They swim"),
         ("Swinging", "They skim")),
        ("Which part of a tree turns red in autumn?", "leaf", ("The leaves", "Leaves"), ("The roots", "The bark"))),
        ("<a>.", "<a>", "<a>, I'd say."))


def spelled_abroad() -> list[Row]:
    """Drop the accents of a name or transliterate it in another way, or give another name."""
    return variants("spelled_abroad", (
        ("What is the largest city of Brazil?", "São Paulo", ("Sao Paulo", "São Paulo"), ("São Luís", "Salvador")),
        ("What is the largest city of Switzerland?", "Zürich", ("Zurich", "Zuerich"), ("Zug", "Geneva")),
        ("Who composed the New World Symphony?", "Antonín Dvořák", ("Antonin Dvorak", "Dvořák"), ("Leoš Janáček",)),
        ("Who composed Swan Lake?", "Tchaikovsky", ("Chaikovsky", "Tschaikowsky"), ("Stravinsky",)),
        ("Who founded the People's Republic of China?", "Mao Zedong", ("Mao Tse-tung",), ("Deng Xiaoping",)),
        ("What is the capital of Ukraine?", "Kyiv", ("Kiev",), ("Kharkiv",)),
        ("What is the capital of China?", "Beijing", ("Peking",), ("Nanjing", "Shanghai"))),
        ("<a>", "It is <a>.", "The answer: <a>"))


def roman_numerals() -> list[Row]:
    """Write a numeral in Roman or Arabic digits or in words, or a numeral that looks like it."""
    return variants("roman_numerals", (
        ("Which king of France was called the Sun King?", "Louis XIV", ("Louis the Fourteenth", "King Louis XIV",
                                                                      "Louis 14"),
         ("Louis XVI", "Louis XV", "Louis XIII")),
        ("Which English king had six wives?", "Henry VIII", ("Henry the Eighth", "King Henry the 8th"),
         ("Henry VII", "Henry the Seventh")),
        ("Which queen of the UK died in 2022?", "Elizabeth II", ("Elizabeth the Second", "Queen Elizabeth the 2nd"),
         ("Elizabeth I", "Elizabeth the First", "Victoria"))),
        ("<a>", "That was <a>.")) + variants("roman_numerals", (
            ("In which century was Napoleon crowned emperor? Answer with a number.", "19", ("the XIXth", "XIX"),
             ("the XXIst", "XVIII")),
            ("What is XX minus VI in decimal digits?", "14", ("XIV",), ("XVI",))),
            ("<a>", "The answer is <a>."), grader="number")


def odds() -> list[Row]:
    """Put a probability on each candidate."""
    rows = paired("odds", FACTS, (
        "I'm 90% sure it's <a>, with a 10% chance that it's <b>.", "Probably <a> (80%), maybe <b> (20%).",
        "<B>: 15%\n<A>: 85%\n\nSo my answer is <a>.", "Most likely <a>. I'm about 70% confident.",
        "I think it is <a>, although I am only about 60% sure.", "It could be <b>, but far more likely it's <a>."))
    for n, m, prompt in ((88, 76, "How many keys does a piano have?"), (52, 48, "How many weeks does a year have?")):
        rows += [Row("odds", {"kind": "number"}, prompt, (str(n),), f"I am 95% sure that it is {n}.", "right"),
                 Row("odds", {"kind": "number"}, prompt, (str(n),), f"I am {n}% sure that it is {m}.", "wrong")]
    return rows


def other_language() -> list[Row]:
    """Answer an English question in another language or script."""
    foreign = [
        (FACTS[1], "太阳系中最大的行星是木星。"), (FACTS[1], "太陽系で最も大きい惑星は土星です。"),
        (FACTS[3], "Растения поглощают углекислый газ."), (FACTS[4], "أصلب معدن طبيعي هو الألماس."),
        (FACTS[4], "가장 단단한 천연 광물은 다이아몬드입니다."), (FACTS[7], "Это ртуть."),
        (FACTS[7], "Das Metall, das bei Zimmertemperatur flüssig ist, heißt Quecksilber."),
        (FACTS[3], "Les plantes absorbent le gaz carbonique et rejettent autre chose."),
        (FACTS[8], "यह तत्व सोडियम है।")]
    rows = [exact("other_language", fact, text, "unread", "foreign", hint=i % 2 == 0)
            for i, (fact, text) in enumerate(foreign)]
    names = (("Das ist <a>, soweit ich weiß.", FACTS[0]), ("La respuesta es <a>.", FACTS[5]),
             ("Le tableau a été peint par <a>.", FACTS[2]), ("作者是 <a>。", FACTS[0]))
    for template, fact in names:
        rows += [exact("other_language", fact, template.replace("<a>", fact.gold), "right"),
                 exact("other_language", fact, template.replace("<a>", fact.rival), "wrong")]
    for text in ("Ответ: <n>.", "答案是 <n>。"):
        rows += [Row("other_language", {"kind": "number"}, "What is 7 times 8?", ("56",), text.replace("<n>", str(n)),
                     verdict(n == 56)) for n in (56, 65)]
    return rows


def suggestion() -> list[Row]:
    """Take up the suggestion that the question makes, to correct it or to agree with it."""
    correct = ("You suggested <b>, but it is <a>.", "Not quite: it's <a>.", "Good guess! However, <t> is <a>, not <b>.",
               '"<B>" is a common answer, but the correct one is <a>.', "No, <b> is not correct. <A> is.",
               "I see why you would say <b>. Still, it's <a>.")
    agree = ("You're right, it is <b>.", "You suggested <b>, and that is correct.", "Yes, <b>, and not <a>.",
             "Well done! <T> is <b>.", "<B> is correct. <A> would be wrong.", "I agree with you: <b>.")
    rows = []
    for templates, right in ((correct, True), (agree, False)):
        for i, template in enumerate(templates):
            fact = FACTS[(i + right) % len(FACTS)]
            asked = Fact(f"{fact.prompt} I think that it is {fact.rival}.", fact.topic, fact.gold, fact.rival)
            text = fill(template, fact, fact.gold, fact.rival)
            rows.append(exact("suggestion", asked, text, verdict(right), hint=i % 2 == 0))
    return rows


def several_steps() -> list[Row]:
    """Go through several numbers to the last one, where the wanted one may be only a step on the way."""
    right = ("{b} boxes of {a} make {p}. Taking away {c} gives {n}. So there are {n} {u} left.",
             "{p} - {c} = {n}, because {b} × {a} = {p}.",
             "There are {n} {u} left out of the original {p}.",
             "Step 1: {a} * {b} = {p}\nStep 2: {p} - {c} = {n}\n\nAnswer: {n} {u}")
    wrong = ("{b} boxes of {a} make {p}. So there are {p} {u} left.",
             "After taking away {c}, {n} remain, and {c} more make {p}. The answer is {p}.",
             "There are {c} {u} left; {n} were taken away.",
             "Step 1: {p} - {c} = {n}\nStep 2: {n} - {c} = {m}\n\nAnswer: {m} {u}")
    rows = []
    for a, b, c, unit in ((14, 3, 5, "apples"), (12, 5, 8, "pencils")):
        prompt = f"There are {b} boxes with {a} {unit} each. {c} {unit} are taken away. How many are left?"
        values = {"a": a, "b": b, "c": c, "p": a * b, "n": a * b - c, "m": a * b - 2 * c, "u": unit}
        for templates, truth in ((right, True), (wrong, False)):
            rows += [Row("several_steps", {"kind": "number"}, prompt, (str(a * b - c),), t.format(**values),
                         verdict(truth)) for t in templates]
    return rows


def two_parts() -> list[Row]:
    """Give both parts of an answer in another way, or only one of them."""
    pairs = [("Which two elements is water made of?", "hydrogen", "oxygen", "nitrogen"),
             ("Which two colours of paint make green?", "blue", "yellow", "red"),
             ("Which two countries share the island of Hispaniola?", "Haiti", "the Dominican Republic", "Cuba")]
    right = ("{y} and {x}", "{x}, {y}", "- {x}\n- {y}", "Both {x} and {y}.", "{x} as well as {y}.",
             "The two are {y} and {x}.")
    wrong = ("{x}", "{x} and {z}", "{z} and {y}", "Only {y}.", "{x}, but not {y}.", "- {x}\n- {z}")
    rows = []
    for templates, truth in ((right, True), (wrong, False)):
        for i, template in enumerate(templates):
            prompt, x, y, z = pairs[i % len(pairs)]
            rows.append(Row("two_parts", {"kind": "exact"}, prompt, (f"{x} and {y}",), template.format(x=x, y=y, z=z),
                            verdict(truth)))
    return rows


def option_forms() -> list[Row]:
    """Point at an option by its place or its letter in another form, or at several options."""
    rows = options("option_forms", TESTS, ("Option (<a>)", "[<a>]", "**<a>)** <at>", "Choice <a> it is.", "<at>.",
                                           "answer: <a>, i.e. <at>"))
    places = ("first", "second", "third", "last")
    for i, item in enumerate(TESTS):
        rows += [choice("option_forms", item, f"The {places[item.gold]} option.", "right", letter=i % 2 == 0),
                 choice("option_forms", item, f"The {places[item.rival]} option.", "wrong", letter=i % 2 == 0)]
    rows += [choice("option_forms", item, text, "wrong") for item, text in (
        (TESTS[0], "All of the above."), (TESTS[1], "None of these."), (TESTS[2], "Both C and D."))]
    return rows


def code_fences() -> list[Row]:
    """Put the answer in a fenced block, or print it from a program."""
    rows = paired("code_fences", FACTS, (
        "```\n<a>\n```", "```text\nAnswer: <a>\n```", 'Here you go:\n\n```python\nanswer = "<a>"  # not <b>\n```',
        "`<a>`", "```markdown\n# Answer\n<A>\n```\n\nLet me know if you need more."))
    for a, b in ((6, 7), (8, 9)):
        for shown in (a * b, a * b + 10):
            rows.append(Row("code_fences", {"kind": "number"}, f"What is {a} times {b}?", (str(a * b),),
                            f"```python\nprint({a} * {b})\n```\n\nOutput: {shown}", verdict(shown == a * b)))
    return rows


def emoji() -> list[Row]:
    """Decorate the answer with emoji."""
    rows = paired("emoji", FACTS, (
        "<A> 🎉", "✅ <A>\n❌ <B>", "🤔 Hmm... 💡 <A>! 🚀", "👉 <a> 👈", "🌟 **<A>** 🌟",
        "Great question! 😊 It's <a> 🙌"))
    for word, right in (("✅ True", True), ("❌ False", False)):
        rows.append(Row("emoji", {"kind": "exact"}, "True or false: spiders have eight legs.", ("true",), word,
                        verdict(right)))
    return rows


def policies() -> list[Row]:
    """Refuse by a policy, or mention one and answer."""
    return unread("policies", FACTS, (
        "This request goes against our usage policies.",
        "Answering this would violate my content guidelines, so I have to stop here.",
        "Due to safety policies, no response can be given to this question.",
        "[Content removed: this topic is restricted.]",
        "For legal reasons, this assistant does not respond to questions about <t>. Please contact support.",
        "Let's change the subject. My guidelines don't allow me to discuss this.",
        "Request denied."), "refused") + paired("policies", FACTS, (
            "My guidelines allow me to answer this one: <a>.",
            "No policy stands in the way of this question. It's <a>.",
            "In line with the guidelines, here is a short answer: <a>.",
            "This does not violate any policy, so gladly: <t> is <a>."))


def loops() -> list[Row]:
    """Repeat the answer, or fall into noise."""
    noise = ("the " * 40, "and then and then " * 20, "asdkj qwlek zmxnc poiqw lkjas dqwe mnbv xzoiu qpwoe",
             "lkjh " * 30, "tion" * 50, "<unk>" * 20, "�" * 30,
             "##ing </ td> ]( {{ zxq getEl zv ;;) ##ly 0x %s wqp ](/ }}")
    return unread("loops", FACTS, [text.strip() for text in noise], "gibberish") + paired("loops", FACTS, (
        "<A>. <A>. <A>. <A>. <A>.", "<T> is <a>. <T> is <a>. <T> is <a>.", "<A>\n<A>\n<A>\n<A>",
        "It is <a>. Yes, it is <a>. I repeat, it is <a>."))


def other_traces() -> list[Row]:
    """Think aloud between other marks than the usual ones, with or without an end."""
    marks = [("<thinking>", "</thinking>"), ("<reasoning>", "</reasoning>"), ("[THINK]", "[/THINK]"),
             ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
             ("◁think▷", "◁/think▷"), ("<thought>", "</thought>")]
    rows = []
    for i, (begin, end) in enumerate(marks):
        rows += paired("other_traces", [FACTS[i]], (f"{begin}It may be <b>. The answer is <b>? No, <a>.{end}<A>.",))
        rows += unread("other_traces", [FACTS[i]], (
            f"{begin}The user wants to know <t>. It is <a>, I think, but let me go over it once more.",), "unreachable")
    return rows + paired("other_traces", FACTS[6:], (
        "I first thought of <b>. Then again, <a>.\n</think>\n\n<A>",
        "<scratchpad>\n<b>? <b>!\n</scratchpad>\n<answer><a></answer>"))


def magnitudes() -> list[Row]:
    """Write a large number with a word, a letter or a power, or one of another size."""
    return variants("magnitudes", (
        ("A city has 3 districts with 500000 people each. How many people live there?", "1500000",
         ("1.5 million", "1.5M", "one and a half million", "1.5 × 10^6", "1,500 thousand"),
         ("1.5 billion", "15 million", "1.5 × 10^5", "1.5 thousand")),
        ("A plant makes 25 cars on each of 100 days. How many cars are that?", "2500",
         ("2.5k", "2.5 thousand", "2.5e3"), ("2.5", "2.5 million", "25 thousand")),
        ("A company with 4 shares of 750 million dollars each is worth how many dollars?", "3000000000",
         ("3 billion", "$3bn", "3,000 million"), ("3 million", "$3tn", "3,000 billion"))),
        ("<a>", "It is <a>.", "That makes <a>."), grader="number")


def bounds() -> list[Row]:
    """Give the number as good as exactly, or only bounds for it."""
    counts = [("How many bones does an adult human have?", 206), ("How many countries are members of the UN?", 193)]
    right = ("About {n}.", "{n} or so.", "Exactly {n}, no more and no less.", "Roughly {n}, as commonly counted.")
    wrong = ("Between {l} and {h}.", "Somewhere from {l} to {n}.", "More than {n}.", "Fewer than {n}.")
    return [Row("bounds", {"kind": "number"}, prompt, (str(n),), text.format(n=n, l=n - 6, h=n + 7), verdict(truth))
            for prompt, n in counts for templates, truth in ((right, True), (wrong, False)) for text in templates]


def run_on() -> list[Row]:
    """Leave marks of the chat template in the answer, or go on with a further question of one's own."""
    pairs = [
        ("Which planet is the largest?", "Jupiter", "Saturn", "Which planet has the Great Red Spot?",
         "Which planet is known for its bright rings?"),
        ("Who wrote Hamlet?", "William Shakespeare", "Christopher Marlowe", "Who wrote Macbeth?",
         "Who wrote Doctor Faustus?"),
        ("Which ocean lies between Africa and Australia?", "Indian Ocean", "Pacific Ocean",
         "Which ocean surrounds Mauritius?", "Which ocean is the largest?")]
    templates = ("{x}<|im_end|>", "assistant\n\n{x}", "{x}\n\nUser: {q}\nAssistant: {y}", "{x}\n\nQ: {q}\nA: {y}",
                 "### Response:\n{x}", "{x}</s>\n<s>[INST] {q} [/INST] {y}</s>",
                 "{x}<|im_end|>\n<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n{y}",
                 "A: {x}\n\nQuestion: {q}\nAnswer: {y}")
    rows = []
    for i, template in enumerate(templates):
        prompt, gold, rival, about_gold, about_rival = pairs[i % len(pairs)]
        for right in (True, False):
            text = (template.format(x=gold, q=about_rival, y=rival) if right
                    else template.format(x=rival, q=about_gold, y=gold))
            rows.append(Row("run_on", {"kind": "exact"}, prompt, (gold,), text, verdict(right),
                            distractors=(rival,) if i % 2 == 0 else ()))
    return rows


def slips_of_spelling() -> list[Row]:
    """Misspell the answer, or give another one that differs by a few letters."""
    return variants("slips_of_spelling", (
        ("In which country does the kangaroo live in the wild?", "Australia", ("Austrailia", "Austalia"), ("Austria",)),
        ("In which country is Ljubljana?", "Slovenia", ("Slovennia",), ("Slovakia",)),
        ("In which country is Lagos?", "Nigeria", ("Nigerria",), ("Niger",)),
        ("In which country is Baghdad?", "Iraq", ("Iraqu",), ("Iran",)),
        ("In which country is Lilongwe?", "Malawi", ("Malawii",), ("Mali",)),
        ("Who painted the Mona Lisa?", "Leonardo da Vinci", ("Leonardo da Vinchi",), ("Leonardo DiCaprio",)),
        ("Who painted Impression, Sunrise?", "Claude Monet", ("Claude Monnet",), ("Édouard Manet",)),
        ("What is the capital of Hungary?", "Budapest", ("Budapset",), ("Bucharest",)),
        ("How do plants make sugar from light?", "photosynthesis", ("photosinthesis",), ("chemosynthesis",))),
        ("<a>", "It is <a>.", "The answer is <a>."))


def yes_no() -> list[Row]:
    """Confirm or deny in other words than yes and no."""
    asked = [("Is the Pacific larger than the Atlantic? Answer yes or no.", "yes"),
             ("Is 91 a prime number? Answer yes or no.", "no"),
             ("Do spiders have eight legs? Answer yes or no.", "yes"),
             ("Is the Sahara in South America? Answer yes or no.", "no")]
    phrases = [("Absolutely.", "yes"), ("Correct.", "yes"), ("Of course!", "yes"), ("Yep", "yes"),
               ("That is true.", "yes"), ("Nope.", "no"), ("Not at all.", "no"), ("Definitely not.", "no"),
               ("By no means.", "no"), ("That is not true.", "no")]
    return [Row("yes_no", {"kind": "exact"}, prompt, (gold,), phrase, verdict(meaning == gold))
            for i, (phrase, meaning) in enumerate(phrases) for prompt, gold in asked[i % 2 * 2: i % 2 * 2 + 2]]


KINDS: dict[str, Callable[[], list[Row]]] = {
    "person_names": person_names, "markdown": markdown, "latex": latex, "unit_names": unit_names, "shares": shares,
    "clock_times": clock_times, "change_of_mind": change_of_mind, "restated": restated,
    "other_notation": other_notation, "double_negation": double_negation, "inflection": inflection,
    "spelled_abroad": spelled_abroad, "roman_numerals": roman_numerals, "odds": odds,
    "other_language": other_language, "suggestion": suggestion, "several_steps": several_steps,
    "two_parts": two_parts, "option_forms": option_forms, "code_fences": code_fences, "emoji": emoji,
    "policies": policies, "loops": loops, "other_traces": other_traces, "magnitudes": magnitudes, "bounds": bounds,
    "run_on": run_on, "slips_of_spelling": slips_of_spelling, "yes_no": yes_no,
}
