"""Lines of JSON: whole or mended, and read whatever stands between them."""

import json
import multiprocessing

import pytest

from tpgdiff_jax.reporting import json_lines


def test_a_line_cut_off_by_a_kill_is_ended_first(tmp_path):
    path = tmp_path / "new" / "log.jsonl"
    json_lines.append(path, {"a": 1})
    with path.open("a") as file:
        file.write('{"b": 2')
    with json_lines.JsonLines(path) as lines:
        lines.write({"c": float("inf")})
    assert path.read_text() == '{"a": 1}\n{"b": 2\n{"c": "inf"}\n'
    assert list(json_lines.read(path)) == [{"a": 1}, {"c": "inf"}]


def test_lines_are_there_before_the_file_is_closed(tmp_path):
    lines = json_lines.JsonLines(tmp_path / "log.jsonl")
    lines.write({"a": 1})
    assert list(json_lines.read(tmp_path / "log.jsonl")) == [{"a": 1}]
    lines.close()


@pytest.mark.parametrize("strange", [b"[1]", b"3", b"null", b'"text"', b"caf\xe9", b"{", b""])
def test_what_is_no_object_is_left_out(tmp_path, strange):
    path = tmp_path / "log.jsonl"
    path.write_bytes(strange + b'\n{"a": 1}\n')
    assert list(json_lines.read(path)) == [{"a": 1}]
    assert json_lines.parsed(strange) is None


def test_no_file_has_no_rows(tmp_path):
    assert list(json_lines.read(tmp_path / "none.jsonl")) == []


def _write(path, name):
    with json_lines.JsonLines(path) as lines:
        for number in range(200):
            lines.write({"name": name, "number": number, "text": name * 100})


def test_lines_of_several_processes_do_not_mix(tmp_path):
    path = tmp_path / "log.jsonl"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write, args=(path, name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 400
    assert [row["number"] for row in rows if row["name"] == "a"] == list(range(200))
