"""Comparisons of two people of Wikipedia's vital articles, by the years of birth that stand in their short descriptions.

"Was Mary Shelley born before William Golding?" Each article has one of the two years, so no single passage answers. Articles are
split before they are paired: nobody of the test questions is in a training question. Text: that of wikivital, CC BY-SA 4.0.

python experiments/wikiyears.py data/wikiyears
kard run experiments/wikiyears.yaml

Writes questions.train.jsonl, questions.dev.jsonl, questions.test.jsonl, and documents.jsonl: the summaries of all articles behind
their short descriptions, which have the years.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kard import Question, UserError
from kard.artifacts.files import write_jsonl
from kard.data.readers.wikivital import Article, read_articles
from kard.data.splits import DEV_SHARE, SPLITS, TEST_SHARE
from kard.progress import say

# Sorted by birth, a person is compared with those so many places later, as shares of the list. So everybody is as often the
# earlier as the later one, but for the two ends of the list: whoever has read one of the two articles knows next to nothing.
_SHARES_LATER = (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.16)
_SHORTEST_LIFE, _LONGEST_LIFE = 15, 110
_YEARS = re.compile(r"\((?:born (?P<only>\d{3,4})|(?P<born>\d{1,4})[–-](?P<died>\d{1,4})(?P<bc> BCE?)?)\)$")
# The years of a group, or of an office, are no years of a life.
_GROUP = re.compile(
    r"\b(?:band|group|duo|trio|brothers|sisters|family|team|troupe|company|empire|monarchy)\b", re.IGNORECASE
)
_OFFICE = re.compile(
    r"\b(?:emperor|empress|king|queen|sultan|shah|caliph|pope|patriarch|tsar|khan|pharaoh|ruler|monarch|regent|prince|duke|doge|"
    r"president|chancellor|prime minister|premier|governor|viceroy|shogun)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Person:
    """An article on one person, with the year of birth; years BC are negative."""

    article: Article
    born: int

    @property
    def name(self) -> str:
        """The article's title."""
        return self.article.title


def described_text(article: Article) -> str:
    """What the documents hold of an article: its short description, which has the years, and its summary."""
    return f"{article.description}. {article.extract}" if article.description else article.extract


def read_people() -> tuple[list[Person], Counter[str]]:
    """People whose year of birth is clear, and for how many articles with years it is not, by reason."""
    people, left_out = [], Counter[str]()
    for article in read_articles():
        if article.topic in ("People", "Uncategorized") and re.search(r"\d", article.description):
            reason, born = _birth(article)
            if reason:
                left_out[reason] += 1
            else:
                people.append(Person(article, born))
    return people, left_out


def _birth(article: Article) -> tuple[str, int]:
    """Why an article's year of birth is not clear, or nothing, and the year."""
    found = _YEARS.search(article.description)
    if found is None:
        return "with another form of date", 0
    if _GROUP.search(article.description):
        return "perhaps a group", 0
    if _OFFICE.search(article.description):
        return "perhaps years of an office", 0
    born, died = int(found["only"] or found["born"]), int(found["died"] or 0)
    if found["bc"]:
        born, died = -born, -died
    if not found["only"] and not _SHORTEST_LIFE <= died - born <= _LONGEST_LIFE:
        return "with no span of a life", 0
    if re.search(rf"\b(?:from|since|between|in) {abs(born)}\b", article.extract):
        return "in which something else began that year", 0
    return "", born


def questions_of(people: Sequence[Person], sizes: dict[str, int | None], seed: int) -> dict[str, list[Question]]:
    """Train, dev and test; a fifth of the people is in test questions only, a tenth in dev questions only.

    Args:
        people: Those with a clear year of birth.
        sizes: How many are wanted of each split; None means all.
        seed: Decides who is where, which pairs are taken, and who of a pair is named first.

    Returns:
        Questions with the choices yes and no, half of them each; `gold_passages` names both articles (document ids) and
        `conclusion` what follows from the two years.
    """
    people = list(people)
    random.Random(seed).shuffle(people)
    test, dev = round(TEST_SHARE * len(people)), round(DEV_SHARE * len(people))
    groups = {"test": people[:test], "dev": people[test : test + dev], "train": people[test + dev :]}
    possible = {name: pairs(groups[name], seed) for name in SPLITS}
    say("  possible questions: " + ", ".join(f"{name} {len(possible[name]):,}" for name in SPLITS))
    return {
        name: [_question(*pair, place % 2 == 0) for place, pair in enumerate(possible[name][: sizes[name]])]
        for name in SPLITS
    }


def pairs(people: Sequence[Person], seed: int) -> list[tuple[Person, Person]]:
    """Pairs to compare, the earlier one first, in an order by the seed; neither article tells of the other one."""
    ordered = sorted(people, key=lambda person: person.born)
    found = [
        (earlier, later)
        for places in sorted({max(1, round(share * len(ordered))) for share in _SHARES_LATER})
        for earlier, later in zip(ordered, ordered[places:], strict=False)
        if earlier.born < later.born and not _knows(earlier, later) and not _knows(later, earlier)
    ]
    random.Random(f"{seed}:{len(people)}").shuffle(found)
    return found


def _knows(one: Person, other: Person) -> bool:
    """Whether an article names the other person, or the year of the other's birth."""
    if re.search(rf"\b{abs(other.born)}(?!\d)", described_text(one.article)):  # also "1930s"
        return True
    return re.sub(r" \([^()]*\)$", "", other.name).casefold() in one.article.extract.casefold()


def _question(earlier: Person, later: Person, is_yes: bool) -> Question:
    first, second = (earlier, later) if is_yes else (later, earlier)
    return Question(
        id=f"wikiyears:{first.name}:{second.name}",
        question=f"Was {first.name} born before {second.name}?",
        choices=("yes", "no"),
        answer=0 if is_yes else 1,
        gold_passages=(first.name, second.name),
        conclusion=f"{_year(earlier.born)} is before {_year(later.born)}, so {earlier.name} was born first.",
    )


def _year(born: int) -> str:
    return str(born) if born > 0 else f"{-born} BC"


def write_wikiyears(folder: Path, sizes: dict[str, int | None], seed: int) -> None:
    """Write the questions of each split, and the documents.

    Raises:
        UserError: The package that has the articles is not installed.
    """
    people, left_out = read_people()
    unclear = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
    say(f"  {len(people):,} people with a clear year of birth; left out: {unclear}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, questions in questions_of(people, sizes, seed).items():
        rows = ({key: value for key, value in asdict(one).items() if key != "row"} for one in questions)
        write_jsonl(folder / f"questions.{name}.jsonl", rows)
    documents = ({"id": one.title, "title": one.title, "text": described_text(one)} for one in read_articles())
    write_jsonl(folder / "documents.jsonl", documents)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder of the files")
    for name, size in (("train", 2000), ("dev", 300), ("test", 300)):
        parser.add_argument(f"--{name}", type=int, default=size, help=f"{name} questions, {size} by default; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="decides who is where, and which pairs are taken")
    options = parser.parse_args(arguments)
    sizes = {"train": options.train or None, "dev": options.dev or None, "test": options.test or None}
    try:
        write_wikiyears(options.output, sizes, options.seed)
    except UserError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
