"""What routing.json says of models with experts, as tables of the page."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

HEADINGS = (
  'model',
  'updates',
  'seconds',
  'loss',
  'MRR',
  'rank 1',
  'tied',
  'MRR, router',
  'cross loss',
  'path variance',
  'load',
)

Study = Mapping[str, Any]  # routing.json


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


def summary(study: Study) -> Summary:
  """A row for every model."""
  how, chance = study['study'], study['models']['base']['chance']
  return Summary(
    f'routing on {study["num"]} held-out rows, {how["num_paths"]} perturbed '
    f'paths a row',
    HEADINGS,
    [_cells(model) for model in study['models'].values()],
    f"MRR: mean reciprocal rank of the router's own path (chance {chance:.4f})"
    f' where {100 * how["alpha"]:.0f} % of the cells go to '
    f'{_words(how["replacement"])}; rank 1: rows without a better path; tied: '
    'perturbed paths that are as good; cross loss: of tokens served by '
    "another token's expert; path variance: of the loss over paths; load: "
    "entropy of the experts' shares, 1 is even",
  )


def heats(study: Study) -> list[tuple[str, list[Heat]]]:
  """(title, tables) of each model: who goes where, and who can serve whom."""
  found = []
  for model in study['models'].values():
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
    found.append((model['title'], maps))
  return found


def _numbers(of: Sequence[Any]) -> list[str]:
  return [str(i) for i in range(len(of))]


def _words(replacement: str) -> str:
  return {
    'other': 'another expert, uniformly',
    'uniform': 'an expert drawn uniformly',
    'router': 'an expert drawn by the router',
  }[replacement]


def _cells(model: Mapping[str, Any]) -> list[str]:
  sampled = model.get('mrr_by_router') or model['mrr']
  return [
    model['title'],
    str(model['steps']),
    f'{model["seconds"]:.1f}',
    f'{model["loss"]:.4f}',
    f'{model["mrr"]["mrr"]:.3f}',
    f'{100 * model["mrr"]["first"]:.0f} %',
    f'{100 * model["mrr"]["ties"]:.0f} %',
    f'{sampled["mrr"]:.3f}',
    f'{model["cross_loss"]:.3f}',
    f'{model["path_variance"]:.4f}',
    f'{model["load_entropy"]:.2f}',
  ]
