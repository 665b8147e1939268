"""The command line: each command is a typed function, its help and its docs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kard.cli.arguments import (
    CandidateFile,
    EngineName,
    Filter,
    MethodName,
    Output,
    Overrides,
    RecipeName,
    RunFolder,
)
from kard.cli.documents import docs
from kard.cli.init import init
from kard.cli.output import AsJson, print_json, show
from kard.cli.questions import questions, review
from kard.cli.serving import export, mcp, serve
from kard.errors import printable

app = typer.Typer(
    name="kard",
    epilog="Words such as silver, oracle and second look are explained in docs/glossary.md and at the end of every report.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

rerank = typer.Typer(
    help="Train or measure a reranker alone. It takes a file of candidates: JSONL.",
    no_args_is_help=True,
)
app.add_typer(rerank, name="rerank")
app.add_typer(docs, name="docs")
app.add_typer(questions, name="questions")
app.command()(review)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"kard {version('kard')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Teach a small language model to reason over your documents (knowledge-augmented reasoning distillation)."""


app.command()(init)


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes.

    Editors complete and check recipe.yaml with it.
    """
    from kard.recipe.file import recipe_schema

    print_json(recipe_schema())


@app.command()
def run(
    recipe: RecipeName,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show stages, sizes and what is done; run nothing.")
    ] = False,
    until: Annotated[str | None, typer.Option(help="Stop after this stage.")] = None,
    override: Overrides = None,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Run a recipe, or go on where an earlier run stopped."""
    from kard.recipe.file import load_recipe

    loaded = load_recipe(recipe, override)
    folder = output or loaded.output or Path("runs") / loaded.name
    from kard.pipeline import run_recipe
    from kard.stages.plan import check_stage

    check_stage(until)
    if dry_run:
        _show_states(loaded, folder, until, as_json)
        return
    results = run_recipe(loaded, folder, until)
    if results is not None:
        from kard.report.table import summary_table
        from kard.tools.show import last_lines

        show(as_json, results, [summary_table(results), *last_lines(folder)])


@app.command()
def sweep(
    recipe: RecipeName,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUES",
            help="A key and its values: section.key=1,2,3 (key,key=1,2,3: both change together). Repeated: a grid.",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Train each setting with so many seeds, on the same questions.")
    ] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show runs and what they share; run nothing.")] = False,
    override: Overrides = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The folder (default: sweeps/NAME).")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a recipe under several settings and seeds.

    What runs have in common is made once; the same command goes on where a sweep stopped.
    """
    from kard.tools.sweep import plan_sweep, run_sweep, sweep_command

    typed = sweep_command(recipe, vary or [], seeds, override or [], output)
    planned = plan_sweep(recipe, vary or [], seeds, override or [], output, typed)
    if dry_run:
        from kard.tools.dryrun import sweep_rows, sweep_table

        rows = sweep_rows(planned)
        show(as_json, rows, [sweep_table(planned.folder, rows)])
        return
    results = run_sweep(planned)
    if results is not None:
        from kard.report.table import comparison_tables

        show(as_json, results, [*comparison_tables(results), f"Report: {planned.folder / 'index.html'}"])


@app.command()
def status(run: RunFolder, as_json: AsJson = False) -> None:
    """Show what of a run is done, and how long the rest will take."""
    from kard.artifacts.folders import check_stages
    from kard.data.sources import warn_of_changes
    from kard.recipe.file import recipe_from_run

    check_stages(run)
    _show_states(recipe_from_run(run), run, as_json=as_json)
    warn_of_changes(run, questions=True)


@app.command("show")
def show_stage(
    run: RunFolder,
    stage: Annotated[str, typer.Argument(help="A stage, e.g. rationales, candidates, predictions; or mistakes.")],
    count: Annotated[int, typer.Option("--count", "-n", help="How many samples.")] = 5,
    seed: Annotated[int, typer.Option(help="Which samples.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Read samples of what a stage wrote.

    Also of one that is not finished, as far as it has written anything: rationales with the reason why each was rejected.
    """
    from kard.tools.show import sample_lines, sample_rows

    show(as_json, sample_rows(run, stage, count, seed) if as_json else None, sample_lines(run, stage, count, seed))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(hidden=True)],
    as_json: AsJson = False,
) -> None:
    """Print results: of a run, of several, or of a sweep.

    RUNS are folders: one run, several to put side by side (seeds of a recipe together), or one sweep.
    """
    from kard.evaluation.several import read_results, side_by_side
    from kard.report.table import comparison_tables, summary_table
    from kard.tools.sweep import is_sweep, read_sweep

    if len(runs) > 1:
        several = side_by_side(runs)
        show(as_json, several, comparison_tables(several))
    elif is_sweep(runs[0]):
        swept = read_sweep(runs[0])
        show(as_json, swept, [*comparison_tables(swept), f"Report: {runs[0] / 'index.html'}"])
    else:
        results, page = read_results(runs[0]), runs[0] / "report" / "index.html"
        where = f"Report: {page}" if page.exists() else f"Model card: {runs[0] / 'README.md'}"
        show(as_json, results, [summary_table(results), where])


@app.command()
def answer(
    run: RunFolder,
    question: Annotated[str, typer.Argument(help="The question.")],
    choice: Annotated[
        list[str] | None, typer.Option("--choice", "-c", metavar="TEXT", help="An option; repeat for each.")
    ] = None,
    method: MethodName = None,
    engine: EngineName = None,
    only: Filter = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question with a finished run, and show what was read."""
    from kard.data.filters import condition_of
    from kard.progress import waiting

    readable = condition_of(only)
    with waiting(f"loading the models of {run} …"):
        from kard.data.sources import warn_of_changes
        from kard.kard import Kard
        from kard.tools.batch import answer_lines, answer_row

        loaded = Kard.load(run, method, engine)
    warn_of_changes(run)
    with waiting("finding passages and writing the answer …"):
        result = loaded.answer(question, choice, readable)
    show(as_json, answer_row(result), answer_lines(result))


@app.command()
def index(recipe: RecipeName, override: Overrides = None, output: Output = None, as_json: AsJson = False) -> None:
    """Build a recipe's passages and index alone."""
    from kard.data.passages import described, report_of
    from kard.pipeline import index_recipe
    from kard.recipe.file import load_recipe

    loaded = load_recipe(recipe, override, without_questions=True)
    folder = output or loaded.output or Path("runs") / loaded.name
    index_recipe(loaded, folder)
    report = report_of(folder / "knowledge")
    lines = [f"{report['passages']:,} passages from {report['documents']:,} documents in {folder}"]
    lines += [f"  {line}" for line in described(report)]
    if report["left_out"]:
        lines.append(f"  all that was left out: {folder / 'knowledge' / 'left_out.jsonl'}")
    show(as_json, {"folder": folder, **report}, [*lines, f'Next: kard search {folder} "a few words"'])


@app.command()
def search(
    run: RunFolder,
    query: Annotated[str, typer.Argument(help="What to look for.")],
    count: Annotated[int, typer.Option("--count", "-k", min=1, help="How many passages.")] = 5,
    only: Filter = None,
    as_json: AsJson = False,
) -> None:
    """Search the index of a run.

    Shows passages with scores, the query's words marked, and where they come from.
    """
    from kard.data.sources import warn_of_changes
    from kard.tools.search import search_run

    found = search_run(run, query, count, only)
    warn_of_changes(run)
    if as_json:
        print_json([row.as_json() for row in found])
        return
    if not found:
        typer.echo(f"Nothing found: no passage{' that the filter leaves' if only else ''} has a word of the query.")
    for number, row in enumerate(found, start=1):
        passage = row.passage
        typer.echo(printable(f"{number}. [{passage.id}] {passage.title} ({row.score:.3f}; {passage.source})"))
        typer.echo(f"   {row.marked(lambda word: typer.style(word, bold=True))}")


@app.command()
def batch(
    run: RunFolder,
    questions: Annotated[Path, typer.Argument(help="JSONL with question and, where there are any, id and choices.")],
    output: Annotated[
        Path, typer.Argument(help="JSONL to write; lines that are there already are not answered again.")
    ],
    method: MethodName = None,
    engine: EngineName = None,
    as_json: AsJson = False,
) -> None:
    """Answer a file of questions."""
    from kard.data.sources import warn_of_changes
    from kard.tools.batch import answer_file

    counts = answer_file(run, questions, output, method, engine)
    warn_of_changes(run)
    said = f"{output}: {counts.answered:,} answered, {counts.there:,} were there"
    show(as_json, {"output": output, "answered": counts.answered, "there": counts.there}, [said])


@rerank.command("train")
def rerank_train(
    candidates: CandidateFile,
    output: Annotated[Path, typer.Argument(help="A new folder; gets the model and its card.")],
    dev: Annotated[Path | None, typer.Option(help="Another file of candidates, ranked before and after.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A key of the recipe's section reranker. May be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Order of the examples.", min=0, max=2**32 - 1)] = 0,
    as_json: AsJson = False,
) -> None:
    """Train a reranker on candidates with target scores.

    By KARD equation 4; the same command goes on where an earlier attempt stopped.
    """
    from kard.artifacts.files import read_json
    from kard.recipe.file import reranker_section
    from kard.tools.rerank import train_file
    from kard.tools.show import ranking_lines

    train_file(candidates, output, reranker_section(setting or []), seed, dev)
    rows = read_json(output / "retrieval.json")
    nothing = "Nothing was measured: name a file of candidates with --dev, or see 'kard rerank eval'."
    lines = [*ranking_lines(rows), *([nothing] if dev is None else []), f"Model: {output / 'model'}"]
    show(as_json, {"model": output / "model", "retrieval": rows}, lines)


@rerank.command("eval")
def rerank_eval(
    model: Annotated[str, typer.Argument(help="What train wrote, or any reranker of sentence-transformers.")],
    candidates: CandidateFile,
    queries: Annotated[Path | None, typer.Option(help="A file for each query's result, JSONL.")] = None,
    as_json: AsJson = False,
) -> None:
    """Rank candidates, and show how often the right passage comes first."""
    from kard.tools.rerank import evaluate_file
    from kard.tools.show import ranking_lines

    rows = evaluate_file(model, candidates, queries)
    show(as_json, {"model": model, "retrieval": rows}, ranking_lines(rows))


for command in (serve, mcp, export):
    app.command()(command)


@app.command()
def doctor(
    recipe: Annotated[
        str | None, typer.Argument(help="A run's folder: check its files. A recipe: say what its index will take.")
    ] = None,
    override: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show what this machine has, or check every file of a run."""
    from kard.recipe.file import load_recipe
    from kard.tools.doctor import check_files, findings, index_needs

    if recipe and Path(recipe).is_dir():
        checked: dict[str, str] = {}
        try:
            for name, value in check_files(Path(recipe)):
                checked[name] = value
        finally:  # also where it ends in an error, because something is damaged
            show(as_json, checked, [f"{name:<32} {value}" for name, value in checked.items()])
        return
    needs = index_needs(load_recipe(recipe, override, without_questions=True)) if recipe else []
    found = [*needs, *findings()]
    show(as_json, dict(found), [f"{name:<24} {value}" for name, value in found])


def _show_states(recipe: Any, folder: Path, until: str | None = None, as_json: bool = False) -> None:
    from kard.tools.dryrun import state_rows, states_table, teacher_lines

    rows = state_rows(recipe, folder, until)
    show(as_json, rows, [] if as_json else [states_table(recipe, folder, rows), *teacher_lines(recipe, folder)])
