"""Mutants are changes of code that runs, each once; a test that fails, dies or hangs kills one; nothing else does."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import contract
import covered
import mutate
import points
import programs
import pytest
import verdicts
from points import Mutant
from tree import MODEL, ROOT, Program, Tree
from tree import programs as all_programs


def becomes(body: str) -> set[str]:
    """The mutants of a function with this body."""
    source = f"int f(int a, int b)\n{{\n{body}\n}}\n".encode()
    return {mutant.becomes for mutant in points.mutants_of("f.c", source)}


def applied(source: str) -> list[str]:
    return [mutant.apply(source.encode()).decode() for mutant in points.mutants_of("f.c", source.encode())]


# ---- what is changed ----


def test_a_bound_moves_and_turns_round() -> None:
    assert {"return a <= b;", "return a >= b;"} <= becomes("return a < b;")


def test_each_of_two_conditions_is_dropped() -> None:
    assert {"if (a)", "if (b)", "if (a || b)", "if (0)", "if (1)"} <= becomes("if (a && b)\n g();")


def test_a_constant_is_one_more_and_one_less() -> None:
    assert becomes("return 16u;") == {"return 17u;", "return 15u;"}
    assert becomes("return 0;") == {"return 1;"}
    assert becomes("return true;") == {"return false;"}


def test_a_call_whose_result_is_not_used_is_removed() -> None:
    assert becomes("g(a);") == {";"}
    assert becomes("(void)g(a);") == {";"}
    assert becomes("a = g(b);") == set()


def test_a_result_becomes_success() -> None:
    assert becomes("return a;") == {"return 0;"}


def test_a_loop_is_not_made_endless() -> None:
    assert becomes("while (a)\n g(&a) + 0;") & {"while (1)"} == set()


@pytest.mark.parametrize(
    "source",
    [
        "static const int table[] = {1, 2};\n",
        "#if A < 2\n#define B 3\n#endif\n",
        "enum { A = 1 };\n",
        'int f(int a)\n{\n    /* a < 1 */\n    char text[8] = "a < 1";\n    assert(a < 1);\n    return g(text);\n}\n',
    ],
)
def test_text_that_does_not_run_is_left_alone(source: str) -> None:
    assert applied(source) == []


def test_a_change_keeps_the_numbers_of_all_other_lines() -> None:
    source = "int f(int a)\n{\n    g(a,\n      a);\n    return a;\n}\n"
    for text in applied(source):
        assert text.count("\n") == source.count("\n")
        assert text != source


def test_every_mutant_of_the_sources_is_one_change() -> None:
    for path in sorted((ROOT / "csrc/proto").glob("*.c")):
        source = path.read_bytes()
        for mutant in points.mutants_of(path.name, source):
            changed = mutant.apply(source)
            assert changed != source
            assert changed[: mutant.start] == source[: mutant.start]
            assert changed.endswith(source[mutant.end :])
            assert mutant.function != ""


# ---- which of them are drawn ----


def test_a_seed_draws_the_same_mutants_again_and_another_others() -> None:
    files = mutate.sources(["csrc/proto"])
    first, again, other = (mutate.in_order(files, seed) for seed in (7, 7, 8))
    assert first == again
    assert first != other and sorted(map(repr, first)) == sorted(map(repr, other))


def test_folders_and_patterns_name_the_sources() -> None:
    files = mutate.sources(["csrc/proto", "csrc/edge/*.c"])
    assert "csrc/proto/edge_plan.c" in files and "csrc/edge/admit.c" in files
    assert not any(file.endswith(".h") for file in files)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """One file, f.c, that can be compiled."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    made = Tree(tmp_path, ["gcc", "-O2"], [])
    made.path.mkdir(parents=True)
    made.work.mkdir(parents=True)
    (made.path / "f.c").write_text("unsigned f(unsigned a)\n{\n    if (a >= 0)\n        return a;\n    return 7;\n}\n")
    return made


def drawn(tree: Tree, known: dict[verdicts.Key, str], count: int = 99) -> mutate.Sample:
    mutants = points.mutants_of("f.c", (tree.path / "f.c").read_bytes())
    with ThreadPoolExecutor(2) as pool:
        return mutate.draw(tree, mutants, count, known, pool)


def test_a_change_that_compiles_to_the_same_object_is_not_tried(tree: Tree) -> None:
    sample = drawn(tree, {})
    texts = [mutant.becomes for mutant in sample.chosen]
    assert "if (1)" not in texts and "return 8;" not in texts  # an unsigned number is never below 0
    assert "if (a > 0)" in texts and sample.same > 0
    assert sample.drawn == len(sample.chosen) + sample.same


def test_a_mutant_known_as_equivalent_is_not_tried(tree: Tree) -> None:
    known = {("f.c", "f", "if (a >= 0)", "if (a > 0)"): "equivalent: for this test"}
    assert "if (a > 0)" not in [mutant.becomes for mutant in drawn(tree, known).chosen]
    assert drawn(tree, known).judged == 1


def test_no_more_are_tried_than_were_asked_for(tree: Tree) -> None:
    assert len(drawn(tree, {}, count=1).chosen) == 1


# ---- what kills one ----


def script(folder: Path, text: str) -> Path:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        ("echo '3 passed, 0 failed'", None),
        ("echo '45 explorations, 0 not as expected'", None),
        ("echo 'FAILED: a_claim'; sleep 100", "a_claim"),
        ("echo 'BAD  links fail, static             12 states'; sleep 100", "links fail, static"),
        ("echo '123 passed, 4 skipped, 477 deselected in 18.54s'", None),
        ("echo '477 deselected in 1.54s'", "it ends with 0"),
        ("echo 'FAILED tests/a.py::test_a[shm] - it'; exit 1", "tests/a.py::test_a[shm]"),
        ("echo 'ERROR tests/a.py::test_a - it'; exit 1", "tests/a.py::test_a"),
        ("echo '3 passed, 0 failed'; exit 4", "it ends with 4"),
        ("kill -11 $$", "it ends with -11"),
        ("echo 'nothing of the kind'", "it ends with 0"),
    ],
)
def test_a_test_fails_when_it_says_so_or_does_not_end_well(tmp_path: Path, text: str, failed: str | None) -> None:
    assert programs.run([script(tmp_path, text)], tmp_path, 1.0, {}).failed == failed


def test_a_test_that_hangs_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "limit_s", lambda usual_s: 0.2)
    assert programs.run([script(tmp_path, "while true; do :; done")], tmp_path, 1.0, {}).failed == "it hangs"


def test_the_tests_of_a_line_are_run_and_quick_ones_before_slow_ones() -> None:
    runs = {
        "slow": covered.Run("", 9.0, {"f.c": {"2": "f", "3": "f"}}),
        "quick": covered.Run("", 0.1, {"f.c": {"3": "f"}}),
        "near": covered.Run("", 0.01, {"f.c": {"2": "f"}}),
        "far": covered.Run("", 0.01, {"f.c": {"9": "g"}, "g.c": {"3": "f"}}),
    }
    mutant = Mutant("f.c", "f", 3, 0, 1, "", "operator", "", "")
    uncounted = Mutant("f.c", "f", 4, 0, 1, "", "operator", "", "")
    assert covered.Covered(runs).tests_for(mutant) == ["quick"]
    runs["far"].seconds = 99.0
    assert covered.Covered(runs).tests_for(mutant) == ["quick", "slow"]
    assert covered.Covered(runs).tests_for(uncounted) == ["near", "quick", "slow"]
    runs |= {f"slower {number}": covered.Run("", 20.0 + number, {"f.c": {"3": "f"}}) for number in range(3)}
    assert covered.Covered(runs).tests_for(mutant) == ["quick", "slow", "slower 0", "slower 1"]


def test_every_c_test_and_the_model_are_run() -> None:
    names = [program.name for program in all_programs()]
    assert MODEL in names
    tests = sorted(path.stem for path in (ROOT / "tests/c").glob("*/test_*.c"))
    assert [name for name in names if name != MODEL] == tests
    assert all(isinstance(program, Program) and program.objects for program in all_programs())


def edge_mutant(file: str) -> Mutant:
    return Mutant(file, "f", 3, 0, 1, "", "operator", "", "")


def test_mutants_of_different_files_are_tried_at_once() -> None:
    files = ["a.c", "b.c", "a.c", "c.c", "a.c"]
    assert contract.groups_of(enumerate(map(edge_mutant, files))) == [[0, 1, 3], [2], [4]]
    many = contract.groups_of((number, edge_mutant(f"{number}.c")) for number in range(contract.GROUP_MAX + 1))
    assert [len(group) for group in many] == [contract.GROUP_MAX, 1]


def test_a_mutant_that_no_c_test_notices_is_tried_by_the_contract_of_edges(tree: Tree) -> None:
    runs = []

    class Last(contract.Contract):
        def prepare(self) -> None:
            pass

        def attempt(self, numbers: list[int]) -> programs.Outcome:
            runs.append(numbers)
            return programs.Outcome("test_a" if 3 in numbers else None, 1.0)

    names = ["edge/a", "edge/b", "edge/c", "edge/d", "channel/poller", "edge/e"]
    mutants = [edge_mutant(f"csrc/{name}.c") for name in names]
    results = [mutate.Result(mutant, None, 2, 1.0) for mutant in mutants]
    results[5] = mutate.Result(mutants[5], "a C test", 2, 1.0)
    with ThreadPoolExecutor(1) as pool:
        judged = mutate.tried_last(Last(tree), results, pool)
    assert runs == [[0, 1, 2, 3], [0, 1], [2, 3], [2], [3]]
    assert [result.killer for result in judged] == [None, None, None, "contract: test_a", None, "a C test"]
    assert [result.tried for result in judged] == [3, 3, 3, 3, 2, 2]


# ---- verdicts ----


def test_a_verdict_says_of_a_mutant_why_no_test_can_tell() -> None:
    mutant = Mutant("f.c", "f", 3, 0, 1, "", "operator", "a < b;", "a <= b;")
    text = f"# a note\n\n{verdicts.show(mutant, 'equivalent: they')}".replace("they\n", "they\n  differ\n")
    assert verdicts.parse(text) == {mutant.key(): "equivalent: they differ"}
    assert verdicts.stale(verdicts.parse(text), [mutant]) == []
    assert verdicts.stale(verdicts.parse(text), []) == [mutant.key()]


@pytest.mark.parametrize("verdict", ["verdict:", "a missing test", ""])
def test_a_survivor_without_a_verdict_is_not_taken_for_equivalent(verdict: str) -> None:
    mutant = Mutant("f.c", "f", 3, 0, 1, "", "operator", "a < b;", "a <= b;")
    with pytest.raises(ValueError, match=r"verdict|equivalent"):
        verdicts.parse(verdicts.show(mutant, verdict))


def test_the_verdicts_that_are_kept_are_of_mutants_that_exist() -> None:
    kept = verdicts.read(mutate.VERDICTS)
    mutants = [mutant for file in {key[0] for key in kept} for mutant in mutate.in_order([file], 1)]
    assert verdicts.stale(kept, mutants) == []
