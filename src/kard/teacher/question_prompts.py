"""What a teacher is asked for questions: prompt files for instruct models (``chat``) and for base models (``completions``)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from string import Template

from kard.data.draw import Drawn
from kard.data.passage import Passage
from kard.recipe.sections import GENERATED_KINDS, GeneratedKind
from kard.recipe.teacher import TeacherSection
from kard.teacher.generated import Generated, as_asked, from_reply
from kard.teacher.prompting import Request, lettered, one_line, request_of

_EXPLANATION = re.compile(r"^(?:- )?Explanation:.*\n", re.MULTILINE)
_REPLY = re.compile(r"\nQuestion:((?:.*\n)*?)\n")


@dataclass(frozen=True)
class QuestionPrompts:
    """The requests of one recipe.

    Attributes:
        section: The recipe's ``teacher``, as it is asked for questions.
        seed: Decides the seeds of the requests.
        rationales: Whether explanations are asked for as well.
    """

    section: TeacherSection
    seed: int
    rationales: bool

    @cached_property
    def _templates(self) -> dict[str, str]:
        folder = resources.files("kard.teacher") / "prompts" / self.section.endpoint
        names = (*GENERATED_KINDS, "answer", "known")
        texts = {name: (folder / f"{name}.txt").read_text(encoding="utf-8") for name in names}
        return texts if self.rationales else {name: _EXPLANATION.sub("", text) for name, text in texts.items()}

    def question(self, drawn: Drawn, passages: Sequence[Passage]) -> Request:
        """Ask for a question about the passages."""
        return self._request(self.section, drawn.kind, passages=_shown(passages), wanted=drawn.wanted)

    def rest(self, drawn: Drawn, passages: Sequence[Passage], question: str) -> Request:
        """Ask for what belongs behind a question, where the reply ended with it."""
        begun = f" {one_line(question)}\nAnswer:"
        return self._request(self.section, drawn.kind, begun, passages=_shown(passages), wanted=drawn.wanted)

    def answer(self, generated: Generated, passages: Iterable[Passage] | None) -> Request:
        """Ask for the answer of a question: from passages, or without any from memory, at temperature 0."""
        name, shown = ("known", "") if passages is None else ("answer", _shown(passages))
        lines = lettered(as_asked(generated).as_question())
        choices = "".join(f"{line}\n" for line in ("Choices:", *lines)) if lines else ""
        sure = self.section.model_copy(update={"temperature": None if self.section.temperature is None else 0.0})
        return self._request(sure, name, passages=shown, question=one_line(generated.question), choices=choices)

    def _request(self, section: TeacherSection, name: str, begun: str = "", **filled: str) -> Request:
        prompt = Template(self._templates[name]).substitute(filled).rstrip() + begun
        return request_of(prompt, section, f"{self.seed}:{name}")

    def typical(self, drawn: Drawn, passages: Sequence[Passage]) -> tuple[str, Generated]:
        """What a reply is likely to be like, for what it may cost: that of the first worked example, and its question."""
        reply = self.example(drawn.kind)
        return reply, from_reply(reply, drawn, passages)

    def example(self, kind: GeneratedKind) -> str:
        """The reply of the first worked example."""
        found = _REPLY.search(self._templates[kind])
        assert found is not None
        return found[1].strip()


def asking(section: TeacherSection) -> TeacherSection:
    """The teacher as it is asked for questions: a base model, which would go on with the next passage, stops at a blank line."""
    stop = {"stop": ["\n\n"]} if section.endpoint == "completions" else {}
    return section.model_copy(update={"rationales": None, "extra_body": stop | section.extra_body})


def _shown(passages: Iterable[Passage]) -> str:
    return "".join(f"Passage: {one_line(passage.full_text)}\n" for passage in passages)
