"""Questions from passages: the teacher asks, and answers its own questions with the passage and without it."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from kard.data.cutting import word_count
from kard.data.draw import Drawn
from kard.data.normal import plain
from kard.data.passage import Passage, Passages
from kard.errors import UserError
from kard.recipe.sections import QuestionsSection
from kard.recipe.teacher import TeacherSection
from kard.teacher.cache import ReplyCache
from kard.teacher.collect import Ask, asker, drafts
from kard.teacher.filter import said, unusable, why_ended
from kard.teacher.generated import MOST_WRONG, Generated, as_asked, ends_with_question, from_reply, gone_on, used
from kard.teacher.limits import Spent, likely_cost
from kard.teacher.prompting import Request, Write
from kard.teacher.question_filters import faults, judged_by_answer, judged_by_memory, near_duplicates
from kard.teacher.question_prompts import QuestionPrompts, asking
from kard.teacher.rationale import Draft, counts_of

# Replies that are looked at before all others are asked for: where none of them holds a question, none is.
_PROBE = 32
_FEWEST_WRONG = {"multiple_choice": 2, "comparison": 1}
_NO_REPLY = ("unparsable", "refused", "truncated", "error")
Drafts = Mapping[str, Draft]


@dataclass(frozen=True)
class Generation:
    """All that questions are made from.

    Attributes:
        items: What to ask for.
        passages: The knowledge base.
        questions: The recipe's ``questions``.
        teacher: The recipe's ``teacher``.
        seed: Decides the requests and the order of choices.
    """

    items: Sequence[Drawn]
    passages: Passages
    questions: QuestionsSection
    teacher: TeacherSection
    seed: int

    @cached_property
    def prompts(self) -> QuestionPrompts:
        """What the teacher is asked."""
        return QuestionPrompts(asking(self.teacher), self.seed, self.questions.rationales)

    def about(self, drawn: Drawn) -> list[Passage]:
        """The passages that a question is about."""
        return [self.passages[place] for place in drawn.places]

    @cached_property
    def requests(self) -> list[Request]:
        """One for each item."""
        return [self.prompts.question(drawn, self.about(drawn)) for drawn in self.items]

    def checks(self, drawn: Drawn, one: Generated) -> list[Request]:
        """What the teacher is asked about its own question: to answer it from its passages and, unless those that it knows are
        kept, from memory."""
        shown = [*self.about(drawn), *(self.passages[place] for place in drawn.others)]
        from_passages = self.prompts.answer(one, shown)
        from_memory = one.kind != "unanswerable" and not self.questions.keep_known
        return [from_passages, *([self.prompts.answer(one, None)] if from_memory else [])]


def generate_questions(generation: Generation, path: Path, write: Write | None) -> list[Generated]:
    """Ask for all questions, and judge them.

    Args:
        generation: What is asked.
        path: SQLite file of replies; what is in it is never asked for again.
        write: The teacher of kind transformers.

    Returns:
        One for each item, in their order, each with its status.

    Raises:
        UserError: The endpoint cannot be used, too many requests failed, or the first replies hold no question at all.
    """
    requests = generation.requests
    with closing(ReplyCache(path)) as cache, asker(generation.prompts.section, cache, write) as ask:
        if generation.teacher.mode == "live":
            some = requests[:_PROBE]
            _check_probe(_first(generation, _whole(generation, _asked(some, ask, cache), ask, cache)), generation)
        made = _first(generation, _whole(generation, _asked(requests, ask, cache), ask, cache))
        checks = [generation.checks(*pair) if pair[1].status == "kept" else [] for pair in _pairs(generation, made)]
        answered = _asked([request for some in checks for request in some], ask, cache)
    return [_second(one, [answered[each.key] for each in own]) for one, own in zip(made, checks, strict=True)]


def _asked(requests: Sequence[Request], ask: Ask, cache: ReplyCache) -> dict[str, Draft]:
    """The teacher's reply to each request, by its key."""
    draft = drafts(ask(([request] for request in requests), len(requests)), cache)
    return {request.key: draft(request.key) for request in requests}


def _whole(generation: Generation, replies: Drafts, ask: Ask, cache: ReplyCache) -> Drafts:
    """The replies; those that ended with their question go on with what the teacher writes behind it."""
    rests = _rests(generation, replies)
    return _with_rests(replies, rests, _asked(list(rests.values()), ask, cache))


def _rests(generation: Generation, replies: Drafts) -> dict[str, Request]:
    """What is asked for behind replies that ended with their question, by the key of their first request."""
    found = {}
    for drawn, request in zip(generation.items, generation.requests, strict=True):
        if draft := replies.get(request.key):
            one = _read(drawn, draft, generation)
            if one.status == "unparsable" and ends_with_question(one):
                found[request.key] = generation.prompts.rest(drawn, generation.about(drawn), one.question)
    return found


def _with_rests(replies: Drafts, rests: Mapping[str, Request], more: Drafts) -> Drafts:
    return {
        **replies,
        **{key: _joined(replies[key], more[rest.key]) for key, rest in rests.items() if rest.key in more},
    }


def _joined(begun: Draft, rest: Draft) -> Draft:
    usage = used([begun.usage, rest.usage])
    if rest.failure:
        return replace(rest, usage=usage)
    return replace(rest, text=gone_on(said(begun).strip(), said(rest).strip()), usage=usage)


def _pairs(generation: Generation, made: Sequence[Generated]) -> Iterator[tuple[Drawn, Generated]]:
    return zip(generation.items, made, strict=True)


def _check_probe(made: Sequence[Generated], generation: Generation) -> None:
    if made and all(one.status in _NO_REPLY for one in made):
        said_of = "; ".join(f"{row['count']} {row['status']}: {row['reason_example']}" for row in counts_of(made))
        raise UserError(
            f"teacher: none of the first {len(made)} replies holds a question ({said_of}). Ask a larger teacher.model, set "
            "teacher.endpoint: completions for a base model, or raise teacher.max_tokens. The replies so far are kept."
        )


def _first(generation: Generation, replies: Drafts) -> list[Generated]:
    """The questions of the items that have a reply, as far as they can be judged without asking again."""
    pairs = [
        (item, replies[one.key])
        for item, one in zip(generation.items, generation.requests, strict=True)
        if one.key in replies
    ]
    made = [_read(drawn, draft, generation) for drawn, draft in pairs]
    items = [drawn for drawn, _ in pairs]
    made = [_with_choices(place, made, items, generation) for place in range(len(made))]
    for place, one in enumerate(made):
        texts = [passage.full_text for passage in generation.about(items[place])]
        if one.status == "kept" and (found := faults(one, texts)):
            made[place] = one.rejected(*found[0])
    kept = [place for place, one in enumerate(made) if one.status == "kept"]
    examples = [
        from_reply(generation.prompts.example(kind), Drawn("", kind, ()), ())
        for kind in dict.fromkeys(generation.questions.kinds)
    ]
    for number, earlier in near_duplicates([made[place] for place in kept], examples):
        made[kept[number]] = made[kept[number]].rejected("near_duplicate", f"similar to “{earlier}”")
    return made


def _read(drawn: Drawn, draft: Draft, generation: Generation) -> Generated:
    text = said(draft)
    one = replace(from_reply(text, drawn, generation.about(drawn)), usage=used([draft.usage]))
    if draft.failure:
        return one.rejected("error", draft.failure)
    verdict = unusable(text, why_ended(draft, text), generation.prompts.section)
    return one.rejected(*verdict) if verdict else one


def _with_choices(place: int, made: Sequence[Generated], items: Sequence[Drawn], generation: Generation) -> Generated:
    """The question with wrong choices from neighbouring passages where the teacher gave too few, in an order by the seed."""
    one = made[place]
    if one.status != "kept" or one.kind not in _FEWEST_WRONG:
        return one
    choices = list(one.choices)
    if one.kind == "multiple_choice" and len(choices) <= MOST_WRONG:
        texts = plain(" ".join(passage.full_text for passage in generation.about(items[place])))
        for answer in _neighbours(place, made, items):
            if len(choices) > MOST_WRONG:
                break
            if _fits(answer, choices) and f" {plain(answer)} " not in f" {texts} ":
                choices.append(answer)
    if len(choices) <= _FEWEST_WRONG[one.kind]:
        return one.rejected("unparsable", f"{len(choices) - 1} wrong answers")
    order = random.Random(f"{generation.seed}:{one.id}").sample(range(len(choices)), len(choices))
    return replace(one, choices=tuple(choices[number] for number in order), answer=order.index(0))


def _neighbours(place: int, made: Sequence[Generated], items: Sequence[Drawn]) -> Iterator[str]:
    """Right answers about other passages of the same split, the nearest passages first."""
    own = items[place]
    others = [
        (abs(item.places[0] - own.places[0]), one.right)
        for item, one in zip(items, made, strict=True)
        if item.split == own.split
        and item.places != own.places
        and one.kind in ("multiple_choice", "short")
        and one.right
    ]
    return (answer for _, answer in sorted(others))


def _fits(answer: str, choices: Sequence[str]) -> bool:
    """Whether an answer could be taken for one of a question's: of about the same length, a number among numbers."""
    right = choices[0]
    alike = answer[:1].isdigit() == right[:1].isdigit() and answer[:1].isupper() == right[:1].isupper()
    near = abs(word_count(answer) - word_count(right)) <= 2
    held = [f" {plain(choice)} " for choice in choices]
    return alike and near and not any(f" {plain(answer)} " in one or one in f" {plain(answer)} " for one in held)


def _second(one: Generated, answers: Sequence[Draft]) -> Generated:
    """The question after the teacher has answered it from its passages and from memory."""
    one = replace(one, usage=used([one.usage, *(draft.usage for draft in answers)]))
    for draft, judge in zip(answers, (judged_by_answer, judged_by_memory), strict=False):
        if draft.failure:
            return one.rejected("error", draft.failure)
        if verdict := judge(as_asked(one), said(draft)):
            return one.rejected(*verdict)
    return one


def balanced(made: Sequence[Generated], seed: int) -> list[Generated]:
    """The questions, the right choices of the kept ones as often in each place as in any other; what a person has decided
    about stays as it is."""
    found = {one.id: one for one in made}
    groups: dict[tuple[str, int], list[Generated]] = defaultdict(list)
    for one in made:
        if one.status == "kept" and one.kind in _FEWEST_WRONG and not one.reviewer:
            groups[one.split, len(one.choices)].append(one)
    for (_, count), own in groups.items():
        own.sort(key=lambda one: random.Random(f"{seed}:{one.id}").random())
        for rank, one in enumerate(own):
            place, wrong = rank % count, one.wrong
            found[one.id] = replace(one, choices=(*wrong[:place], one.right, *wrong[place:]), answer=place)
    return [found[one.id] for one in made]


def estimate_questions(generation: Generation, path: Path) -> tuple[int, Spent]:
    """What asking for questions takes, for ``--dry-run``: how many replies are there, and what is still to be sent.

    Questions that have not been asked for are taken to be like the first worked example, and to be answered by the teacher.
    """
    section, prompts, spent = generation.prompts.section, generation.prompts, Spent()
    with closing(ReplyCache(path)) if path.exists() else nullcontext() as cache:
        reply: Callable[[str], Draft | None] = cache.reply if cache else lambda key: None
        there = {one.key: draft for one in generation.requests if (draft := reply(one.key))}
        rests = _rests(generation, there)
        more = {one.key: draft for one in rests.values() if (draft := reply(one.key))}
        pairs = list(zip(generation.items, generation.requests, strict=True))
        known = [drawn for drawn, request in pairs if request.key in there]
        made = _first(generation, _with_rests(there, rests, more))
        expected = [pair for pair in zip(known, made, strict=True) if pair[1].status == "kept"]
        to_ask = [(drawn, one) for drawn, one in pairs if one.key not in there]
        to_ask += [
            (drawn, rests[one.key]) for drawn, one in pairs if one.key in rests and rests[one.key].key not in more
        ]
        for drawn, request in to_ask:
            text, one = prompts.typical(drawn, generation.about(drawn))
            spent += likely_cost(request.body, section, text)
            expected.append((drawn, one))
        checks = [(one, check) for drawn, one in expected for check in generation.checks(drawn, one)]
        answered = {check.key for _, check in checks if reply(check.key)}
    for one, check in checks:
        if check.key not in answered:
            spent += likely_cost(check.body, section, "(A)" if one.choices else one.right or "not told")
    return len(there) + len(more) + len(answered), spent
