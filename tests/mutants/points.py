"""Where a C file can be changed, and into what: the mutants of its functions' conditions, constants and calls.

The file is parsed by tree-sitter. Everything outside of functions (tables, declarations, directives)
stays as it is, and so do assertions: they say what cannot happen, so that no test can tell whether
one is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import tree_sitter_c
from tree_sitter import Language, Node, Parser

# An operator, and what takes its place: the same with the bound moved, and the opposite.
OPERATORS = {
    "<": ("<=", ">="),
    "<=": ("<", ">"),
    ">": (">=", "<="),
    ">=": (">", "<"),
    "==": ("!=",),
    "!=": ("==",),
    "&&": ("||",),
    "||": ("&&",),
    "+": ("-",),
    "-": ("+",),
    "+=": ("-=",),
    "-=": ("+=",),
    "true": ("false",),
    "false": ("true",),
}
LEFT_ALONE = ("assert", "_Static_assert", "static_assert")
CONDITIONS = ("if_statement", "while_statement", "do_statement", "for_statement", "conditional_expression")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: the bytes from start to end of the file become `after`."""

    file: str
    function: str
    line: int
    start: int
    end: int
    after: str
    kind: str
    was: str  # the lines that it touches, as one
    becomes: str

    def apply(self, source: bytes) -> bytes:
        """The whole file with the change, every other line at its number."""
        lost = source[self.start : self.end].count(b"\n") - self.after.count("\n")
        return source[: self.start] + self.after.encode() + b"\n" * lost + source[self.end :]

    def key(self) -> tuple[str, str, str, str]:
        """The identity of the mutant, which stays when lines above have moved."""
        return self.file, self.function, self.was, self.becomes


def text_of(node: Node | None) -> str:
    return "" if node is None or node.text is None else node.text.decode()


def called(node: Node) -> str:
    """The name of the function that an expression calls, or nothing."""
    return text_of(node.child_by_field_name("function")) if node.type == "call_expression" else ""


def number_changes(text: str) -> Iterator[str]:
    """One more and one less."""
    digits = text.rstrip("uUlL")
    suffix = text[len(digits) :]
    try:
        value = int(digits, 0)
    except ValueError:  # a fraction, or octal: neither is common enough to be worth a rule
        return
    yield f"{value + 1}{suffix}"
    if value > 0:
        yield f"{value - 1}{suffix}"


def condition_changes(node: Node) -> Iterator[tuple[Node, str, str]]:
    """The condition of a statement never holds, or always does; never in loops, which would only hang."""
    condition = node.child_by_field_name("condition")
    if condition is None:
        return
    always = node.type in ("if_statement", "conditional_expression")
    whole = (lambda value: f"({value})") if condition.type == "parenthesized_expression" else str
    yield condition, whole("0"), "condition"
    if always:
        yield condition, whole("1"), "condition"


def operand_changes(node: Node) -> Iterator[tuple[Node, str, str]]:
    """One of the two conditions is not asked for."""
    for side in ("left", "right"):
        yield node, text_of(node.child_by_field_name(side)), "dropped operand"


def call_changes(node: Node) -> Iterator[tuple[Node, str, str]]:
    """A call whose result nobody looks at is not made."""
    inner = node.named_children[0] if node.named_children else None
    if inner is not None and inner.type == "cast_expression":
        inner = inner.child_by_field_name("value")
    if inner is not None and inner.type == "call_expression":
        yield node, ";", "removed call"


def changes(node: Node) -> Iterator[tuple[Node, str, str]]:
    """The replacements of a node or of a part of it, and the kind of the change."""
    if node.type in CONDITIONS:
        yield from condition_changes(node)
    if node.type in ("binary_expression", "assignment_expression"):
        operator = node.child_by_field_name("operator")
        assert operator is not None
        for other in OPERATORS.get(operator.type, ()):
            yield operator, other, "operator"
        if operator.type in ("&&", "||"):
            yield from operand_changes(node)
    elif node.type == "unary_expression" and text_of(node.child_by_field_name("operator")) == "!":
        yield node, text_of(node.child_by_field_name("argument")), "negation"
    elif node.type == "number_literal":
        for other in number_changes(text_of(node)):
            yield node, other, "constant"
    elif node.type in ("true", "false"):
        yield node, OPERATORS[node.type][0], "constant"
    elif node.type == "expression_statement":
        yield from call_changes(node)
    elif node.type == "return_statement":
        value = node.named_children[0] if node.named_children else None
        if value is not None and value.type == "identifier":
            yield value, "0", "result"


def is_left_alone(node: Node) -> bool:
    if node.type == "array_declarator":  # the size of a buffer: one more byte changes nothing that can be seen
        return True
    first = node.children[0] if node.type == "expression_statement" else node
    return called(first) in LEFT_ALONE


def walk(node: Node) -> Iterator[Node]:
    if is_left_alone(node):
        return
    yield node
    for child in node.named_children:
        yield from walk(child)


def functions(node: Node) -> Iterator[Node]:
    if node.type == "function_definition":
        yield node
        return
    for child in node.children:
        yield from functions(child)


def function_name(node: Node) -> str:
    declarator = node.child_by_field_name("declarator")
    while declarator is not None and declarator.type != "identifier":
        declarator = declarator.child_by_field_name("declarator")
    return text_of(declarator)


def one_line(source: bytes, start: int, end: int, start_of: int, end_of: int, after: str | None) -> str:
    """The lines from start_of to end_of with the change, or without, on one line without needless space."""
    text = source[start_of:end_of] if after is None else source[start_of:start] + after.encode() + source[end:end_of]
    return " ".join(text.decode().split())


def mutants_of(file: str, source: bytes) -> list[Mutant]:
    """All mutants of a file, in the order of its bytes."""
    tree = Parser(Language(tree_sitter_c.language())).parse(source)
    found = []
    for function in functions(tree.root_node):
        body = function.child_by_field_name("body")
        for node in walk(body) if body is not None else ():
            for place, after, kind in changes(node):
                start, end = place.start_byte, place.end_byte
                start_of = source.rfind(b"\n", 0, start) + 1
                end_of = source.find(b"\n", end)
                end_of = end_of if end_of >= 0 else len(source)
                lines = [one_line(source, start, end, start_of, end_of, with_it) for with_it in (None, after)]
                line = place.start_point[0] + 1
                found.append(Mutant(file, function_name(function), line, start, end, after, kind, *lines))
    return sorted(found, key=lambda mutant: (mutant.start, mutant.end, mutant.after))
