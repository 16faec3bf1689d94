"""A pipeline's schedule in words, for JSON, and as a picture."""

from __future__ import annotations

from typing import Any

from rdmatensor.torch.graph.pipeline import Pipeline

__all__ = ["as_dict", "picture", "words"]

_WIDEST = 120  # characters of a table of the schedule
_ROW, _LABEL, _COLOURS = 22, 60, {"F": "#bcd4f0", "B": "#f0d3bc"}


def words(pipeline: Pipeline) -> list[str]:
    """The lines of `explain()`: microbatches, what each stage keeps, the bubble, and the schedule if it is short."""
    of_loss = "the mean of their losses" if pipeline.mean else "the sum of their losses"
    idle = f"{pipeline.bubble:.1%} of a step by the operations of this plan ({_equal(pipeline):.1%} if they were equal)"
    lines = [
        f"{pipeline.microbatches} microbatches in the order of 1F1B; the loss is {of_loss}, and gradients likewise.",
        f"Stages are idle for {idle}, transfers left out.",
        "",
    ]
    total = sum(map(sum, pipeline.costs)) or 1
    for stage in range(pipeline.stages):
        share = f", {sum(pipeline.costs[stage]) / total:.1%} of the operations" if pipeline.costs else ""
        lines.append(f"stage{stage}  is in at most {pipeline.keeps(stage)} microbatches at once{share}")
    table = [f"stage{stage}  " + " ".join(cell.rjust(3) for cell in row) for stage, row in enumerate(pipeline.rows())]
    if max(map(len, table)) <= _WIDEST:
        lines += ["", *(row.rstrip() for row in table)]
    return lines


def _equal(pipeline: Pipeline) -> float:
    return Pipeline(pipeline.stages, pipeline.microbatches).bubble


def as_dict(pipeline: Pipeline) -> dict[str, Any]:
    """The same for programs."""
    return {
        "stages": pipeline.stages,
        "microbatches": pipeline.microbatches,
        "loss": "mean" if pipeline.mean else "sum",
        "bubble": pipeline.bubble,
        "bubble_of_equal_stages": _equal(pipeline),
        "keeps": [pipeline.keeps(stage) for stage in range(pipeline.stages)],
        "operations": [list(one) for one in pipeline.costs],
        "order": [[str(task) for task in pipeline.order(stage)] for stage in range(pipeline.stages)],
    }


def picture(pipeline: Pipeline, top: float, width: float) -> tuple[list[str], float]:
    """Elements of SVG from a height on, and the height below them: a row for each stage, a box for each pass, as
    long as its share of the operations.
    """
    times = pipeline.timeline()
    scale = (width - _LABEL - 10) / (max(one.end for one in times) or 1)
    title = f"{pipeline.microbatches} microbatches, idle for {pipeline.bubble:.1%}"
    parts = [f'<text x="8" y="{top + 14:.0f}" font-weight="bold">{title}</text>']
    for stage in range(pipeline.stages):
        y = top + 24 + stage * _ROW
        keeps = f"at most {pipeline.keeps(stage)} microbatches at once"
        parts.append(f'<text x="8" y="{y + 14:.0f}">stage{stage}<title>{keeps}</title></text>')
    for task, begin, end in times:
        x, y = _LABEL + begin * scale, top + 24 + task.stage * _ROW
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{(end - begin) * scale:.1f}" height="{_ROW - 4}" '
            f'fill="{_COLOURS[task.kind]}" stroke="#fff"/>'
            f'<text x="{x + (end - begin) * scale / 2:.1f}" y="{y + 13:.1f}" font-size="9" '
            f'text-anchor="middle">{task}</text>'
        )
    return parts, top + 34 + pipeline.stages * _ROW
