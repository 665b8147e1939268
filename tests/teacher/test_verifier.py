"""The verifier: what it reads, what it rejects, and that no verdict is asked for twice."""

from dataclasses import replace

from fault_server import no_passages

from kard.recipe.teacher import TeacherSection
from kard.teacher.collect import Models, collect_rationales


class Ranker:
    """Takes the answer that the rationale names last; keeps what it was asked."""

    def __init__(self, among):
        self.among = among
        self.asked = []

    def __call__(self, prompts, answers):
        self.asked += zip(prompts, answers, strict=True)
        return [self._best(prompt, some) for prompt, some in zip(prompts, answers, strict=True)]

    def _best(self, prompt, answers):
        explanation = prompt.rpartition("Explanation:")[2]
        return max(range(len(answers)), key=lambda place: explanation.rfind(self.among[place]))


def recorded(questions, *texts):
    return [replace(question, rationales=texts) for question in questions]


def test_a_rationale_that_leads_elsewhere_is_rejected_with_what_was_read(questions, tmp_path):
    section = TeacherSection(verifier="some/model")
    ranker = Ranker(("red", "green", "blue"))
    asked = recorded(questions(2), "All such things are red.", "All such things look green.", "No.")
    collected = collect_rationales(asked, no_passages, section, 0, tmp_path / "c.sqlite", Models(rank=ranker))
    assert [r.status for r in collected] == ["kept", "unverified", "too_short", "unverified", "kept", "too_short"]
    assert collected[1].reason == "the verifier reads “green” out of it, the answer is “red”"
    assert len(ranker.asked) == 4


def test_what_it_reads_is_the_worked_examples_and_no_answer(questions, tmp_path):
    ranker = Ranker(("red", "green", "blue"))
    asked = recorded(questions(1), "Things are red.")
    collect_rationales(asked, no_passages, TeacherSection(verifier="m"), 0, tmp_path / "a.sqlite", Models(rank=ranker))
    by_text = TeacherSection(verifier="m", verifier_by="text")
    collect_rationales(asked, no_passages, by_text, 0, tmp_path / "b.sqlite", Models(rank=ranker))
    (letters, after), (texts, names) = ranker.asked
    assert after == [" (A)", " (B)", " (C)"]
    assert names == [" red", " green", " blue"]
    for prompt in (letters, texts):
        assert prompt.count("Question:") == 6
        assert prompt.endswith("Things are red. So the answer is")
        assert "Answer:" not in prompt
        assert "Explain the answer" not in prompt
    assert "(B) green\n" in letters
    assert "(" not in texts.partition("What is thing number 0?")[2]


def test_verdicts_are_kept_and_an_open_question_has_none(questions, tmp_path):
    ranker = Ranker(("red", "green", "blue"))
    asked = recorded(questions(3), "Things are red.")
    asked.append(replace(asked[0], id="open", choices=(), answer="red"))
    section = TeacherSection(verifier="some/model")
    first = collect_rationales(asked, no_passages, section, 0, tmp_path / "c.sqlite", Models(rank=ranker))
    assert len(ranker.asked) == 3
    assert collect_rationales(asked, no_passages, section, 0, tmp_path / "c.sqlite", Models(rank=ranker)) == first
    assert len(ranker.asked) == 3
    other = TeacherSection(verifier="other/model")
    collect_rationales(asked, no_passages, other, 0, tmp_path / "c.sqlite", Models(rank=ranker))
    assert len(ranker.asked) == 6
    assert first[3].status == "kept"
