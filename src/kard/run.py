"""A run: typed readers of what its stages wrote, and its parts, opened."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kard.artifacts.damage import damage_explained
from kard.artifacts.files import read_json, read_jsonl
from kard.artifacts.folders import check_run, finished, manifest_of
from kard.artifacts.versions import current_version, version_folder
from kard.data.passage import Passages, positions_of, read_passages
from kard.data.question import Question, read_questions
from kard.errors import UserError, nearest
from kard.methods import METHODS
from kard.progress import say
from kard.teacher.rationale import Rationale, read_rationales

if TYPE_CHECKING:
    import pandas

    from kard.recipe.recipe import Recipe
    from kard.reranker.cross import CrossReranker
    from kard.reranker.model import Reranker
    from kard.retrieval.retriever import Retriever
    from kard.student.generation import Student
    from kard.teacher.generated import Generated


GGUF = "gguf"
"""The folder of an export that has the student as a GGUF file."""


@dataclass(frozen=True)
class Candidates:
    """What a rationale finds (KARD equations 3 and 4).

    Attributes:
        rationale: The rationale's id.
        question: The question's id.
        status: The rationale's.
        silver: Positions of the passages that it finds, best first.
        candidates: Positions of D̃, those by the rationale first.
        scores: The retriever's score of each of them for the rationale.
    """

    rationale: str
    question: str
    status: str
    silver: list[int]
    candidates: list[int]
    scores: list[float]


@dataclass(frozen=True)
class Run:
    """A run's folder with its recipe.

    Attributes:
        folder: Where its stages lie.
        recipe: What it is made from.
        online: Whether a user gave this recipe to be run, and so asks for the servers and the hub's models that it names.
            A run folder may come from anywhere.
        documents: The version of the documents that is read (`kard docs`); 0 are those that the recipe names, which every
            stage is made from.
        over: Another knowledge base of ``evaluation.knowledge`` that is read instead.
    """

    folder: Path
    recipe: Recipe
    online: bool = False
    documents: int = 0
    over: str = ""

    @classmethod
    def open(cls, folder: str | Path, documents: int | None = None) -> Run:
        """A run that was made earlier.

        Args:
            folder: The run's.
            documents: The version of its documents; None: the current one.

        Raises:
            UserError: The folder is no run, or its documents were changed before it was run again.
        """
        from kard.recipe.file import recipe_from_run  # pydantic would double the time of `kard --help`

        place = Path(folder)
        check_run(place)
        return cls(place, recipe_from_run(place), documents=current_version(place) if documents is None else documents)

    def questions(self, split: str) -> list[Question]:
        """The questions of ``train``, ``dev`` or ``test``."""
        return read_questions(self.folder / "questions" / f"{split}.jsonl")

    def evaluated(self) -> list[Question]:
        """The questions that are answered to measure the methods: test, or dev where the recipe says so."""
        return self.questions(self.recipe.evaluation.split)

    def generated(self) -> list[Generated]:
        """The questions that the teacher was asked for, whatever became of them; none where questions came from elsewhere."""
        from kard.teacher.generated import read_generated

        path = self.folder / "questions" / "generated.jsonl"
        return read_generated(path) if path.exists() else []

    def passages(self) -> Passages:
        """The knowledge base."""
        folder = self.searched("knowledge")
        with damage_explained(folder):
            return read_passages(folder / "passages.jsonl")

    def searched(self, stage: str) -> Path:
        """The folder of ``knowledge`` or ``index`` in the version of the documents, or the other knowledge base, that is read."""
        if self.over:
            return self.finished(f"predictions/over_{self.over}") / stage
        return version_folder(self.folder, self.documents) / stage if self.documents else self.finished(stage)

    def named(self, questions: Iterable[Question]) -> dict[str, list[int]]:
        """Positions of the gold passages that questions name, by the passages' ids and their documents'."""
        return self.positions(name for one in questions for name in one.gold_passages)

    def positions(self, names: Iterable[str]) -> dict[str, list[int]]:
        """Positions of passages by their own ids and their documents'."""
        return positions_of(self.searched("knowledge"), set(names))

    def rationales(self) -> list[Rationale]:
        """All rationales, kept or not."""
        return read_rationales(self.folder / "rationales" / "rationales.jsonl")

    def candidates(self) -> list[Candidates]:
        """What each rationale finds."""
        return [Candidates(**row) for row in read_jsonl(self.folder / "candidates" / "candidates.jsonl")]

    def predictions(self, method: str) -> list[dict[str, Any]]:
        """The rows of a method's predictions; none where it could not be run."""
        over = f"_over_{self.over}" if self.over else ""
        path = self.folder / "predictions" / f"{METHODS[method].trained_on}{over}" / f"{method}.jsonl"
        return list(read_jsonl(path)) if path.exists() else []

    def frame(self, method: str) -> pandas.DataFrame:
        """A method's predictions as a frame, a row a question, with the columns of its JSONL.

        Raises:
            UserError: An unknown method, or one that the run has no predictions of; pandas is not installed.
        """
        rows = self.predictions(method) if method in METHODS else []
        if not rows:
            raise UserError(f"{self.folder}: has no predictions of '{method}'{nearest(method, METHODS)}. Name another.")
        try:
            import pandas
        except ImportError as error:
            raise UserError("Run.frame needs pandas. Install it, or make a frame of Run.predictions.") from error
        return pandas.DataFrame(rows)

    def rankings(self) -> list[dict[str, Any]]:
        """How well candidates are ranked, by the retriever, the reranker, and after the query likelihood where it is asked."""
        paths = (self.folder / part / "retrieval.json" for part in ("reranker", "predictions/rationales_silver"))
        return [row for path in paths if path.exists() for row in read_json(path)]

    def finished(self, stage: str) -> Path:
        """The folder of a stage; see `kard.artifacts.folders.finished`."""
        return finished(self.folder, stage)

    def key(self, stage: str) -> str:
        """The key that a finished stage was made for."""
        return str((manifest_of(self.finished(stage)) or {}).get("key"))

    def documents_key(self) -> str:
        """The key of the version of the documents that is read, above 0."""
        return str((manifest_of(version_folder(self.folder, self.documents)) or {}).get("key"))

    def retriever(self) -> Retriever:
        """What finds passages."""
        from kard.retrieval.index import load_retriever
        from kard.retrieval.milvus import check_asked

        if not self.online:
            check_asked(self.recipe.retriever)
        index = self.searched("index")
        with damage_explained(index):
            return load_retriever(self.recipe.retriever, index)

    def reranker(self) -> Reranker | CrossReranker:
        """The trained reranker, with the passage vectors that the run has computed so far."""
        from kard.reranker.load import open_reranker

        trained, section = self.finished("reranker"), self.recipe.reranker
        has_own = section.kind == "cross_encoder" or section.learns_passages or self.own_vectors.exists()
        store = self.own_vectors if has_own else self.passage_vectors()
        if not has_own and not store.exists():
            say(
                f"  {store}: no passage vectors here (was reranker.model moved or changed?). Passages are encoded again"
            )
        texts = self.passages().texts
        with damage_explained(trained):
            temperature = read_json(trained / "training.json")["tau_question"]
            return open_reranker(trained / "model", section, store, texts, temperature)

    def student(self, trained_on: str, engine: str | None = None) -> Student:
        """A trained student, ready to write with ``transformers``, ``int8``, an engine that `gguf` knows, or the recipe's.

        Raises:
            UserError: As `gguf`, or llama.cpp is not installed.
        """
        folder = self.finished(f"students/{trained_on}")
        if engine not in (None, "transformers", "int8"):
            from kard.student.llama_cpp import gguf_student

            return gguf_student(folder, self.gguf(str(engine)))
        with damage_explained(folder):
            from kard.student.generation import Student

            section = self.recipe.evaluation
            return Student.load(folder, self.online, engine or section.engine, section.vllm)

    def gguf(self, engine: str) -> Path:
        """The file that an engine of a command's choice writes from: ``llama_cpp`` from an export's GGUF file.

        Raises:
            UserError: There is no such engine, or no such file.
        """
        if engine != "llama_cpp":
            raise UserError(
                f"--engine {engine}: choose int8, llama_cpp or transformers, or leave it out for the recipe's engine."
            )
        found = list((self.folder / GGUF).glob("*.gguf"))
        if not found:
            raise UserError(
                f"{self.folder}: has no GGUF file. Make an export with one: kard export RUN DIR --gguf q8_0."
            )
        return self.finished(GGUF) / found[0].name

    def passage_vectors(self) -> Path:
        """Where the passage vectors lie that ``reranker.model`` makes; another encoder has another folder."""
        from kard.models.weights import model_identity
        from kard.reranker.vectors import vectors_folder

        section = self.recipe.reranker
        identity: object = model_identity(section.model, "reranker.model")
        if section.interaction == "paper":  # a linear layer on top, by the seed
            identity = [identity, section.interaction, self.recipe.seed]
        return vectors_folder(self.folder, identity, section.passage_tokens, section.vectors)

    @property
    def own_vectors(self) -> Path:
        """Where the passage vectors lie that belong to the trained reranker: those of an export, which does not need the model
        that the reranker was trained from, and those of a passage side that was trained as well."""
        return self.folder / "reranker" / "vectors"
