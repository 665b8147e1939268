"""Filters against a reference in plain Python; who may not read a document does not learn of it."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kard.data.document_table import DocumentRow, documents_written
from kard.data.filters import EVERYTHING, Access, Restriction, condition_of
from kard.errors import UserError

DOCUMENTS = [
    {"year": 2020, "lang": "de", "tags": ["a", "b"], "day": "2020-01-02"},
    {"year": 2021.5, "lang": "en", "open": True, "day": "2021-03-04"},
    {"year": 2019, "lang": "de", "tags": [], "open": False},
    {"lang": "fr", "year": "2020", "size": "10"},
    {},
    {"lang": "en", "tags": ["b"], "groups": ["staff"], "salary": 5, "hidden": "x", "year": "late"},
    {"groups": [], "lang": "xx", "nobodys": 1},
]
PASSAGES = [2, 1, 0, 3, 1, 1, 1]
OWNERS = np.repeat(np.arange(len(DOCUMENTS)), PASSAGES)


def access(folder, documents=DOCUMENTS, passages=PASSAGES) -> Access:
    with documents_written(folder) as add:
        for number, (metadata, count) in enumerate(zip(documents, passages, strict=True)):
            add(DocumentRow(f"d{number}", "", "d.jsonl:1", count, metadata))
    return Access(folder)


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Access:
    return access(tmp_path_factory.mktemp("documents"))


def found(own: Access, condition, groups=None) -> list[int]:
    """The documents whose passages are left (the third has none)."""
    allowed = own.allowed(Restriction.of(condition, groups))
    every = np.ones(len(OWNERS), dtype=bool)
    return sorted(set(OWNERS[every if allowed is None else allowed].tolist()))


@pytest.mark.parametrize(
    ("condition", "documents"),
    [
        ({"lang": "de"}, [0]),
        ({"lang": {"$eq": "de"}}, [0]),
        ({"lang": {"$ne": "de"}}, [1, 3, 4, 5, 6]),
        ({"lang": {"$in": ["de", "fr", "none has it"]}}, [0, 3]),
        ({"lang": {"$nin": ["de", "fr"]}}, [1, 4, 5, 6]),
        ({"lang": {"$in": []}}, []),
        ({"tags": "b"}, [0, 5]),
        ({"tags": {"$ne": "a"}}, [1, 3, 4, 5, 6]),
        ({"year": 2020}, [0, 3]),
        ({"year": "2020"}, [3]),
        ({"year": {"$gte": 2020}}, [0, 1, 3]),
        ({"year": {"$gt": 2020, "$lt": 2022}}, [1]),
        ({"year": {"$lte": 2020}}, [0, 3]),
        ({"year": {"$in": [2020, "late"]}}, [0, 3, 5]),
        ({"day": {"$gte": "2020-01-02", "$lt": "2021"}}, [0]),
        ({"day": {"$gt": "2020-01-02"}}, [1]),
        ({"size": {"$lt": 9}}, []),
        ({"size": 10}, [3]),
        ({"open": True}, [1]),
        ({"open": {"$ne": True}}, [0, 3, 4, 5, 6]),
        ({"lang": "de", "year": 2020}, [0]),
        ({"$or": [{"lang": "de"}, {"lang": "fr"}]}, [0, 3]),
        ({"$and": [{"lang": "de"}, {"year": {"$lt": 2020}}]}, []),
        ({"$not": {"lang": {"$in": ["de", "en"]}}}, [3, 4, 6]),
        ({"$or": [{"$not": {"lang": "de"}}, {"year": 2020}], "tags": "a"}, [0]),
        ({"groups": "staff"}, [5]),
        ({}, [0, 1, 3, 4, 5, 6]),
        (None, [0, 1, 3, 4, 5, 6]),
    ],
)
def test_conditions(own, condition, documents):
    assert found(own, condition) == documents


texts = st.sampled_from(["a", "b", "de", "2020", "10", ""])
values = texts | st.sampled_from([1, 10, 2020.0, -0.5, True, False]) | st.lists(texts, max_size=3)
documents = st.dictionaries(st.sampled_from(["k", "l"]), values, max_size=2)
operands = texts | st.sampled_from([1, 10, 2020, True])
comparisons = st.one_of(
    operands,
    st.builds(lambda o, v: {o: v}, st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]), operands),
    st.builds(lambda o, v: {o: v}, st.sampled_from(["$in", "$nin"]), st.lists(operands, max_size=3)),
)
conditions = st.recursive(
    st.dictionaries(st.sampled_from(["k", "l"]), comparisons, max_size=2),
    lambda inner: st.one_of(
        st.builds(lambda one: {"$not": one}, inner),
        st.builds(lambda o, some: {o: some}, st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=6,
)


def number(value) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def compares(value, operator: str, operand) -> bool:
    """One text, number or boolean with another, as the documentation says it."""
    if isinstance(operand, bool) or isinstance(value, bool):
        return isinstance(operand, bool) and isinstance(value, bool) and value == operand
    if isinstance(operand, int | float):
        value = number(value)
    if value is None or isinstance(value, str) != isinstance(operand, str):
        return False
    signs = {"$gt": value > operand, "$gte": value >= operand, "$lt": value < operand, "$lte": value <= operand}
    return signs.get(operator, value == operand)


def fits(document: dict, condition: dict) -> bool:
    for key, wanted in condition.items():
        if key == "$not":
            fit = not fits(document, wanted)
        elif key in ("$and", "$or"):
            fit = (all if key == "$and" else any)(fits(document, one) for one in wanted)
        else:
            fit = all(
                has(document, key, *one) for one in (wanted if isinstance(wanted, dict) else {"$eq": wanted}).items()
            )
        if not fit:
            return False
    return True


def has(document: dict, key: str, operator: str, operand) -> bool:
    own = document.get(key, [])
    own, several = own if isinstance(own, list) else [own], operand if operator in ("$in", "$nin") else [operand]
    one = any(compares(value, operator, other) for value in own for other in several)
    return one != (operator in ("$ne", "$nin"))


@given(st.lists(documents, min_size=1, max_size=6), conditions)
@example([{"k": "2020"}, {"k": 2020}], {"k": {"$gte": 2020}})
def test_any_condition_is_the_references(tmp_path_factory, documents, condition):
    own = access(tmp_path_factory.getbasetemp(), documents, [1] * len(documents))
    try:
        allowed = own.allowed(Restriction.of(condition))
    except UserError as error:
        assert str(error).startswith(("filter: no document has the key", "filter: $"))  # noqa: PT017
        return
    expected = [fits(document, condition) for document in documents]
    assert (expected if allowed is None else allowed.tolist()) == expected
    assert allowed is None or not all(expected)


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ({"yaer": 2020}, r"no document has the key 'yaer' \(did you mean 'year'\?\)\. Keys: day, groups, hidden, lang, "),
        ({"year": {"$gte": True}}, r"\$gte of 'year' takes a number or a text, and found true\. Mend it"),
        ({"lang": 5}, r"\$eq of 'lang' takes a text, and found 5\. Mend it"),
        ({"salary": "5"}, r"\$eq of 'salary' takes a number, and found 5"),
        ({"open": "true"}, r"\$eq of 'open' takes true or false, and found true"),
        ({"lang": None}, r"\$eq of 'lang' takes a text, and found null"),
        ({"lang": ["de"]}, r"\$eq of 'lang' takes a text, and found a list"),
        ({"lang": {"$in": "de"}}, r"\$in of 'lang' takes a list, and found de"),
        ({"lang": {"$in": ["de", 5]}}, r"\$in of 'lang' takes a text, and found 5"),
        ({"year": {"$gt": 10**400}}, r"takes a number or a text, and found 1000"),
        ({"year": {"$gt": float("nan")}}, r"takes a number or a text, and found NaN"),
        ({"year": {"$ge": 2020}}, r"no operator '\$ge' here \(did you mean '\$gte'\?\)\. Take one of \$eq, \$ne"),
        ({"year": {"from": 2020}}, r"no operator 'from' here.* Take one of \$eq"),
        ({"$nor": []}, r"no operator '\$nor' here \(did you mean '\$or'\?\)\. Take one of \$and, \$or, \$not"),
        ({"$and": {"lang": "de"}}, r"\$and takes a list of conditions, and found an object"),
        ({"$or": []}, r"\$or takes a list of conditions, and found a list"),
        ({"$or": ["de"]}, r"de is no condition\. Write it as \{"),
        ({"$not": 5}, r"5 is no condition"),
        ({"$or": [{"lang": "de"}] * 101}, r"more than 100 conditions"),
        ({"\ud800\x1b": 1}, r"no document has the key '\\ud800\\x1b'"),
        ({"lang": {1, 2}}, r"filter: is no JSON"),
    ],
)  # fmt: skip
def test_a_bad_filter_is_one_error(own, condition, says):
    with pytest.raises(UserError, match=says):
        own.allowed(Restriction.of(condition))


def test_a_filter_of_many_levels_is_one_error(own):
    deep = {"lang": "de"}
    for _ in range(900):
        deep = {"$not": deep}
    with pytest.raises(UserError, match=r"^filter: (has more than 100 conditions|is no JSON, or has too many levels)"):
        own.allowed(Restriction.of(deep))


def test_conditions_from_text():
    assert condition_of('{"lang": "de"}') == {"lang": "de"}
    assert condition_of(None) is None
    for text, says in (
        ("lang=de", "--filter: the filter is no JSON"),
        ("[1]", "--filter: the filter a list is no condition"),
    ):
        with pytest.raises(UserError, match=says):
            condition_of(text)


def test_groups_leave_what_names_none_and_what_names_them(own):
    assert found(own, None, []) == [0, 1, 3, 4]
    assert found(own, None, ["board"]) == [0, 1, 3, 4]
    assert found(own, None, ["staff", "board"]) == [0, 1, 3, 4, 5]
    assert found(own, {"lang": "en"}, []) == [1]
    assert found(own, {"$not": {"lang": "de"}}, []) == [1, 3, 4]
    assert found(own, {"lang": {"$ne": "xx"}}, ["staff"]) == [0, 1, 3, 4, 5]


@pytest.mark.parametrize(
    ("condition", "groups", "unknown"),
    [
        ({"salary": {"$gt": 0}}, [], "salary"),
        ({"hidden": "x"}, [], "hidden"),
        ({"nobodys": 1}, ["staff"], "nobodys"),
        ({"groups": "staff"}, ["staff"], "groups"),
        ({"hiden": "x"}, [], "hiden"),
    ],
)
def test_what_only_others_may_read_is_as_if_it_were_not_there(own, condition, groups, unknown):
    """Down to the last letter: a key that nobody has is refused in the same words."""
    with pytest.raises(UserError) as told:
        own.allowed(Restriction.of(condition, groups))
    with pytest.raises(UserError) as nothing:
        own.allowed(Restriction.of({"zzzz": 1}, groups))
    assert str(told.value) == str(nothing.value).replace("zzzz", unknown)
    assert found(own, {"salary": 5}, ["staff"]) == [5]


def test_kinds_of_values_that_others_have_are_not_told(own):
    with pytest.raises(UserError, match=r"\$gt of 'size' takes a number or a text, and found true"):
        own.allowed(Restriction.of({"size": {"$gt": True}}, []))


def test_a_kind_that_only_a_forbidden_document_has_is_refused(tmp_path):
    own = access(tmp_path, [{"k": "public"}, {"k": 5, "groups": ["staff"]}], [1, 1])
    with pytest.raises(UserError, match=r"\$eq of 'k' takes a text, and found 5"):
        own.allowed(Restriction.of({"k": 5}, []))
    assert own.allowed(Restriction.of({"k": 5}, ["staff"])).tolist() == [False, True]


def test_what_changes_nothing_is_no_mask(own):
    assert own.allowed(EVERYTHING) is None
    assert own.allowed(Restriction.of({"lang": {"$ne": "none has it"}})) is None
    assert own.allowed(Restriction.of({}, None)) is None


def test_masks_are_kept_within_a_bound(tmp_path, monkeypatch):
    from kard.data import filters

    monkeypatch.setattr(filters, "_MASK_BYTES", 3 * 2)
    own = access(tmp_path, [{"n": n} for n in range(2)], [1, 1])
    for number in range(10):
        own.allowed(Restriction.of({"n": {"$lt": 1 - number}}))
        assert len(own._masks) <= 3
    first = own.allowed(Restriction.of({"n": {"$lt": -8}}))
    assert own.allowed(Restriction.of({"n": {"$lt": -8}})) is first


def test_half_a_million_documents_take_milliseconds_once_they_are_read(tmp_path):
    count = 100_000
    own = access(tmp_path, [{"n": n, "lang": "de" if n % 3 else "en"} for n in range(count)], [1] * count)
    own.allowed(Restriction.of({"n": {"$gte": 5}, "lang": "de"}))
    start = time.process_time()
    for number in range(10):
        assert own.allowed(Restriction.of({"n": {"$gte": number}, "lang": "en"})).sum() > 30_000
    assert (time.process_time() - start) / 10 < 0.05
    assert json.loads((tmp_path / "documents.json").read_text(encoding="utf-8"))["keys"] == {"n": count, "lang": count}
