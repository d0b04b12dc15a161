"""What routing.json says of models with experts, as tables of the page."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Study = Mapping[str, Any]  # routing.json


class Column(NamedTuple):
  """A column of the comparison.

  Attributes:
    heading: of the column.
    cell: the text for a model's figures.
    meaning: of the heading, if it needs words.
    is_brief: also in the table of the terminal, which has 80 columns.
  """

  heading: str
  cell: Callable[[Mapping[str, Any]], str]
  meaning: str = ''
  is_brief: bool = True


COLUMNS = (
  Column('updates', lambda model: str(model['steps'])),
  Column('seconds', lambda model: f'{model["seconds"]:.1f}', '', False),
  Column('loss', lambda model: f'{model["loss"]:.4f}'),
  Column(
    'perplexity',
    lambda model: f'{math.exp(model["loss"]):.3f}',
    'exponential of the loss, per token',
    False,
  ),
  Column('MRR', lambda model: f'{model["mrr"]["mrr"]:.3f}'),
  Column(
    'rank 1',
    lambda model: f'{100 * model["mrr"]["first"]:.0f} %',
    'rows without a better path',
  ),
  Column(
    'tied',
    lambda model: f'{100 * model["mrr"]["ties"]:.0f} %',
    'perturbed paths that are as good',
    False,
  ),
  Column(
    'MRR, router',
    lambda model: f'{(model.get("mrr_by_router") or model["mrr"])["mrr"]:.3f}',
    'of paths that the router draws',
    False,
  ),
  Column(
    'cross loss',
    lambda model: f'{model["cross_loss"]:.3f}',
    "of tokens served by another token's expert",
  ),
  Column(
    'path variance',
    lambda model: f'{model["path_variance"]:.4f}',
    'of the loss over paths',
    False,
  ),
  Column(
    'load',
    lambda model: f'{model["load_entropy"]:.2f}',
    "entropy of the experts' shares, 1 is even",
  ),
)


class Summary(NamedTuple):
  """The comparison of all models.

  Attributes:
    caption: of the table.
    headings: its columns.
    rows: its cells.
    note: what the columns mean.
  """

  caption: str
  headings: tuple[str, ...]
  rows: list[list[str]]
  note: str


class Heat(NamedTuple):
  """A table of shares or losses, drawn by shades.

  Attributes:
    caption: of the table.
    columns: headings.
    rows: heading and cells: (text, shade in 0..1).
  """

  caption: str
  columns: list[str]
  rows: list[tuple[str, list[tuple[str, float]]]]


def summary(study: Study, brief: bool = False) -> Summary:
  """A row for every model; `brief` is for a terminal."""
  how, chance = study['study'], study['models']['base']['chance']
  columns = [column for column in COLUMNS if column.is_brief or not brief]
  meanings = [f'{c.heading}: {c.meaning}' for c in columns if c.meaning]
  return Summary(
    f'routing on {study["num"]} held-out rows, {how["num_paths"]} perturbed '
    f'paths a row',
    ('model', *(column.heading for column in columns)),
    [
      [name, *(column.cell(model) for column in columns)]
      for name, model in study['models'].items()
    ],
    f"MRR: mean reciprocal rank of the router's own path (chance {chance:.4f})"
    f' where {100 * how["alpha"]:.0f} % of the cells go to '
    f'{_words(how["replacement"])}; ' + '; '.join(meanings),
  )


def heats(study: Study) -> list[tuple[str, list[Heat]]]:
  """(title, tables) of each model: who goes where, and who can serve whom."""
  found = []
  for name, model in study['models'].items():
    maps = [
      Heat(
        f'Layer {layer}: share of the tokens of each kind of row, by expert',
        _numbers(shares[0]),
        [
          (str(kind), [(f'{100 * s:.0f}', s) for s in row])
          for kind, row in enumerate(shares)
        ],
      )
      for layer, shares in enumerate(zip(*model['map'], strict=True))
    ]
    cross = [
      (str(expert), [(f'{loss:.2f}', min(loss / 4, 1.0)) for loss in row])
      for expert, row in enumerate(model['cross'])
      if row[0] is not None
    ]
    title = 'Loss of the tokens of an expert (row) when another serves them'
    maps.append(Heat(title, _numbers(model['cross']), cross))
    found.append((name, maps))
  return found


def _numbers(of: Sequence[Any]) -> list[str]:
  return [str(i) for i in range(len(of))]


def _words(replacement: str) -> str:
  return {
    'other': 'another expert, uniformly',
    'uniform': 'an expert drawn uniformly',
    'router': 'an expert drawn by the router',
  }[replacement]
