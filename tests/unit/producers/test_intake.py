"""Intake: JSONL, CSV and TSV as streams of items, and the rejects file."""

from __future__ import annotations

import io
import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.intake import Broken, Item, Parsed, RejectsWriter, read_items
from shared.errors import ConfigurationError, Issue

if TYPE_CHECKING:
    from pathlib import Path


def items(content: str | bytes, **options: Any) -> list[Item]:
    raw = content.encode() if isinstance(content, str) else content
    return list(read_items(io.BytesIO(raw), **options))


def prompts(content: str | bytes, **options: Any) -> list[object]:
    """Give the prompt of each item, or the message of what is wrong with it."""
    return [
        item.data.get("prompt") if isinstance(item, Parsed) else item.issue.message
        for item in items(content, **options)
    ]


class Endless(io.RawIOBase):
    """A stream that makes `count` copies of a line on the fly."""

    def __init__(self, line: bytes, count: int) -> None:
        self._line, self._left, self._rest = line, count, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest and self._left:
            self._rest, self._left = self._line, self._left - 1
        part, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


# ── JSONL ──


def test_jsonl_fields_and_parameters_side_by_side() -> None:
    """Job parameters are parted from the request; values keep their types."""
    line = '{"prompt": "a cat", "n": 2, "priority": 5, "metadata": {"a": null}, "idempotency_key": "k"}'
    assert items(line, format="jsonl") == [
        Parsed(
            1,
            {"prompt": "a cat", "n": 2},
            {"priority": 5, "metadata": {"a": None}, "idempotency_key": "k"},
            line,
        )
    ]


def test_jsonl_nested_request() -> None:
    """The request may stand under a key of its own."""
    line = '{"request": {"prompt": "a cat"}, "tenant": "t"}'
    assert items(line, format="jsonl") == [Parsed(1, {"prompt": "a cat"}, {"tenant": "t"}, line)]


def test_jsonl_unknown_keys_are_left_to_validation() -> None:
    """A misspelt key must not vanish: the request model names it."""
    (item,) = items('{"prompt": "a cat", "sizee": "1K", "tenant": "t"}', format="jsonl")
    assert isinstance(item, Parsed)
    assert item.data == {"prompt": "a cat", "sizee": "1K"}


@pytest.mark.parametrize(
    ("line", "field", "rule", "message"),
    [
        ('{"prompt": ', "", "json", "line is not JSON: EOF while parsing a value"),
        ("[1]", "", "type", "line must be a JSON object"),
        ('{"n": NaN}', "", "json", "line is not JSON: expected value"),
        ('{"prompt": "\\ud800"}', "", "json", "line is not JSON: "),
        ('{"metadata": ' + "[" * 10_000, "", "json", "line is not JSON: recursion limit exceeded"),
        ('{"request": "x"}', "request", "type", "request: must be a JSON object"),
        (
            '{"request": {}, "size": "1K"}',
            "size",
            "unknown_field",
            "size: is not a field beside request; known are",
        ),
        (b'{"prompt": "\xff"}', "", "encoding", "line is not UTF-8 (byte 13)"),
    ],
)
def test_jsonl_bad_lines_are_items(line: str | bytes, field: str, rule: str, message: str) -> None:
    """A bad line is reported with its number, and the next one is read."""
    raw = line.encode() if isinstance(line, str) else line
    broken, good = items(b"\n" + raw + b'\n{"prompt": "good"}\n', format="jsonl")
    assert isinstance(broken, Broken)
    assert (broken.line_number, broken.issue.field, broken.issue.rule) == (2, field, rule)
    assert broken.issue.message.startswith(message)
    assert broken.raw == raw.decode(errors="backslashreplace")
    assert isinstance(good, Parsed)
    assert (good.line_number, good.data) == (3, {"prompt": "good"})


def test_jsonl_keys_may_be_mapped() -> None:
    """A mapped key wins over one that has the field's name already."""
    line = '{"caption": "a cat", "prompt": "other", "seed_used": 7}'
    (item,) = items(line, format="jsonl", prompt_column="caption", columns={"seed": "seed_used"})
    assert isinstance(item, Parsed)
    assert item.data == {"prompt": "a cat", "seed": 7}


def test_defaults_fill_what_is_missing_or_null() -> None:
    """Defaults never replace a value, be it false or 0."""
    options = {"n": 3, "watermark": "yes", "seed": "9", "tenant": "t", "size": None}
    first, second = items(
        '{"prompt": "a", "n": null}\n{"prompt": "b", "watermark": false, "seed": 0}',
        format="jsonl",
        defaults=options,
    )
    assert isinstance(first, Parsed)
    assert isinstance(second, Parsed)
    assert first.data == {"prompt": "a", "n": 3, "watermark": True, "seed": 9}
    assert second.data == {"prompt": "b", "n": 3, "watermark": False, "seed": 0}
    assert first.params == second.params == {"tenant": "t"}


# ── CSV and TSV ──


def test_cells_are_converted_by_field() -> None:
    """Text becomes what the field needs; whether the value is allowed is judged by the request."""
    header = "prompt,n,seed,watermark,thinking_mode,image_urls,bbox_list,metadata,priority,not_before,size\n"
    row = (
        'a cat, 2 ,0,TRUE,no,https://h/a https://h/b,"[[], [[1,2,3,4]]]","{""a"": 1}",-3,1700000000000,16:9\n'
    )
    (item,) = items(header + row, format="csv")
    assert isinstance(item, Parsed)
    assert item.data == {
        "prompt": "a cat",
        "n": 2,
        "seed": 0,
        "watermark": True,
        "thinking_mode": False,
        "image_urls": ["https://h/a", "https://h/b"],
        "bbox_list": [[], [[1, 2, 3, 4]]],
        "size": "16:9",
    }
    assert item.params == {"metadata": {"a": 1}, "priority": -3, "not_before": 1_700_000_000_000}


def test_image_urls_may_be_a_json_list() -> None:
    """URLs with odd characters can be given as JSON."""
    (item,) = items('prompt\timage_urls\na\t["https://h/a"]\n', format="tsv")
    assert isinstance(item, Parsed)
    assert item.data["image_urls"] == ["https://h/a"]


@pytest.mark.parametrize(
    ("field", "cell", "message"),
    [
        ("n", "2.0", "n: must be an integer, got '2.0'"),
        ("n", "9" * 5000, f"n: must be an integer, got '{'9' * 32}...'"),
        ("seed", "٣", "seed: must be an integer, got '٣'"),
        ("priority", "high", "priority: must be an integer, got 'high'"),
        ("watermark", "maybe", "watermark: must be true, false, yes, no, 1 or 0, got 'maybe'"),
        ("bbox_list", "[[", "bbox_list: must be JSON: EOF while parsing a list at line 1 column 2"),
        ("metadata", "{a}", "metadata: must be JSON: key must be a string at line 1 column 2"),
        ("image_urls", "[x]", "image_urls: must be JSON: expected value at line 1 column 2"),
    ],
)
def test_a_cell_that_cannot_be_converted_breaks_its_line(field: str, cell: str, message: str) -> None:
    """Nothing is guessed: the line is rejected with field and limit."""
    broken, good = items(f"prompt\t{field}\na\t{cell}\nb\t\n", format="tsv")
    assert isinstance(broken, Broken)
    assert (broken.line_number, broken.issue.field, broken.issue.message) == (2, field, message)
    assert broken.raw == f"a\t{cell}"
    assert isinstance(good, Parsed)
    assert good.data == {"prompt": "b"}


def test_empty_cells_take_the_default() -> None:
    """A cell of blanks is no value; nor is a cell that the line does not have."""
    rows = items("prompt,n,size\na,,1K\nb, ,\nc\n", format="csv", defaults={"n": 4, "size": "2K"})
    assert [item.data for item in rows if isinstance(item, Parsed)] == [
        {"prompt": "a", "n": 4, "size": "1K"},
        {"prompt": "b", "n": 4, "size": "2K"},
        {"prompt": "c", "n": 4, "size": "2K"},
    ]


def test_unused_columns_are_noted_once() -> None:
    """Columns that are no field are ignored, and the user is told."""
    notes: list[str] = []
    rows = items(
        "Prompt\tCategory\tsize\tNote\na\tx\t1K\ty\n", format="tsv", prompt_column="Prompt", notes=notes
    )
    assert notes == ["ignored columns: Category, Note"]
    assert [item.data for item in rows if isinstance(item, Parsed)] == [{"prompt": "a", "size": "1K"}]


def test_any_column_may_be_mapped() -> None:
    """A column named for one field is not used for another, and wins over the field's own header."""
    content = "Text,prompt,id,size\na,ignored,7,1K\n"
    (item,) = items(content, format="csv", columns={"prompt": "Text", "idempotency_key": "id"})
    assert isinstance(item, Parsed)
    assert (item.data, item.params) == ({"prompt": "a", "size": "1K"}, {"idempotency_key": "7"})


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (
            "Prompt\tNote\na\tb\n",
            {},
            "there is no column prompt; columns are 'Prompt', 'Note'. Give --prompt-column.",
        ),
        (
            "a\tb\n",
            {"prompt_column": "Prompt"},
            "there is no column 'Prompt' for prompt; columns are 'a', 'b'.",
        ),
        (
            "prompt\tx\n",
            {"columns": {"seed": "s"}},
            "there is no column 's' for seed; columns are 'prompt', 'x'.",
        ),
        ("prompt\tprompt\n", {}, "column 'prompt' exists 2 times. Rename all but one."),
        (
            "prompt\n",
            {"columns": {"seeed": "s"}},
            "there is no field 'seeed'. Fields are bbox_list, color_palette",
        ),
        (
            "prompt\n",
            {"defaults": {"seeed": 1}},
            "there is no field 'seeed'. Fields are bbox_list, color_palette",
        ),
        (
            "prompt\n",
            {"defaults": {"n": "x"}},
            "default of n: must be an integer, got 'x'. Correct the option.",
        ),
        (b"pr\xffmpt\n", {}, "the header (line 1) is not UTF-8 (byte 3). Correct it."),
        ("prompt\n".encode("utf-16"), {}, "the input is UTF-16. Save it as UTF-8."),
    ],
)
def test_a_wrong_set_up_is_an_error_at_once(
    content: str | bytes, options: dict[str, Any], message: str
) -> None:
    """What concerns the whole input stops the run, and says what to do."""
    with pytest.raises(ConfigurationError) as caught:
        items(content, format="tsv", **options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("content", ["image_urls\nhttps://h/a\n", "size\n1K\n"])
def test_a_prompt_column_is_not_needed_with_another_source(content: str) -> None:
    """Edits need no prompt, and a default may give it."""
    defaults = {} if content.startswith("image") else {"prompt": "a cat"}
    assert all(isinstance(item, Parsed) for item in items(content, format="csv", defaults=defaults))


@pytest.mark.parametrize("known", ["jsonl", "csv", "tsv", None])
@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_input_has_no_items(known: Any, content: str) -> None:
    """Nothing in, nothing out, whatever the format."""
    assert items(content, format=known) == []


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_mark_line_ends_and_blank_lines(end: str) -> None:
    """A byte order mark, CRLF, blank lines and a missing last line end are all common."""
    content = "\ufeff" + end.join(["prompt,size", "", "a,1K", " , ", "b,2K"])
    assert [
        (item.line_number, item.data["size"])
        for item in items(content, format="csv")
        if isinstance(item, Parsed)
    ] == [
        (3, "1K"),
        (5, "2K"),
    ]


def test_a_line_over_the_limit_is_one_broken_item() -> None:
    """A line without end must not fill the memory; the next line is read."""
    long = '{"prompt": "' + "x" * 100 + '"}\n'
    broken, good = items(long * 1 + '{"prompt": "a"}\n', format="jsonl", max_line_bytes=40)
    assert isinstance(broken, Broken)
    assert (broken.line_number, broken.issue.message) == (1, "line is longer than 40 bytes")
    assert isinstance(good, Parsed)
    assert good.line_number == 2


def test_a_line_at_the_limit_is_read() -> None:
    """The limit is inclusive and does not count the line's end."""
    line = '{"prompt": "' + "x" * 26 + '"}'
    assert len(line) == 40
    assert prompts(f"{line}\n{line}", format="jsonl", max_line_bytes=40) == ["x" * 26] * 2


def test_a_line_over_the_limit_without_end_is_the_last() -> None:
    """Skipping the rest of a long line stops at the end of the input."""
    assert prompts("x" * 3_000_000, format="jsonl", max_line_bytes=40) == ["line is longer than 40 bytes"]


def test_200_mb_are_streamed() -> None:
    """Memory does not grow with the input."""
    line = b'{"prompt": "' + b"x" * 1_000_000 + b'"}\n'
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_items(io.BufferedReader(Endless(line, 200)), format="jsonl"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 200
    assert peak < 20_000_000


# ── sources ──


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"prompt": "a cat"}'),
        ("a.NDJSON", '{"prompt": "a cat"}'),
        ("a.csv", "prompt,x\na cat,1"),
        ("a.tsv", "prompt\tx\na cat\t1"),
        ("a.tab", "prompt\tx\na cat\t1"),
        ("a.txt", '\n {"prompt": "a cat"}'),
    ],
)
def test_the_format_is_told_by_the_name_or_the_first_character(
    tmp_path: Path, name: str, content: str
) -> None:
    """Files say their format by extension; JSONL can be told without."""
    path = tmp_path / name
    path.write_text(content)
    for source in (path, str(path)):
        (item,) = read_items(source)
        assert isinstance(item, Parsed)
        assert item.data == {"prompt": "a cat"}
    with path.open("rb") as stream:
        assert len(list(read_items(stream))) == 1


def test_stdin_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` is stdin, and stays open."""
    stdin = io.TextIOWrapper(io.BytesIO(b'{"prompt": "a cat"}'))
    monkeypatch.setattr("sys.stdin", stdin)
    assert len(list(read_items("-"))) == 1
    assert not stdin.closed


def test_an_unknown_format_is_an_error() -> None:
    """CSV and TSV cannot be told from each other for certain."""
    with pytest.raises(ConfigurationError, match=r"Give --format jsonl, csv or tsv\."):
        items("prompt,size\na,b\n")


def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    """A wrong path says so in one line."""
    with pytest.raises(ConfigurationError, match=r"cannot read .*missing\.csv: No such file or directory"):
        list(read_items(tmp_path / "missing.csv"))
    with pytest.raises(ConfigurationError, match="Is a directory"):
        list(read_items(tmp_path))


@given(st.binary(max_size=300), st.sampled_from(["jsonl", "csv", "tsv"]))
def test_no_bytes_stop_the_stream(content: bytes, known: Any) -> None:
    """Whatever the lines are, each is an item; only the header may be an error."""
    try:
        found = items(b'prompt,size\tn\n"' + content, format=known, defaults={"prompt": "x"})
    except ConfigurationError as error:
        assert "UTF-16" not in str(error)  # noqa: PT017 - only the header may be wrong
        return
    assert all(item.line_number >= 1 for item in found)


# ── rejects ──


def test_rejects_are_json_lines(tmp_path: Path) -> None:
    """Each rejected line says where, what and why, and carries the line itself."""
    path = tmp_path / "in.rejects.jsonl"
    with RejectsWriter(path) as rejects:
        rejects.write(3, Issue("n", "maximum", "n: too many", "9"), '{"n": 9, "prompt": "Käse"}')
        rejects.write(4, Issue("", "encoding", "line is not UTF-8"), "\udcff")
        assert rejects.count == 2
    first, second = path.read_text(encoding="utf-8").splitlines()
    assert json.loads(first) == {
        "line": 3,
        "field": "n",
        "rule": "maximum",
        "message": "n: too many",
        "raw": '{"n": 9, "prompt": "Käse"}',
    }
    assert json.loads(second)["line"] == 4


def test_no_rejects_no_file(tmp_path: Path) -> None:
    """The file appears with the first reject, not before."""
    with RejectsWriter(tmp_path / "none.jsonl") as rejects:
        assert rejects.count == 0
    assert list(tmp_path.iterdir()) == []


def test_rejects_are_on_disk_at_once(tmp_path: Path) -> None:
    """A run that is killed has written what it rejected."""
    with RejectsWriter(tmp_path / "r.jsonl") as rejects:
        rejects.write(1, Issue("", "json", "line is not JSON"), "{")
        assert rejects.path.read_text().count("\n") == 1


def test_an_unwritable_rejects_file_is_an_error(tmp_path: Path) -> None:
    """Rejects that cannot be written must not be lost in silence."""
    with (
        RejectsWriter(tmp_path / "no" / "such.jsonl") as rejects,
        pytest.raises(ConfigurationError, match="Choose another rejects file"),
    ):
        rejects.write(1, Issue("", "json", "x"), "{")
