"""Query: Vast's grammar, read as written and refused with what to write."""

import pytest

from node.client.query import QueryError, ordered, parse_order, parse_query, select

ROWS = [
    {"gpu_name": "H100", "num_gpus": 8, "dph": "2.50", "verified": True, "geolocation": "DE"},
    {"gpu_name": "RTX 4090", "num_gpus": 2, "dph": "0.4", "verified": False, "geolocation": "FR"},
    {"gpu_name": "A100", "num_gpus": 4, "dph": "10", "verified": True, "geolocation": "US"},
    {"gpu_name": "A100", "num_gpus": 1, "dph": "1.1", "verified": True},
]


def found(query: str) -> list[int]:
    rows = select(ROWS, parse_query(query))
    return [index for index, row in enumerate(ROWS) if row in rows]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [0, 1, 2, 3]),
        ("num_gpus>=4 gpu_name in [H100,A100]", [0, 2]),
        ("num_gpus >= 4   gpu_name=A100", [2]),
        ("gpu_name=rtx_4090", [1]),
        ('gpu_name="RTX 4090"', [1]),
        ("gpu_name in [RTX 4090, h100]", [0, 1]),
        ("gpu_name not in [H100]", [1, 2, 3]),
        ("gpu_name notin [H100,A100]", [1]),
        ("gpu_name != A100", [0, 1]),
        ("dph<2.5", [1, 3]),
        ("dph lte 2.50", [0, 1, 3]),
        ("dph=0.40", [1]),
        ("verified=true num_gpus<8", [2, 3]),
        ("verified=any", [0, 1, 2, 3]),
        ("geolocation in [de,fr]", [0, 1]),
        ("geolocation != US", [0, 1]),  # an unknown place is not known to be elsewhere
    ],
)
def test_selects(query: str, expected: list[int]) -> None:
    assert found(query) == expected


@pytest.mark.parametrize(
    ("query", "sentence", "hint"),
    [
        ("num_gpu>=4", "num_gpu: offers have no such field", "did you mean num_gpus?"),
        ("num_gpus>=four", "num_gpus: 'four' is not a number", ""),
        ("num_gpus>=nan", "num_gpus: 'nan' is not a number", ""),
        ("num_gpus", "cannot read 'num_gpus'", "write it like: num_gpus>=4"),
        ("dph<1 or dph>2", "cannot read 'or dph>2'", "write it like: num_gpus>=4"),
        ("gpu_name in H100", "gpu_name: in takes a list", "gpu_name in [H100]"),
        ("gpu_name > H100", "gpu_name: > compares numbers", "gpu_name=H100"),
        ("gpu_name in []", "gpu_name: the list is empty", "gpu_name in [A,B]"),
        ("num_gpus >= [1,2]", "num_gpus: >= takes one value", "num_gpus in [A,B]"),
        ("verified=yes", "verified: 'yes' is neither true nor false", ""),
    ],
)
def test_refuses(query: str, sentence: str, hint: str) -> None:
    with pytest.raises(QueryError) as refused:
        parse_query(query)
    assert (str(refused.value), refused.value.hint) == (sentence, hint)


def test_bounds_the_conditions() -> None:
    with pytest.raises(QueryError, match="at most 64"):
        parse_query("dph>0 " * 65)


def test_sorts_by_each_field_in_turn() -> None:
    rows = ordered(ROWS, parse_order("gpu_name,num_gpus-"))
    assert [(row["gpu_name"], row["num_gpus"]) for row in rows] == [
        ("A100", 4), ("A100", 1), ("H100", 8), ("RTX 4090", 2),
    ]  # fmt: skip
    assert [row["dph"] for row in ordered(ROWS, parse_order("dph"))] == ["0.4", "1.1", "2.50", "10"]


def test_refuses_to_sort_by_what_is_not_there() -> None:
    with pytest.raises(QueryError, match="no such field"):
        parse_order("price")
