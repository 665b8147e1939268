"""Each filter finds what it is for, and leaves alone what only looks like it."""

from __future__ import annotations

import pytest

from kard.teacher.generated import Generated
from kard.teacher.question_filters import agrees, faults, judged_by_answer, judged_by_memory, near_duplicates

TEXT = (
    "The Danube rises in the Black Forest and flows through Ulm, Regensburg, Vienna and Budapest to the Black Sea. It is 2,850 "
    "kilometres long and the second longest river of Europe."
)


def chosen(question: str, right: str = "Ulm", *wrong: str) -> Generated:
    choices = (right, *(wrong or ("Vienna", "Regensburg", "Budapest")))
    return Generated("g", "multiple_choice", "train", question, choices, 0)


def open_one(question: str, answer: str = "Ulm") -> Generated:
    return Generated("g", "short", "train", question, (), answer)


CITY = "Which city on the Danube comes first?"
NOT_SELF_CONTAINED = [
    "What does the passage say about the Danube?",
    "Which city is mentioned above?",
    "According to the text, where does the Danube rise?",
    "Where, according to this article, does the Danube rise?",
    "What is the author's name in the given excerpt?",
    "Where does it rise?",
    "When was she born?",
    "In which year was it founded?",
    "What is its length?",
    "Which cities does this river reach?",
    "How long is the river that is described in the document?",
    "What is the name of the museum?",
    "Welche Stadt wird im Text genannt?",
    "Quelle ville est nommée dans le texte ?",
    "¿Qué ciudad se menciona en el texto?",
]
SELF_CONTAINED = [
    "Which river rises in the Black Forest before it reaches Ulm?",
    "What did Marie Curie do after she left Warsaw?",
    "Is it true that the Danube reaches Vienna?",
    "How long does it take to sail from Ulm to Vienna?",
    "Why is it important to change the oil of the pump P3?",
    "Why do cats purr when they are content?",
    "Which of these cities lies on the Danube?",
    "What is the name of the museum in the former station?",
    "What is the name of the Colosseum?",
    "Which text of Plato tells of Atlantis?",
    "In which passage of the Odyssey does the dog die?",
    "Who wrote the article of 1905 on relativity?",
    "Which document ended the Thirty Years' War?",
]


@pytest.mark.parametrize("question", NOT_SELF_CONTAINED)
def test_questions_that_need_their_passage(question):
    assert [status for status, _ in faults(open_one(question), [TEXT])] == ["not_self_contained"]


@pytest.mark.parametrize("question", [*SELF_CONTAINED, CITY])
def test_questions_that_stand_alone(question):
    assert not faults(open_one(question, "Regensburg"), [TEXT])
    assert not faults(chosen(question, "Regensburg", "two", "three"), [TEXT])


def test_a_choice_that_speaks_of_others():
    assert faults(chosen(CITY, "Ulm", "Vienna", "none of the above"), [TEXT]) == [
        ("not_self_contained", "says “none of the above”")
    ]


@pytest.mark.parametrize(
    ("one", "status", "says"),
    [
        (open_one("Which city " + "or town " * 40 + "is it?"), "too_long", "the question has 84 words, more than 60"),
        (open_one(CITY, "a " * 21), "too_long", "the answer has 21 words, more than 20"),
        (chosen(CITY, "Ulm", "Vienna", "a " * 30), "too_long", "a choice has 30 words"),
        (
            open_one("Which river flows through Ulm, Regensburg, Vienna and Budapest to the Black Sea?", "the Danube"),
            "copied_sentence",
            "“flows through ulm regensburg vienna and budapest to the black sea” stands in the passage",
        ),
        (
            chosen("Where does the Danube end?", "in the Black Sea", "the Black Sea", "in Ulm"),
            "two_right",
            "“the Black Sea”",
        ),
        (chosen("Where does the Danube end?", "Black Sea", "in the Black Sea at last", "in Ulm"), "two_right", ""),
        (
            chosen("Why do ships stop?", "since the river is closed to all of them by ice", "fog", "war"),
            "gives_itself_away",
            "the right choice has 11 words, no wrong one more than 1",
        ),
        (
            chosen("Which river shares its name with the Danube delta?", "the Danube", "the Rhine", "the Elbe"),
            "gives_itself_away",
            "only the right choice shares words with the question (danub)",
        ),
        (open_one("Who swam all of the Danube?", "Martin Strel"), "unsupported", "“Martin Strel” does not stand in"),
        (open_one("When was Vienna founded?", "in 1137"), "unsupported", "“1137” does not stand in its passages"),
        (
            chosen("How long is the Danube?", "2,860 kilometres", "1,230 kilometres", "2,058 kilometres"),
            "unsupported",
            "“2860”",
        ),
        (
            chosen(
                "In which age of the Black Forest did the Danube begin?",
                "the Black Forest",
                "the ice age",
                "the old age",
            ),
            "gives_itself_away",
            "the question holds its answer “the Black Forest”",
        ),
        (open_one("What is the Danube?", "the long Danube"), "gives_itself_away", "holds its answer"),
        (
            open_one("Into which sea does the Black Sea river Danube flow?", "Black Sea"),
            "gives_itself_away",
            "holds its answer",
        ),
    ],
)
def test_what_is_wrong_with_a_question_alone(one, status, says):
    [(found, reason)] = faults(one, [TEXT])
    assert found == status
    assert says in reason


@pytest.mark.parametrize(
    "one",
    [
        chosen("How long is the Danube?", "2,850 kilometres", "1,230 kilometres", "2,058 kilometres"),
        chosen(
            "In which forest does the Danube rise?", "the Black Forest", "the Bavarian Forest", "the Bohemian Forest"
        ),
        chosen(
            "Which war closed the Danube?", "World War II on the Black Sea", "World War I on the Black Sea", "no war"
        ),
        open_one("What is the Danube?", "the second longest river of Europe, the Danube"),
        open_one("How many sons has the Danube?", "two sons that are long"),
        open_one("多瑙河发源于哪里?", "黑森林"),
        open_one("Which is longer, the Danube or the Rhine?", "the Danube"),
        Generated("g", "yes_no", "train", "Does the Danube reach Vienna?", ("yes", "no"), 0),
        Generated(
            "g", "comparison", "train", "Which is longer, the Danube or the Rhine?", ("the Danube", "the Rhine"), 0
        ),
    ],
)
def test_good_questions_pass(one):
    assert not faults(one, [TEXT])


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (chosen(CITY), "(A)"),
        (chosen(CITY), "Answer: (A) Ulm"),
        (chosen(CITY), "A"),
        (chosen(CITY), "Ulm"),
        (chosen("Which vitamin?", "vitamin C", "vitamin A", "vitamin D"), "vitamin C"),
        (open_one(CITY, "in the Black Forest"), "The Black Forest."),
        (open_one(CITY, "28 days"), "28"),
        (open_one(CITY, "2,850 kilometres"), "2850 kilometres"),
        (open_one(CITY, "92 cm (36 in)"), "92 cm"),
        (open_one(CITY, "about 1,300 km (810 mi) from Ulm"), "1,300 km"),
        (open_one(CITY, "the end of March"), "Until the end of March"),
        (open_one(CITY, "every 4,000 hours"), "Its oil is changed every 4,000 hours."),
        (open_one(CITY, "the Danubius (Danube)"), "Danube"),
        (open_one(CITY, "Ulm, 854–1802"), "(Ulm, from 854 to 1802)"),
        (open_one("How large is the lake?", "21 km x 13 km"), "21 km (13 mi) long and 13 km (8 mi) wide"),
        (
            open_one("What happens to henna after it reaches its peak colour?", "It holds for days and wears off"),
            "After henna reaches its peak colour, it holds for a few days and then wears off.",
        ),
    ],
)
def test_the_same_answer_in_other_words(one, said):
    assert agrees(one, said.removeprefix("Answer: "))
    assert judged_by_answer(one, said) is None
    assert judged_by_memory(one, said) == ("known_by_heart", "the teacher gives the same answer without its passage")


@pytest.mark.parametrize(
    ("one", "said", "status"),
    [
        (chosen(CITY), "(B)", "round_trip"),
        (chosen(CITY), "not told", "round_trip"),
        (chosen(CITY), "", "round_trip"),
        (chosen(CITY), "(A) Vienna", "round_trip"),
        (chosen(CITY), "(A) and (B)", "two_right"),
        (chosen(CITY), "A, C", "two_right"),
        (open_one(CITY, "28 days"), "30 days", "round_trip"),
        (open_one(CITY, "the end of March"), "the end of April", "round_trip"),
        (open_one(CITY, "from 1037 to 1308"), "1308", "round_trip"),
        (open_one(CITY, "28 days"), "(not told)", "round_trip"),
        (
            open_one("Why was the pump P3 switched off?", "The pump P3 was switched off by thunder"),
            "The pump P3 was switched off by hand",
            "round_trip",
        ),
        (Generated("g", "unanswerable", "test", CITY), "Ulm", "round_trip"),
    ],
)
def test_another_answer(one, said, status):
    verdict = judged_by_answer(one, said)
    assert verdict is not None
    assert verdict[0] == status
    assert judged_by_memory(one, said) is None or status == "two_right"


@pytest.mark.parametrize("said", ["not told", "It is not mentioned.", "The passage does not say.", "Unknown."])
def test_what_the_documents_do_not_answer_is_not_answered(said):
    assert judged_by_answer(Generated("g", "unanswerable", "test", CITY), said) is None
    assert judged_by_memory(open_one(CITY, "Ulm"), f"{said} Ulm?") is None


def test_near_duplicates_are_of_earlier_questions_or_of_the_prompts_examples():
    asked = [
        open_one("Which city on the river Danube comes first on the way to Budapest?"),
        open_one("Which city on the river Rhine comes first on the way to Rotterdam?", "Chur"),
        open_one("Which city on the river Danube comes first, on its way to Budapest?"),
        open_one("How often is the oil of the pump P3 changed?", "every 4,000 hours"),
    ]
    found = dict(near_duplicates(asked, [asked[-1]]))
    assert set(found) == {2, 3}
    assert found[2] == asked[0].question


def test_the_same_template_with_another_answer_is_another_question():
    template = "In which year did the Norlund Bank open its first branch office in the old town of {}?"
    asked = [open_one(template.format(town), year) for town, year in (("Vienna", "1912"), ("Prague", "1934"))]
    assert not list(near_duplicates(asked, []))
    assert [place for place, _ in near_duplicates([asked[0], open_one(asked[0].question, "1913")], [])] == [1]
