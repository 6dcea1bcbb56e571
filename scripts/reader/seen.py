"""The known complaints: answers whose content is plain to a person, in a form that was not asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

from scripts.reader.row import Fact, Options, Row, Truth, choice, exact, options, paired, unread, variants

CAPITALS = [
    Fact(f"What is the capital of {country}?", f"the capital of {country}", gold, rival)
    for country, gold, rival in (
        ("Australia", "Canberra", "Sydney"), ("Canada", "Ottawa", "Toronto"), ("Turkey", "Ankara", "Istanbul"),
        ("Morocco", "Rabat", "Casablanca"), ("Switzerland", "Bern", "Zurich"), ("Kazakhstan", "Astana", "Almaty"),
        ("Vietnam", "Hanoi", "Ho Chi Minh City"), ("New Zealand", "Wellington", "Auckland"),
        ("France", "Paris", "Lyon"))
]
QUIZ = [
    Options("Which planet is closest to the Sun?", ("Venus", "Mars", "Mercury", "Earth"), 2, 0, 1),
    Options("Which gas makes up most of the air?", ("Oxygen", "Nitrogen", "Argon", "Carbon dioxide"), 1, 0, 2),
    Options("Who wrote Don Quixote?", ("Dante Alighieri", "Lope de Vega", "Homer", "Miguel de Cervantes"), 3, 1, 0),
    Options("What is the freezing point of water in Celsius?", ("0", "32", "100", "-10"), 0, 1, 2),
]


def date_words() -> list[Row]:
    """Answer an ISO date with a date in words, of the same or of another day."""
    events = [("did the first people land on the Moon", date(1969, 7, 20)),
              ("did the Berlin Wall fall", date(1989, 11, 9)),
              ("did the Titanic sink", date(1912, 4, 15)),
              ("was the Bastille stormed", date(1789, 7, 14)),
              ("did the Wright brothers first fly", date(1903, 12, 17))]
    slips = [timedelta(1), timedelta(-30), timedelta(3653), timedelta(-1), timedelta(9)]
    forms: list[Callable[[date], str]] = [
        lambda d: f"{d:%B} {d.day}, {d.year}",
        lambda d: f"{d.day} {d:%B} {d.year}",
        lambda d: f"It was on the {d.day}{ordinal(d.day)} of {d:%B}, {d.year}.",
        lambda d: f"That happened on {d:%A}, {d:%B} {d.day}{ordinal(d.day)}, {d.year}.",
        lambda d: f"{d.day} {d:%b} {d.year}",
        lambda d: f"In {d.year}, on {d:%B} {d.day}.",
        lambda d: f"**{d:%B} the {d.day}{ordinal(d.day)}, {d.year}** is the date you are looking for.",
        lambda d: f"The date is {d.day} {d:%B}, {d.year}, which was a {d:%A}.",
    ]
    rows = []
    for i, form in enumerate(forms):
        event, day = events[i % len(events)]
        prompt = f"On which date {event}? Answer as YYYY-MM-DD."
        for said, truth in ((day, "right"), (day + slips[i % len(slips)], "wrong")):
            rows.append(Row("date_words", {"kind": "exact"}, prompt, (day.isoformat(),), form(said),
                            "right" if truth == "right" else "wrong"))
    for event, day in events[:2]:
        prompt = f"On which date {event}? Answer as YYYY-MM-DD."
        for vague in (f"It was in {day:%B} {day.year}.", f"In {day.year}."):
            rows.append(Row("date_words", {"kind": "exact"}, prompt, (day.isoformat(),), vague, "wrong"))
    return rows


def ordinal(n: int) -> str:
    """Return the ending of an English ordinal."""
    return "th" if 10 <= n % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")


def number_marks() -> list[Row]:
    """Write a sum with the marks of several countries, or with its digits moved."""
    rows = []
    marks = [("<n>", ",", "."), ("<n> EUR", ".", ","), ("The total is <n> euros.", "\u00a0", ","),
             ("That makes CHF <n> in all.", "'", ".")]
    for part, rest, slip in ((1230.25, 4.25, 1234.05), (8.25, 4.25, 12.05), (98760.0, 5.25, 98765.52)):
        total = part + rest
        for wording, thousands, point in marks:
            for value, truth in ((total, "right"), (slip, "wrong")):
                digits = f"{value:,.2f}".replace(",", "T").replace(".", point).replace("T", thousands)
                rows.append(Row("number_marks", {"kind": "number"}, f"What is {part} plus {rest}?", (str(total),),
                                wording.replace("<n>", digits), "right" if truth == "right" else "wrong"))
    return rows


def json_words() -> list[Row]:
    """Answer in a sentence where JSON is wanted."""
    flags = [("spam", "this message", "spam", True, "You won a prize! Click here!"),
             ("urgent", "this ticket", "urgent", False, "Whenever you find the time, fix the typo on page 9."),
             ("toxic", "the comment", "toxic", True, "Only an idiot like you would write that.")]
    yes = ("Yes, {s} is {a}.", "{S} is clearly {a}.", "I would say that {s} is {a}.")
    no = ("No, {s} is not {a}.", "{S} isn't {a}.", "I would not call {s} {a}.")
    rows = []
    for key, subject, label, gold, text in flags:
        prompt = f'Return JSON like {{"{key}": true or false}}. {text}'
        for said, wordings in ((True, yes), (False, no)):
            for wording in wordings:
                answer = wording.format(s=subject, S=subject[0].upper() + subject[1:], a=label)
                rows.append(json_row("json_words", prompt, {key: gold}, answer, "right" if said == gold else "wrong"))
    prompt = 'Return {"sentiment": "positive" or "negative"}. The soup was cold and the waiter was rude.'
    for answer, truth in (("The sentiment of this review is negative.", True), ("Negative.", True),
                          ("The sentiment of this review is positive.", False),
                          ("This is positive rather than negative.", False)):
        rows.append(json_row("json_words", prompt, {"sentiment": "negative"}, answer, "right" if truth else "wrong"))
    return rows


def json_row(kind: str, prompt: str, gold: dict[str, Any], text: str, truth: Truth) -> Row:
    """Return a row with the `json` grader."""
    return Row(kind, {"kind": "json"}, prompt, (json.dumps(gold),), text, truth)


def json_form() -> list[Row]:
    """Return the wanted values in another JSON object, or other values in the wanted one."""
    records: list[tuple[str, dict[str, Any], tuple[str, str, str]]] = [
        ("Give origin, destination and seats as JSON: two seats from Oslo to Rome.",
         {"origin": "Oslo", "destination": "Rome", "seats": 2}, ("origin", "destination", "seats")),
        ("Give buyer, seller and price as JSON: Jonas sold Mara the bicycle for 40.",
         {"buyer": "Mara", "seller": "Jonas", "price": 40}, ("buyer", "seller", "price")),
    ]
    rows = []
    for prompt, gold, (one, two, count) in records:
        right = [json.dumps(gold | {"confidence": 0.97}), json.dumps({k.upper(): v for k, v in gold.items()}),
                 json.dumps({k.title(): v for k, v in gold.items()}, indent=2),
                 json.dumps({k: str(v) for k, v in gold.items()}), json.dumps({"result": gold}), str(gold)]
        wrong = [json.dumps({k: v for k, v in gold.items() if k != two}),
                 json.dumps(gold | {one: gold[two], two: gold[one]}),
                 json.dumps({k.upper(): v for k, v in (gold | {one: gold[two], two: gold[one]}).items()}),
                 json.dumps(gold | {count: str(gold[count] + 1)}), json.dumps(gold | {two: None, "confidence": 0.97})]
        rows += [json_row("json_form", prompt, gold, text, "right") for text in right]
        rows += [json_row("json_form", prompt, gold, text, "wrong") for text in wrong]
    return rows


def two_units() -> list[Row]:
    """Give a measure in the asked unit with another unit beside it, or the asked number in the other unit."""
    measures = [("A trail has 3 stages of 14 km each. How many kilometres long is it?", 42, "km", "miles", 1.609, 0.0),
                ("A shop sells 5 sacks of 4 kg each. How many kilograms are that?", 20, "kg", "pounds", 0.4536, 0.0),
                ("It is 12 °C and gets 8 degrees warmer. How many °C is it then?", 20, "°C", "°F", 5 / 9, -160 / 9)]
    wordings = ("It is {n} {u} (about {m} {v}).", "{n} {u}, or roughly {m} {v}.", "{n} {u} / {m} {v}")
    rows = []
    for prompt, gold, unit, other, scale, shift in measures:
        for i, wording in enumerate(wordings):
            if i < 2:  # the wanted number stands in the other unit
                swapped = wording.format(n=round(gold * scale + shift), u=unit, m=gold, v=other)
            else:  # another number
                swapped = wording.format(n=gold + 3, u=unit, m=round((gold + 3 - shift) / scale), v=other)
            plain = wording.format(n=gold, u=unit, m=round((gold - shift) / scale), v=other)
            rows.append(Row("two_units", {"kind": "number"}, prompt, (str(gold),), plain, "right"))
            rows.append(Row("two_units", {"kind": "number"}, prompt, (str(gold),), swapped, "wrong"))
    return rows


def number_then_reason() -> list[Row]:
    """Give the number first and its reason after, with the gold number as the answer or in the reason only."""
    right = ("{n} {u}, since {a} times {b}", "{n} {u}, because there are {b} of them with {a} each.",
             "It's {n} (= {a} × {b}).", "{n}. Each of the {b} has {a}.")
    wrong = ("{p} {u}, since {n} plus {a}", "It's {m} (= {n} × {b}).", "{p}: the {n} from before and {a} more.")
    rows = []
    for a, b, unit in ((14, 3, "km"), (12, 6, "litres"), (15, 4, "pages")):
        prompt = f"There are {b} parts with {a} {unit} each. How many {unit} are there in total?"
        values = {"a": a, "b": b, "n": a * b, "p": a * b + a, "m": a * b * b, "u": unit}
        rows += [Row("number_then_reason", {"kind": "number"}, prompt, (str(a * b),), w.format(**values), "right")
                 for w in right]
        rows += [Row("number_then_reason", {"kind": "number"}, prompt, (str(a * b),), w.format(**values), "wrong")
                 for w in wrong]
    return rows


def words(n: int) -> str:
    """Write a number below 1,000 in words."""
    small = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
             "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
    tens = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
    if n >= 100:
        return f"{small[n // 100]} hundred" + (f" and {words(n % 100)}" if n % 100 else "")
    return small[n] if n < 20 else tens[n // 10] + (f"-{small[n % 10]}" if n % 10 else "")


def number_words() -> list[Row]:
    """Write a number in words: the right one, or one that sounds like it."""
    counts = [("bones does an adult human have", "bones", 206, 216),
              ("squares does a chessboard have", "squares", 64, 46),
              ("states does the USA have", "states", 50, 15),
              ("players do two football teams field", "players", 22, 32),
              ("days does a leap year have", "days", 366, 365), ("syllables does a haiku have", "syllables", 17, 70),
              ("sides does a dodecagon have", "sides", 12, 20)]
    rows = []
    for i, (question, noun, gold, slip) in enumerate(counts):
        wording = ("{W}.", "There are {w} {n}.", "The answer is {w}.")[i % 3]
        for value, truth in ((gold, "right"), (slip, "wrong")):
            said = words(value)
            rows.append(Row("number_words", {"kind": "number"}, f"How many {question}?", (str(gold),),
                            wording.format(w=said, W=said.capitalize(), n=noun),
                            "right" if truth == "right" else "wrong"))
    return rows


def option_rejected() -> list[Row]:
    """Name the option that is rejected before or after the one that is chosen."""
    return options("option_rejected", QUIZ, (
        "<b> is wrong, although it is often given. The answer is <a>.",
        "At first <b> looks plausible, but the correct option is <a>.",
        "Not <b>. I choose <a>.",
        "We can rule out <c> and <b>, which leaves <a>.",
        "<a> is the correct answer. <b> is incorrect, and so is <c>.",
        "(<b>) <bt> - no.\n(<c>) <ct> - no.\n(<a>) <at> - yes, this is the one.",
        "<bt> would be a good guess, yet it is <at>.",
        "The answer is <a>. <at>, because <bt> does not fit the question."))


def contrast() -> list[Row]:
    """Set the answer against a rival, which is named and denied."""
    return paired("contrast", CAPITALS, (
        "<a> (not <b>)", "<a>, not <b>.", "Not <b> but <a>.", "<T> is <a> rather than <b>.",
        "<a>; <b> is only another large city.", "It's <a> - saying <b> is a common mistake.",
        "Contrary to popular belief, it isn't <b>: it's <a>.", "People often say <b>, but <t> is actually <a>.",
        "<a>. Many think of <b> first, which is wrong."))


def think_closed() -> list[Row]:
    """Think aloud about both candidates before the answer itself."""
    return paired("think_closed", CAPITALS, (
        "<think>\nIs it <b>? <b> comes to mind first. But let me settle on <a>.\n</think>\n\n<a>",
        "<think>Probably <b>. The answer is <b>. Hmm, on reflection <a>.</think>\n\n<T> is **<a>**.",
        "<think>\nOkay, the user asks for <t>. It must be <b>, I am fairly sure.\n</think>\n\n<a>",
        "<think>\n\n</think>\n\n<T> is <a>.",
        "<think>It is <b>, not <a>.</think>\n<a>.",
        "<think>\nCandidates: <a>, <b>. The answer: <b>.\n\nWait, no.\n</think>\n\nThe answer is <a>.",
        "<think>\nFinal answer: <b>\n</think>\n\nFinal answer: <a>"))


def think_open() -> list[Row]:
    """Think aloud without an end, with or without having settled on an answer."""
    never = unread("think_open", CAPITALS, (
        "<think>\nOkay, the user asks for <t>. That is <a>. But let me double-check, since some say <b>",
        "<think>The answer is <a>. Wait, is it <b>? No, <a>. Let me think about it again.",
        "<think>\n<T> is <a>.\n\nSo I should answer <a>.",
        "<think>\nHmm, <b> is the better known city. <T> should be <a>, as far as I remember."), "unreachable")
    long = unread("think_open", CAPITALS[4:], (
        "<think>\nLet me recall. <T> is <a>, I believe. However, I should verify this. First, consider",
        "<think>Okay. It is <a>. Let me make sure that it is not <b>. The government of the country has its seat in",
        "<think>\n1. <a>: seat of the government.\n2. <b>: larger.\n3. So <a>. But was there a change in the"),
        "unreachable", cut_off=True)
    return never + long + paired("think_open", CAPITALS[6:], (
        "<think>\nLet me recall. <b>? I should verify this.\n</think>\n\nAs far as I recall, it is <a>.",
        "<think>\nThis one is easy.</think><a>",
        "<think>Some say <b>.</think>\n\n<T>: <a>"))


def aliases() -> list[Row]:
    """Use another name of the same country, or the name of another country that looks like it."""
    return variants("aliases", (
        ("Which country has Washington, D.C. as its capital?", "USA",
         ("the United States", "the United States of America", "the U.S."), ("the UAE", "the United Mexican States")),
        ("Which country has London as its capital?", "UK", ("the United Kingdom", "Great Britain"),
         ("Ukraine", "the United States")),
        ("Which country has Seoul as its capital?", "South Korea", ("the Republic of Korea",),
         ("North Korea", "the Democratic People's Republic of Korea")),
        ("Which country has Prague as its capital?", "Czech Republic", ("Czechia",), ("Slovakia",)),
        ("Which country has Amsterdam as its capital?", "Netherlands", ("Holland", "the Netherlands"), ("Denmark",)),
        ("Which country has Moscow as its capital?", "Russia", ("the Russian Federation",), ("Belarus",)),
        ("Which country has Abu Dhabi as its capital?", "United Arab Emirates", ("the UAE",), ("the USA",))),
        ("It is <a>.", "<a>", "The answer is <a>.", "That would be <a>."))


def refusals() -> list[Row]:
    """Refuse to answer, in many wordings."""
    return unread("refusals", CAPITALS, (
        "I'm sorry, but I can't help with that.",
        "I cannot assist with that request.",
        "As an AI language model, I am unable to answer this question.",
        "I'm not able to provide that information.",
        "Sorry, I can’t answer that.",
        "I must decline to answer this question.",
        "I apologize, but I won't be able to help you with this.",
        "Unfortunately, I am unable to comply with your request. Is there anything else I can do for you?",
        "I'd rather not answer that.",
        "I will not answer questions about <t>.",
        "I'm afraid I can't tell you <t>.",
        "I can't share that. If you have other questions, feel free to ask!",
        "My apologies, but answering this is something I cannot do.",
        "No, I refuse to answer.",
        "It is not possible for me to fulfill this request. Please consult an atlas instead.",
        "I'm just an AI assistant and don't have the ability to answer this. Sorry about that!"), "refused")


def like_refusals() -> list[Row]:
    """Begin like a refusal, and then answer."""
    return paired("like_refusals", CAPITALS, (
        "As an AI, I have never been there myself, but <t> is <a>.",
        "I'm sorry to hear that you are stuck on this one! It's <a>.",
        "I can't believe how often this is asked: <a>.",
        "I cannot stress this enough: <t> is <a>.",
        "Sorry for the short answer, I must be brief. <a>.",
        "I am an AI language model and my knowledge has a cutoff date. As of then, <t> was <a>.",
        "Unfortunately many people get this wrong. <T> is <a>.",
        "I won't keep you waiting: <a>!",
        "I'm unable to browse the web, so please double-check, but the answer is <a>."))


def half_refusals() -> list[Row]:
    """Refuse a part and answer the rest, or name candidates and refuse to choose."""
    return paired("half_refusals", CAPITALS, (
        "I can't give you travel advice, but <t> is <a>.",
        "I cannot verify this, but I believe it's <a>.",
        "I'm not able to show you a map. What I can tell you is that <t> is <a>.",
        "<a>. I'm sorry, but I can't say more about it than that.",
        "<T> is <a>. I cannot help with any questions about its politics, though.")) + unread(
        "half_refusals", CAPITALS, (
            "I know both <a> and <b>, but I'm not able to say which of them is the right answer. Sorry.",
            "There are cities such as <a> and <b> in that country, but I can't help you with your question.",
            "You may be thinking of <b> or of <a>. Still, I must decline to answer.",
            "I'm sorry, I can't tell you whether it is <a>."), "refused")


def empty() -> list[Row]:
    """Say nothing at all, or as little as possible."""
    blank = unread("empty", CAPITALS, ("", " ", "\n\n", "\t", "...", "```\n```", '""', "\u200b", "\n \n \n"), "empty")
    rows = []
    for a, b in ((2, 3), (4, 5)):
        for said, truth in ((a + b, "right"), (a * b, "wrong")):
            rows.append(Row("empty", {"kind": "number"}, f"What is {a} plus {b}?", (str(a + b),), str(said),
                            "right" if truth == "right" else "wrong"))
    return blank + rows + options("empty", QUIZ[:1], ("<a>",))


def cut_off() -> list[Row]:
    """Stop in the middle of a sentence, before or after the answer."""
    before = unread("cut_off", CAPITALS, (
        "<T> is",
        "That is an interesting question. To answer it, we first have to look at the history of the country, which",
        "<T> is often thought to be <b>, because it is the best known city of the country. However, the",
        "Let me go through it step by step.\n\n1. The country has several large cities.\n2. Its government"),
        "cut_off", cut_off=True)
    sums = [Row("cut_off", {"kind": "number"}, f"What is {a} times {b}?", (str(a * b),), text, "unread", "cut_off",
                cut_off=True)
            for a, b, text in ((14, 3, "To find the product, we multiply 14 by"),
                               (23, 7, "We split 23 into 20 and 3. First, 20 times 7 is 140. Then 3 times"))]
    gold = {"origin": "Oslo", "destination": "Rome"}
    record = Row("cut_off", {"kind": "json"}, "Give origin and destination as JSON: from Oslo to Rome.",
                 (json.dumps(gold),), '```json\n{"origin": "Oslo", "dest', "unread", "cut_off", cut_off=True)
    return before + sums + [record] + paired("cut_off", CAPITALS[4:], (
        "<T> is <a>. It lies on a river and has been the seat of the government since the",
        "**<a>** is the answer. Some background: the city was founded",
        "The answer is <a>.\n\nHere are a few facts about it:\n\n1. It has a",
        "<a>, although many would name <b>, which is"), cut_off=True)


def denied() -> list[Row]:
    """Deny the answer, with or without naming another one."""
    only = [exact("denied", fact, text.replace("<a>", fact.gold), "wrong", hint=i % 2 == 0)
            for i, (fact, text) in enumerate(zip(CAPITALS, (
                "It is certainly not <a>.", "It isn't <a>.", "Anything but <a>.", "I am sure that it's not <a>.",
                "<a> is not the answer.", "It can't be <a>.", "<a> is definitely wrong here.", "Never <a>."),
                strict=False))]
    return only + paired("denied", CAPITALS[3:], (
        "It is certainly not <b>. It is <a>.", "<b> is not the answer; <a> is.",
        "It can't be <b>, so it has to be <a>.", "Definitely <a>. It was never <b>."))


def every_option() -> list[Row]:
    """List all candidates, with or without choosing one of them."""
    rows = []
    for i, item in enumerate(QUIZ):
        listed = "\n".join(f"{'ABCD'[n]}. {text}" for n, text in enumerate(item.choices))
        rows.append(choice("every_option", item, f"The options are:\n{listed}", "wrong", letter=i % 2 == 0))
        for place, truth in ((item.gold, "right"), (item.rival, "wrong")):
            text = f"{listed}\n\nOf these, {'ABCD'[place]} is correct."
            rows.append(choice("every_option", item, text, "right" if truth == "right" else "wrong",
                               letter=i % 2 == 0))
    for fact, others in ((CAPITALS[0], "Melbourne, Perth"), (CAPITALS[1], "Montreal, Calgary")):
        listed = f"{fact.gold}, {others}, {fact.rival}"
        for text, truth in ((f"Some candidates: {listed}.", "wrong"),
                            (f"Of {listed}, it is {fact.gold}.", "right"),
                            (f"Of {listed}, it is {fact.rival}.", "wrong")):
            rows.append(exact("every_option", fact, text, "right" if truth == "right" else "wrong", hint=False))
    return rows


def broken_instruction() -> list[Row]:
    """Write what was asked for but break its verifiable instruction, or write nothing of use."""
    tasks: list[tuple[str, str, dict[str, Any], str]] = [
        ("Describe autumn without any commas.", "punctuation:no_comma", {},
         "In autumn, the leaves turn red, yellow and brown, and the evenings grow cold."),
        ("Name some uses of salt in exactly 3 bullet points.", "detectable_format:number_bullet_lists",
         {"num_bullets": 3}, "* It seasons food.\n* It melts ice."),
        ("Describe a lighthouse in lowercase letters only.", "change_case:english_lowercase", {},
         "A Lighthouse stands on the coast and warns ships of the rocks."),
        ("Describe a thunderstorm in capital letters only.", "change_case:english_capital", {},
         "Dark clouds gather, the wind rises and then the first lightning strikes."),
        ("Wrap a sentence about bees in double quotation marks.", "startend:quotation", {},
         "Bees collect nectar and turn it into honey."),
        ("Write about winter without the word snow.", "keywords:forbidden_words", {"forbidden_words": ["snow"]},
         "In winter the snow covers the fields and the lakes freeze over."),
        ("Describe a market and use the word lantern.", "keywords:existence", {"keywords": ["lantern"]},
         "The market is full of fruit stalls, loud voices and the smell of fresh bread."),
        ("Explain tides in at least 60 words.", "length_constraints:number_words",
         {"relation": "at least", "num_words": 60}, "Tides come from the pull of the Moon and the Sun on the oceans."),
        ("Write a poem about rain with a title in double angular brackets.", "detectable_format:title", {},
         "Rain on the roof,\nrain on the stone,\nit sings me to sleep\nwhen I am alone."),
        ("Invite a friend to dinner and add a postscript starting with P.S.", "detectable_content:postscript",
         {"postscript_marker": "P.S."}, "Dear Tom,\nwould you like to come to dinner on Friday at seven?\nYours, Ann"),
        ("Write an apology for a late delivery without any commas.", "punctuation:no_comma", {},
         "I'm sorry, but your parcel is late. We cannot deliver it before Monday, and we apologize for that."),
    ]
    useless: list[tuple[str, str]] = [
        ("I'm sorry, but I can't help with that.", "refused"), ("I cannot write this for you.", "refused"),
        ("", "empty"), ("\n\n", "empty")]
    rows = [Row("broken_instruction", instructions(name, settings), prompt, (), text, "right")
            for prompt, name, settings, text in tasks]
    for (prompt, name, settings, _), (text, reason) in zip(tasks, useless, strict=False):
        rows.append(Row("broken_instruction", instructions(name, settings), prompt, (), text, "unread", reason))
    return rows


def instructions(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return an IFEval grader of one instruction."""
    return {"kind": "instructions", "instructions": [{"id": name} | settings]}


KINDS: dict[str, Callable[[], list[Row]]] = {
    "date_words": date_words, "number_marks": number_marks, "json_words": json_words, "json_form": json_form,
    "two_units": two_units, "number_then_reason": number_then_reason, "number_words": number_words,
    "option_rejected": option_rejected, "contrast": contrast, "think_closed": think_closed, "think_open": think_open,
    "aliases": aliases, "refusals": refusals, "like_refusals": like_refusals, "half_refusals": half_refusals,
    "empty": empty, "cut_off": cut_off, "denied": denied, "every_option": every_option,
    "broken_instruction": broken_instruction,
}
