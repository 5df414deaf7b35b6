"""A study that costs nothing to plan, and its variations."""

from pathlib import Path
from textwrap import dedent

SMALL = dedent("""\
    title: Does a wider model read better?
    question: Two widths read the same text.
    recipe: study
    measures: [bits_per_byte]
    settings: {training.tokens: 65_536}
    seeds: [1, 2]
    axes:
      width:
        narrow: {model.width: 32, model.heads: 1}
        wide: {model.width: 64, model.heads: 2}
      decay:
        none: {training.weight_decay: 0.0}
        strong: {training.weight_decay: 0.3}
    arms:
      widths: {axes: [width]}
      decays: {axes: [decay], settings: {model.width: 32, model.heads: 1}, seeds: [7]}
    scales:
      smoke: {minutes: 1, seeds: [1], arms: [widths]}
      cpu: {minutes: 1}
      gpu:
        gpu: RTX 3080 Ti
        settings: {training.precision: bf16}
        own_arms:
          widths: {axes: [width], settings: {training.tokens: 1_048_576}}
    """)


def write_study(folder: Path, *changes: tuple[str, str]) -> str:
    """The path of the small study with parts of its text replaced; each part has to be there."""
    text = SMALL
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "widths.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)
