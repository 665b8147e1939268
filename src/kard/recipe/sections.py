"""The sections of a recipe, but for the teacher's."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from kard.recipe.base import NotNegative, PathIn, Positive, Section, Share, Size

OWN = "own"  # the knowledge base of the run itself, among others
GeneratedKind = Literal["multiple_choice", "yes_no", "short", "comparison", "unanswerable"]
GENERATED_KINDS: tuple[GeneratedKind, ...] = get_args(GeneratedKind)
# Keys of `questions` that only kind generated reads.
GENERATION = ("kinds", "rationales", "keep_known", "reviewed")
# Kinds of questions that are there without a file: from the hub, from a package, or made by the teacher.
PUBLISHED = ("wikivital", "medqa", "strategyqa", "openbookqa", "arc", "pubmedqa", "generated")


class QuestionsSection(Section):
    """Where questions come from and how many are used."""

    kind: Literal[
        "jsonl", "table", "chat", "squad", "hotpotqa", "beir", "msmarco",
        "wikivital", "medqa", "strategyqa", "openbookqa", "arc", "pubmedqa", "generated",
    ] = "jsonl"  # fmt: skip
    path: PathIn | None = Field(
        None,
        description="one file, split into train, dev and test by the seed; beir, msmarco: the folder, in its own split",
    )
    train: PathIn | None = Field(None, description="training questions (with dev and test instead of path)")
    dev: PathIn | None = None
    test: PathIn | None = None
    train_size: Size | None = Field(
        None,
        description="how many are used; null means all. generated: how many are asked for, of which filters keep fewer",
    )
    dev_size: Size | None = None
    test_size: Size | None = None
    columns: dict[str, str] = Field(
        {},
        description="table: what your file calls question, answer, id, rationales, gold_passages; of choices, what the names of "
        "their columns begin with",
    )
    shuffle_choices: bool = Field(
        False, description="reorder the choices by the seed, where the order leaks the answer"
    )
    kinds: tuple[GeneratedKind, ...] = Field(
        GENERATED_KINDS[:3],
        description="generated: what is asked for, about as often each; a kind that stands twice, twice",
    )
    rationales: bool = Field(
        True,
        description="generated: the teacher explains an answer in the same reply; false: in a request of its own, later",
    )
    keep_known: bool = Field(
        False,
        description="generated: use questions that the teacher answers without their passage too; it isn't asked then",
    )
    reviewed: PathIn | None = Field(None, description="generated: what people decided about questions, as JSONL")

    @property
    def sizes(self) -> dict[str, int | None]:
        """How many questions of each split, where the recipe says."""
        return {"train": self.train_size, "dev": self.dev_size, "test": self.test_size}

    @model_validator(mode="after")
    def _generation_fits(self) -> QuestionsSection:
        if self.kind != "generated":
            known = type(self).model_fields
            if given := [name for name, value in self if name in GENERATION and value != known[name].default]:
                raise ValueError(f"kind {self.kind} has no {', '.join(given)}: remove it")
        elif not (self.train_size and self.test_size):
            raise ValueError(
                "kind generated needs train_size and test_size: how many questions the teacher is asked for"
            )
        elif self.shuffle_choices:
            raise ValueError("kind generated puts the right choices into all places alike: remove shuffle_choices")
        elif not set(self.kinds) - {"unanswerable"}:
            raise ValueError("kinds names none that has an answer: add one, as short")
        return self

    @model_validator(mode="after")
    def _files_fit(self) -> QuestionsSection:
        separate = bool(self.train or self.dev or self.test)
        whole = bool(self.path) != separate and (not separate or bool(self.train and self.test))
        if self.kind in ("wikivital", "generated") and (self.path or separate):
            raise ValueError(f"kind {self.kind} brings its own questions: remove path, train, dev and test")
        if self.kind in ("beir", "msmarco") and (separate or not self.path):
            raise ValueError(f"kind {self.kind} takes path, the folder, which has its own split")
        if not (whole or (self.kind in PUBLISHED and not self.path and not separate)):
            raise ValueError(f"kind {self.kind} takes path (one file, split by the seed), or train and test (and dev)")
        if self.columns and self.kind != "table":
            raise ValueError(f"kind {self.kind} has no columns: remove them")
        return self

    @property
    def has_files(self) -> bool:
        """Whether the questions are read from files of the user's."""
        return bool(self.path or self.train)


class KnowledgeSection(Section):
    """The documents, and how they are cut into passages."""

    kind: Literal[
        "jsonl", "csv", "parquet", "mediawiki", "files", "squad", "hotpotqa", "strategyqa", "beir", "msmarco",
        "wikivital", "wikipedia",
    ] = "jsonl"  # fmt: skip
    path: PathIn | None = Field(None, description="a file, or a folder of files of the kind")
    columns: dict[str, str] = Field(
        {}, description="jsonl, csv, parquet: what your file calls id, title, text and url, where it is something else"
    )
    metadata: tuple[str, ...] | None = Field(
        None, description="the keys of documents that are kept to filter by (groups always is); null: all"
    )
    id_prefix: str = Field("", description="take only documents whose id begins like this")
    passage_words: Size = Field(
        100, description="longer documents are cut at sentence ends into passages of at most this"
    )
    duplicates: Share | None = Field(
        0.9,
        description="leave out a passage that has this share of its text in common with an earlier one; "
        "1: only the same text; null: keep all",
    )

    @model_validator(mode="after")
    def _path_fits(self) -> KnowledgeSection:
        if self.kind.startswith("wiki") == (self.path is not None):
            raise ValueError("kinds wikivital and wikipedia take no path, and the other kinds take one")
        if unknown := set(self.columns) - {"id", "title", "text", "url"}:
            raise ValueError(f"columns names {', '.join(sorted(unknown))}: it can name id, title, text and url")
        if self.columns and self.kind not in ("jsonl", "csv", "parquet"):
            raise ValueError(f"kind {self.kind} has no columns: remove them")
        return self


class RetrieverSection(Section):
    """What finds passages: BM25 (with Lucene's k1 and b, as in the paper), vectors, or both."""

    kind: Literal["bm25", "dense", "hybrid"] = "bm25"
    analyzer: Literal["standard", "lucene"] = Field(
        "standard", description="how texts become words; lucene: as by Lucene's English analyzer, which the paper used"
    )
    k1: Positive = 0.9
    b: Annotated[float, Field(ge=0, le=1)] = 0.4
    language: str | None = Field(
        "auto",
        description="whose stemmer and stop words are used: a language, as german; auto: the passages' own; null: none",
    )
    query: Literal["question", "question_and_choices"] = Field(
        "question_and_choices", description="what of a question is the query (the paper's x holds the choices)"
    )
    candidates: Size = Field(100, description="κ*: passages handed to the reranker at test time")
    encoder: str = Field(
        "", description="dense, hybrid: a sentence-transformers model: hub id, folder, package:NAME; they need one"
    )
    milvus: str | None = Field(
        None,
        description="search with Milvus: a server's URL (its token in MILVUS_TOKEN), or a file for Milvus Lite; null: without",
    )

    @model_validator(mode="after")
    def _language_fits(self) -> RetrieverSection:
        if self.analyzer == "lucene" and self.language not in ("auto", "english"):
            raise ValueError("analyzer lucene is for English: remove language")
        return self


class RerankerSection(Section):
    """The reranker and its training (KARD equation 4)."""

    kind: Literal["late_interaction", "cross_encoder"] = Field(
        "late_interaction",
        description="late_interaction: passage vectors are kept; cross_encoder: reads every pair anew, far slower",
    )
    model: str = Field("", description="encoder: hub id, folder, or package:NAME; methods that rerank need one")
    train_questions: Size | None = Field(None, description="how many training questions it learns from; null: all")
    interaction: Literal["normalized", "paper"] = Field(
        "normalized",
        description="late_interaction: how token vectors meet. normalized: cosine, mean over the question's tokens; "
        "the question side learns. paper: one model with a linear layer on top, dot products, their sum; both sides learn, by "
        "LoRA on query and value, with dropout and a constant learning rate after 5 % of the steps",
    )
    choices: Literal["each", "together", "none"] = Field(
        "each", description="how it reads choices: a query for each, one with all of them (the paper), or not at all"
    )
    rationale_candidates: Size = Field(16, description="κ1: candidates by rationale")
    question_candidates: Size = Field(16, description="κ2: candidates by question")
    step_candidates: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="candidates of a rationale in a step, drawn anew in each epoch, half of them from those by question; "
        "null: the whole set",
    )
    tau_rationale: Positive | Literal["auto"] = Field("auto", description="τ1, over BM25 scores")
    tau_question: Positive | Literal["auto"] = Field(
        "auto",
        description="τ2, over the reranker's scores; auto is 1 for a cross_encoder, whose last layer learns its scale",
    )
    epochs: Positive = 1.0
    batch_size: Size = Field(16, description="candidate sets a step")
    lr: Positive = 1e-4
    frozen_layers: Annotated[int, Field(ge=0)] = Field(
        0, description="lowest layers of the question side that stay as they are, with the embeddings: faster"
    )
    question_tokens: Size = 128
    passage_tokens: Size = 128
    vectors: Literal["fp16", "int8"] = Field(
        "fp16", description="how passage vectors are kept; int8 takes half the disk"
    )
    retriever_weight: NotNegative = Field(
        0.0, description="a: times the retriever's score of a passage for the question, added to the reranker's score"
    )
    title_weight: NotNegative = Field(
        0.0, description="b: added to the reranker's score of a passage whose title is one of the question's choices"
    )
    likelihood_weight: Positive | None = Field(
        None,
        description="λ: the student reads the passages close to the first as well, and is taught to: a passage's probability "
        "is multiplied by p(question | passage)^λ, by which they are put in order; null: no second look",
    )

    @property
    def learns_passages(self) -> bool:
        """Whether the passage side learns too, so that candidates are encoded in every step."""
        return self.interaction == "paper"

    @property
    def has_score_features(self) -> bool:
        """Whether anything is added to the scores."""
        return bool(self.retriever_weight or self.title_weight)

    @model_validator(mode="after")
    def _kind_fits(self) -> RerankerSection:
        if self.interaction == "paper" and self.kind != "late_interaction":
            raise ValueError("interaction paper has one model for both sides: set kind: late_interaction")
        if self.interaction == "paper" and self.frozen_layers:
            raise ValueError("interaction paper trains all layers, or adapters on all: remove frozen_layers")
        return self


class StudentResources(Section):
    """What changes the speed and memory of training alone."""

    gradient_checkpointing: bool = Field(False, description="less memory, about a third more time")
    compile: bool = Field(False, description="torch.compile: for long trainings; the first steps take minutes")


class StudentSection(Section):
    """The small language model and its training."""

    model: str = Field("", description="T5 or decoder: hub id, folder, GGUF file, package:NAME; all methods need one")
    train_questions: Size | None = Field(None, description="how many training questions it learns from; null: all")
    rationales: Size | None = Field(None, description="l: rationales a question in an epoch; null: all that were kept")
    passages: Size = Field(1, description="k: silver passages in a training prompt")
    answer_as: Literal["text", "letter", "both"] = Field("text", description="how the answer is written")
    answer_by: Literal["choices", "generate", "likelihood"] = Field(
        "choices",
        description="choices: once it writes the answer, only a choice can follow; generate: anything can; "
        "likelihood: the choice that is likeliest as a whole",
    )
    method: Literal["lora", "full"] = "lora"
    lora_rank: Size = 16
    quantized: bool = Field(
        False,
        description="lora: the weights that do not learn in 4 bit while training (QLoRA), for students of 7B and more; needs "
        "bitsandbytes",
    )
    lora_targets: Literal["all", "attention"] = Field("all", description="which linear layers get adapters")
    epochs: Positive = 1.0
    early_stopping: Size | None = Field(
        None,
        description="stop when the dev loss has not got lower for so many epochs, and keep the best; null: do not",
    )
    batch_size: Size = Field(8, description="examples that are computed at once")
    gradient_accumulation: Size = Field(1, description="a step is on batch_size times this many examples")
    lr: Positive = 5e-4
    schedule: Literal["linear", "constant"] = Field(
        "linear", description="what lr does after 5 % of the steps: it falls to 0, or stays"
    )
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto",
        description="auto: bf16 where the hardware computes in it; on GPUs without it fp16, and fp32 for T5 and Gemma, which "
        "overflow in fp16",
    )
    max_input_tokens: Size = 512
    max_output_tokens: Size = 128
    long_questions: Literal["cut", "stop"] = Field(
        "cut",
        description="a question that does not fit into max_input_tokens: cut it at the front, counted; or stop the run",
    )
    trim_vocabulary: bool = Field(False, description="keep only the tokens that questions, passages and rationales use")
    resources: StudentResources = StudentResources()

    @model_validator(mode="after")
    def _quantized_fits(self) -> StudentSection:
        if self.quantized and self.method != "lora":
            raise ValueError("quantized: weights in 4 bit cannot learn. Set method: lora, or quantized: false")
        return self


class EvaluationResources(Section):
    """What changes speed and memory alone."""

    batch_size: Size = Field(64, description="texts written at once")


class AbstainSection(Section):
    """Calibrated confidence, and when no answer is given."""

    risk: Share | None = Field(
        None,
        description="share of the given answers that may be wrong: dev questions are answered as well, and say from which "
        "calibrated confidence on this holds (with 95 % confidence); less sure answers are withheld. 1: calibrate alone; "
        "null: neither",
    )


class EvaluationSection(Section):
    """What is measured."""

    methods: tuple[str, ...] = ("finetune", "distill", "kard_bm25", "kard_reranker", "kard_silver")
    split: Literal["test", "dev"] = Field(
        "test", description="dev: compare settings without looking at the test questions"
    )
    passages: Size = Field(1, description="k: passages in a test prompt")
    shots: Size = Field(
        5,
        description="few_shot methods: worked examples in a prompt; fewer where they do not fit into what the model can read, "
        "at most 4096 tokens",
    )
    engine: Literal["transformers", "int8", "vllm"] = Field(
        "transformers",
        description="what writes; int8: as transformers, but CPUs multiply in 8 bits, 1.1 to 1.4 times as quick in batches; "
        "vllm: for decoders on a GPU, has to be installed",
    )
    vllm: dict[str, Any] = Field(
        {},
        description="options of vLLM's own, as {gpu_memory_utilization: 0.6, tensor_parallel_size: 2, max_model_len: 2048}",
    )
    samples: Size = Field(
        1,
        description="texts drawn for each prompt, as in the paper's code; the answer is their majority's. 1: the likeliest text",
    )
    knowledge: dict[Annotated[str, Field(pattern="^[a-z0-9_]{1,40}$")], KnowledgeSection] = Field(
        {},
        description="other documents by names of your own, each with the keys of knowledge: the same students and reranker "
        "answer the same questions over them as well",
    )
    abstain: AbstainSection = AbstainSection()
    resources: EvaluationResources = EvaluationResources()

    @field_validator("vllm")
    @classmethod
    def _vllm_options(cls, value: dict[str, Any]) -> dict[str, Any]:
        if fixed := sorted({"model", "tokenizer", "dtype", "generation_config", "trust_remote_code"} & value.keys()):
            raise ValueError(f"vllm cannot set {', '.join(fixed)}: the student says them. Leave them out")
        return value

    @model_validator(mode="after")
    def _names_are_free(self) -> EvaluationSection:
        if OWN in self.knowledge:
            raise ValueError(f"knowledge: '{OWN}' is the name of the run's own documents. Choose another")
        return self

    @model_validator(mode="after")
    def _split_fits(self) -> EvaluationSection:
        if self.abstain.risk is not None and self.split == "dev":
            raise ValueError("abstain learns from the dev questions, which split: dev measures. Take split: test")
        return self
