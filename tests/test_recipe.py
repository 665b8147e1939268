"""A recipe is checked before anything runs: unknown keys, bad values, overrides, paths."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kard.errors import UserError
from kard.recipe.file import dump_recipe, load_recipe, recipe_from_run, shipped_recipes
from kard.recipe.recipe import Recipe
from kard.recipe.sections import EvaluationSection, KnowledgeSection, QuestionsSection, RetrieverSection, StudentSection
from kard.recipe.teacher import TeacherSection
from kard.stages.plan import plan

LEAST = "questions: {path: q.jsonl}\nknowledge: {path: p.jsonl}\n"


@pytest.fixture
def write(tmp_path):
    """Writes a recipe and gives its path as text."""

    def write(content: str | bytes, name: str = "recipe.yaml") -> str:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return str(tmp_path / name)

    return write


def complaint(path: str, overrides: list[str] | None = None) -> str:
    with pytest.raises(UserError) as error:
        load_recipe(path, overrides)
    return str(error.value)


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_loads(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert load_recipe(name) == recipe


@pytest.mark.parametrize(
    ("dataset", "encoder", "student"),
    [
        ("medqa", "BioLinkBERT-base", "flan-t5-base"),
        ("strategyqa", "LinkBERT-base", "t5-v1_1-base"),
        ("openbookqa", "LinkBERT-base", "t5-v1_1-base"),
    ],
)
def test_the_papers_recipes_have_its_settings(dataset, encoder, student, tmp_path):
    recipe = load_recipe(f"paper-{dataset}")
    assert (recipe.questions.kind, recipe.knowledge.kind) == (dataset, "wikipedia")
    retriever, teacher, reranker = recipe.retriever, recipe.teacher, recipe.reranker
    assert (retriever.analyzer, retriever.k1, retriever.b, retriever.candidates) == ("lucene", 0.9, 0.4, 100)
    assert (teacher.model, teacher.rationales, teacher.sees_answer) == ("gpt-6-luna", 10, True)
    assert (teacher.at_once, teacher.temperature) == (True, None)
    assert teacher.verifier == "google/flan-t5-large"
    assert reranker.model == f"michiyasunaga/{encoder}"
    assert (reranker.kind, reranker.interaction) == ("late_interaction", "paper")
    asked = ("question", "none") if dataset == "strategyqa" else ("question_and_choices", "together")
    assert (retriever.query, reranker.choices) == asked  # yes and no are part of no query
    table1 = {
        "few_shot",
        "few_shot_cot",
        "ka_few_shot_cot",
        "finetune",
        "ka_finetune",
        "distill",
        "kard_bm25",
        "kard_reranker",
    }
    assert table1 | {"ka_few_shot", "kard_silver", "teacher_cot"} == set(recipe.evaluation.methods)
    assert reranker.lr == 1e-4
    assert (reranker.batch_size, reranker.epochs) == (16, 3)
    kappas = (reranker.rationale_candidates, reranker.question_candidates, reranker.step_candidates)
    assert kappas == (32, 32, 8)
    assert (recipe.student.model, recipe.student.method) == (f"google/{student}", "full")
    assert (recipe.student.lr, recipe.student.epochs, recipe.student.batch_size) == (1e-4, 3, 32)
    assert (recipe.student.max_input_tokens, recipe.student.passages, recipe.evaluation.passages) == (512, 1, 1)
    larger = load_recipe(f"paper-{dataset}", ["student.model=google/flan-t5-xl"])
    keys = [{step.name: step.hash for step in plan(one, tmp_path)} for one in (recipe, larger)]
    assert {name.split("/")[0] for name in keys[0] if keys[0][name] != keys[1][name]} == {"students", "predictions"}


def test_the_quickstart_is_shipped():
    assert "quickstart" in shipped_recipes()


def test_defaults_are_filled_in(write):
    recipe = load_recipe(write(LEAST, "my first.yaml"))
    assert recipe.name == "my first"
    assert recipe.retriever == RetrieverSection()
    assert (recipe.retriever.k1, recipe.retriever.b, recipe.retriever.candidates) == (0.9, 0.4, 100)
    assert recipe.output is None


@pytest.mark.parametrize(
    ("content", "key", "nearest", "known"),
    [
        ("retreiver: {}", "retreiver", "retriever", list(Recipe.model_fields)),
        ("student: {learning_rate: 1}", "student.learning_rate", None, list(StudentSection.model_fields)),
        ("student: {lr_: 1}", "student.lr_", "lr", list(StudentSection.model_fields)),
        ("evaluation: {passage: 1}", "evaluation.passage", "passages", list(EvaluationSection.model_fields)),
        ("teacher: {maxwords: 1}", "teacher.maxwords", "max_words", list(TeacherSection.model_fields)),
    ],
)
def test_an_unknown_key_names_the_nearest_and_all(write, content, key, nearest, known):
    path = write(LEAST + content)
    message = complaint(path)
    assert message.startswith(f"{path}: unknown key '{key}'")
    assert nearest is None or f"(did you mean '{nearest}'?)" in message
    assert message.endswith(f"Known keys here: {', '.join(known)}.")


def test_every_mistake_is_shown_at_once(write):
    message = complaint(write(LEAST + "student: {lr: -1, epochs: many}\nseed: x\n"))
    assert {line.split(": ")[1] for line in message.splitlines()} == {"student.lr", "student.epochs", "seed"}


# A short text that is ten million values with its aliases written out.
ALIASES = "teacher:\n  extra_body:\n    k0: &k0 x\n" + "".join(
    f"    k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 10)}]\n" for n in range(1, 8)
)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a: [1, 2", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
        ("\tx: 1", "not valid YAML"),
        ("a: !!python/object:os.system {}", "not valid YAML"),
        ("name: 2026-13-01", "not valid YAML"),
        ("[" * 600, "not valid YAML"),
        (ALIASES, "its aliases make more than 100,000 values"),
        ("teacher: {extra_body: &a {x: *a}}", "its aliases make more than 100,000 values"),
        (b"name: caf\xe9", "not UTF-8"),
        ("- a\n- b", "a recipe is a mapping of sections, this is a list"),
        ("just words", "this is a str"),
        ("", "key 'questions' is missing"),
        ("# nothing but remarks", "key 'questions' is missing"),
        ("questions: {path: q}", "key 'knowledge' is missing"),
        (LEAST + "student: {lr: 1}\nreranker: {}\nstudent: {epochs: 2}", "key 'student' is there twice"),
        (LEAST + "student: {lr: 1, epochs: 2, lr: 3}", "key 'lr' is there twice"),
    ],
)
def test_what_is_no_recipe_says_why(write, content, says):
    path = write(content)
    message = complaint(path)
    assert message.startswith(f"{path}: ")
    assert says in message


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("student: {lr: 0}", "student.lr"),
        ("student: {lr: fast}", "student.lr"),
        ("student: {epochs: -1}", "student.epochs"),
        ("student: {answer_as: number}", "student.answer_as"),
        ("student: {lora_rank: 0}", "student.lora_rank"),
        ("student: 5", "student"),
        ("student: [lr]", "student"),
        ("retriever: {b: 1.1}", "retriever.b"),
        ("retriever: {k1: 0}", "retriever.k1"),
        ("retriever: {candidates: 0}", "retriever.candidates"),
        ("retriever: {kind: bm42}", "retriever.kind"),
        ("evaluation: {methods: [1]}", "evaluation.methods.0"),
        ("reranker: {tau_rationale: never}", "reranker.tau_rationale"),
        ("seed: 1.5", "seed"),
        ("seed: -1", "seed"),
        ("data_seed: 4294967296", "data_seed"),
        ("student: {lr: .inf}", "student.lr"),
        ("reranker: {step_candidates: 1}", "reranker.step_candidates"),
        ("name: [a]", "name"),
        ("teacher: {kind: openai}", "teacher"),
        ("teacher: {kind: openai, model: m, rationales: 2, temperature: 0}", "teacher"),
        ("teacher: {kind: openai, model: m, base_url: localhost}", "teacher"),
        ("teacher: {resources: {max_usd: 1}}", "teacher.resources"),
        ("teacher: {extra_body: {max_tokens: -1}}", "teacher"),
        ("teacher: {base_url: 'http://[bad/v1'}", "teacher"),
        ("teacher: {base_url: 'http://host:99999/v1'}", "teacher"),
        ("teacher: {base_url: 'http:///v1'}", "teacher"),
        ("teacher: {extra_body: {user: 2026-01-01}}", "teacher"),
    ],
)
def test_a_bad_value_names_file_key_and_what_was_found(write, content, key):
    path = write(LEAST + content)
    for line in complaint(path).splitlines():
        assert line.startswith(f"{path}: {key}")
        assert "(found " in line
        assert line.endswith("Mend the recipe.")


@pytest.mark.parametrize(
    ("questions", "fits"),
    [
        ("{path: q}", True),
        ("{train: a, test: b}", True),
        ("{train: a, dev: c, test: b}", True),
        ("{kind: wikivital}", True),
        ("{}", False),
        ("{train: a}", False),
        ("{dev: a}", False),
        ("{path: q, train: a}", False),
        ("{path: q, test: b}", False),
        ("{path: q, dev: b}", False),
        ("{path: q, train: a, test: b}", False),
        ("{kind: wikivital, path: q}", False),
        ("{kind: wikivital, dev: q}", False),
    ],
)
def test_question_files_are_one_or_apart(write, questions, fits):
    path = write(f"questions: {questions}\nknowledge: {{path: p}}\n")
    if fits:
        load_recipe(path)
    else:
        assert f"{path}: questions: kind " in complaint(path)


@pytest.mark.parametrize(
    ("knowledge", "fits"),
    [("{path: p}", True), ("{kind: wikivital}", True), ("{}", False), ("{kind: wikivital, path: p}", False)],
)
def test_knowledge_takes_a_path_where_its_kind_does(write, knowledge, fits):
    path = write(f"questions: {{path: q}}\nknowledge: {knowledge}\n")
    if fits:
        load_recipe(path)
    else:
        assert "knowledge: kinds wikivital and wikipedia take no path, and the other kinds take one" in complaint(path)


def test_no_secret_is_shown(write):
    for content in ("{resources: {api_key_env: sk-123abc}}", "{base_url: 'http://me:sk-123abc@host/v1'}"):
        assert "sk-123abc" not in complaint(write(f"{LEAST}teacher: {content}"))


def test_overrides_win_over_the_file(write):
    path = write(LEAST + "student: {lr: 0.1, epochs: 2}\n")
    recipe = load_recipe(
        path,
        [
            "student.lr=1e-3",
            "reranker.tau_rationale=0.5",
            "evaluation.methods=[finetune, distill]",
            "student.train_questions=null",
            "seed = 7",
            "name=a=b",
            "teacher.extra_body.top_k=3",
            "teacher.extra_body.min_p=0.1",
            "student.trim_vocabulary=true",
            "questions.path=o ther.jsonl",
            "seed=8",
        ],
    )
    assert (recipe.student.lr, recipe.student.epochs, recipe.student.trim_vocabulary) == (0.001, 2, True)
    assert recipe.reranker.tau_rationale == 0.5
    assert recipe.evaluation.methods == ("finetune", "distill")
    assert recipe.student.train_questions is None
    assert (recipe.seed, recipe.name) == (8, "a=b")
    assert recipe.teacher.extra_body == {"top_k": 3, "min_p": 0.1}
    assert recipe.questions.path == Path(path).parent / "o ther.jsonl"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("student.lr", "write it as section.key=value"),
        ("student.lr=[1", "not valid YAML"),
        ("seed=2026-13-01", "not valid YAML"),
        ("questions.path.x=1", "'path' holds a value, not keys"),
        ("student.lrr=1", "did you mean 'lr'?"),
        ("studnet.lr=1", "did you mean 'student'?"),
        ("student.lr=-1", "student.lr"),
        ("student=1", "student"),
        ("=1", "unknown key ''"),
    ],
)
def test_a_bad_override_says_what_is_wrong(write, override, says):
    assert says in complaint(write(LEAST), [override])


def test_relative_paths_are_meant_from_the_recipes_folder(tmp_path, monkeypatch):
    folder = tmp_path / "mein Ordner" / "ünï"
    folder.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    content = """
questions: {train: a/t.jsonl, dev: ../d.jsonl, test: /abs/e.jsonl}
knowledge: {path: wörter liste.jsonl}
teacher: {prompt: p.txt}
output: runs/mine
"""
    (folder / "rezept é.yaml").write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name in (str(folder / "rezept é.yaml"), "../mein Ordner/ünï/rezept é.yaml"):
        recipe = load_recipe(name)
        assert recipe.questions.train.resolve() == folder / "a" / "t.jsonl"
        assert recipe.questions.dev.resolve() == folder.parent / "d.jsonl"
        assert recipe.questions.test == Path("/abs/e.jsonl")
        assert recipe.knowledge.path.resolve() == folder / "wörter liste.jsonl"
        assert recipe.teacher.prompt.resolve() == folder / "p.txt"
        assert recipe.output.resolve() == folder / "runs" / "mine"
        assert recipe.name == "rezept é"


def test_paths_of_a_shipped_recipe_are_meant_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe("quickstart", ["output=here"]).output == tmp_path / "here"


def test_a_file_wins_over_a_shipped_name_and_a_mark_at_its_start_is_nothing(write, tmp_path, monkeypatch):
    write("\ufeff" + LEAST + "seed: 3", "quickstart")
    monkeypatch.chdir(tmp_path)
    assert load_recipe("quickstart").seed == 3


@pytest.mark.parametrize("name", ["quikstart", "no/such/file.yaml", ".", ""])
def test_no_such_recipe_shows_the_shipped_ones(name):
    message = complaint(name)
    assert message.startswith(f"{name}: no such recipe file")
    assert message.endswith(f"or one of: {', '.join(shipped_recipes())}.")
    assert ("(did you mean 'quickstart'?)" in message) == (name == "quikstart")


def test_a_recipe_is_frozen(write):
    recipe = load_recipe(write(LEAST))
    with pytest.raises(ValidationError, match="frozen"):
        recipe.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        recipe.student.lr = 1.0


# YAML takes U+0085, U+2028 and U+2029 for ends of lines and folds them; a recipe has no use for them.
names = st.text(st.characters(codec="utf-8", exclude_characters="\x00\x85\u2028\u2029"), max_size=20)
recipes = st.builds(
    Recipe,
    name=names.filter(bool),  # without one, it is called after its file
    seed=st.integers(0, 2**32 - 1),
    questions=st.builds(
        QuestionsSection,
        path=names.filter(bool).map(lambda name: Path("/") / name),
        train_size=st.none() | st.integers(1),
        shuffle_choices=st.booleans(),
    ),
    knowledge=st.builds(KnowledgeSection, path=st.just(Path("/p q/ü.jsonl")), id_prefix=names),
    retriever=st.builds(RetrieverSection, k1=st.floats(1e-9, 1e9), language=st.none() | names),
    teacher=st.builds(TeacherSection, model=st.none() | names),
    evaluation=st.builds(EvaluationSection, methods=st.lists(names).map(tuple)),
    output=st.none() | st.just(Path("/o")),
)


@settings(max_examples=40)
@given(recipes)
def test_what_a_run_keeps_is_the_recipe(tmp_path_factory, recipe):
    run = tmp_path_factory.getbasetemp()
    (run / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert recipe_from_run(run) == recipe
    assert load_recipe(str(run / "recipe.yaml")) == recipe


@pytest.mark.parametrize("name", shipped_recipes())
def test_what_a_run_keeps_of_a_shipped_recipe_is_the_recipe(tmp_path, name):
    recipe = load_recipe(name)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert recipe_from_run(tmp_path) == recipe


def test_a_run_without_a_whole_recipe_says_so(tmp_path):
    with pytest.raises(UserError, match=r"recipe\.yaml: missing\. Run the recipe again"):
        recipe_from_run(tmp_path)
    (tmp_path / "recipe.yaml").write_text("questions: {path: ", encoding="utf-8")
    with pytest.raises(UserError, match=r"recipe\.yaml: not valid YAML"):
        recipe_from_run(tmp_path)
