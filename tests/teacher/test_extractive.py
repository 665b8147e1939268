"""The extractive teacher: which sentences it takes, and that they make sense alone."""

from kard.data.question import Question
from kard.teacher.extractive import extract_rationale

WATER = Question("q", "Which gas do plants take in to grow?", ("carbon dioxide", "neon"), 0)
TEXT = (
    "Plants are green. They take in carbon dioxide from the air. Soil is brown. Water rises in the plants as they grow."
)


def test_the_sentence_that_names_the_answer_wins(passage):
    draft = extract_rationale(WATER, [passage(TEXT, "Plant")], 1)
    assert draft.text == "They take in carbon dioxide from the air."
    assert not draft.failure


def test_naming_the_answer_counts_more_than_a_word_of_the_question(passage):
    text = "Most plants take in some gas to grow well. It is carbon dioxide that plants take in."
    assert extract_rationale(WATER, [passage(text)], 1).text == "It is carbon dioxide that plants take in."


def test_several_sentences_keep_their_order(passage):
    draft = extract_rationale(WATER, [passage(TEXT, "Plant")], 2)
    assert draft.text == "They take in carbon dioxide from the air. Water rises in the plants as they grow."


def test_a_sentence_without_title_and_answer_gets_the_title(passage):
    question = Question("q", "Was she born in Warsaw?", ("yes", "no"), 0)
    text = "It rained. She was born in Warsaw in 1867."
    assert (
        extract_rationale(question, [passage(text, "Marie Curie")], 1).text
        == "Marie Curie: She was born in Warsaw in 1867."
    )
    assert extract_rationale(question, [passage(text)], 1).text == "She was born in Warsaw in 1867."


def test_a_title_in_other_words_or_with_a_bracket_counts_as_named(passage):
    question = Question("q", "Where do Christians worship?", (), "temple")
    text = "Churches are buildings where Christians worship."
    assert extract_rationale(question, [passage(text, "Church (building)")], 1).text == text


def test_the_best_of_several_passages_is_taken(passage):
    passages = [passage("Neon glows red.", "Neon", "a"), passage(TEXT, "Plant", "b")]
    assert extract_rationale(WATER, passages, 1).text == "They take in carbon dioxide from the air."
    assert extract_rationale(WATER, passages, 9).text.startswith("Neon glows red. Plants are green.")


def test_no_gold_passage_is_a_failure_that_says_what_to_do():
    draft = extract_rationale(WATER, [], 1)
    assert draft.text == ""
    assert "gold_passages" in draft.failure
    assert "teacher.kind" in draft.failure
