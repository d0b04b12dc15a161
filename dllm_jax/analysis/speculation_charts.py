"""What speculation.json says of decoders, as charts, a sentence and a table.

The charts are data for the page, as in `charts`. Where the compressed copy of
the model agrees with it with probability p, and its call costs c calls of the
model, a round of the fractal decoder commits 2 + sum_{i=1..m} p^i tokens at the
cost 2 + m c; one of the sequential draft, 1 + sum p^i tokens at 1 + m c
(`eval.speculation` has computed both laws). D is the number of placeholders.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dllm_jax.analysis import charts

# Calls of the model itself in a round.
OWN_CALLS = {'draft': 1, 'fractal': 2}
COSTS = [i / 50 for i in range(51)]  # c of a chart
NUM_SLOTS = 6  # colours
HEADINGS = (
  'decoder',
  'm',
  'identical',
  'tokens a round',
  'model calls a token',
  'compressed calls a token',
  'cost of a round',
  'c',
  'tokens/s',
  'speed-up',
)

Study = Mapping[str, Any]  # speculation.json
Row = Mapping[str, Any]  # one of its rows


class Summary(NamedTuple):
  """The comparison in words.

  Attributes:
    outcome: whether the completions are those of greedy decoding.
    agreement: of each compressed copy with the model, compression first.
    greedy: tokens per second of greedy decoding, 'cache' and 'no_cache'.
    headings: of the table.
    rows: cells of the table: what was measured, and what the law says or ''.
  """

  outcome: str
  agreement: list[tuple[str, float]]
  greedy: dict[str, float]
  headings: tuple[str, ...]
  rows: list[list[tuple[str, str]]]


def sections(study: Study | None) -> dict[str, list[dict[str, Any]]]:
  """The charts by section of the page; none without a comparison."""
  return {
    'speculation': of_tokens(study) if study else [],
    'speculation_cost': [of_cost(study)] if study else [],
  }


def summary(study: Study) -> Summary:
  """The sentences and the table."""
  return Summary(
    outcome(study),
    list(study['agreement'].items()),
    {
      regime: speed['tokens_per_second']
      for regime, speed in study['greedy'].items()
    },
    HEADINGS,
    [_cells(row, study['num']) for row in study['rows']],
  )


def outcome(study: Study) -> str:
  """How many completions are those of greedy decoding; if not all, how near."""
  rows, num = study['rows'], study['num']
  total = len(rows) * num
  same = sum(row['identical'] for row in rows)
  counts = (
    f'{same} of {total} completions ({len(rows)} decoders × {num} prompts)'
  )
  if same == total:
    return f'Every decoder wrote what greedy decoding writes: {counts}.'
  exact = sum(row['identical'] == num for row in rows)
  said = (
    f'{exact} of {len(rows)} decoders wrote exactly what greedy decoding '
    f'writes; {counts} are identical.'
  )
  gaps = [row['worst_gap'] for row in rows if row['worst_gap'] is not None]
  if gaps:
    said += (
      " Where the others first differ, the model's two best logits are at most "
      f'{max(gaps):.2g} apart.'
    )
  return said


def of_tokens(study: Study) -> list[dict[str, Any]]:
  """By compression: tokens a round against m, and their distribution."""
  rows = study['rows']
  slots, found = _slots(rows), []
  for compression in dict.fromkeys(row['compression'] for row in rows):
    own = [row for row in rows if row['compression'] == compression]
    found += [_tokens(own, compression, slots)]
    found += [_histogram(own, compression, slots)]
  return [chart for chart in found if chart['series']]


def of_cost(study: Study) -> dict[str, Any]:
  """Predicted speed-up against c, with the best m at each c; and the measured.

  It is drawn for int8, or the first compression where that was not tried.
  """
  rows, agreement = study['rows'], study['agreement']
  tried = list(dict.fromkeys(row['compression'] for row in rows))
  compression = 'int8' if 'int8' in tried else tried[0]
  slots, series = _slots(rows), []
  rows = [row for row in rows if row['compression'] == compression]
  for decode, ours in _by(rows, lambda row: row['decode']).items():
    best = [max((_speedup(row, c), row['m']) for row in ours) for c in COSTS]
    series.append(
      _over_c(f'{decode}, predicted', _law_slot(ours, slots), COSTS, best)
    )
  regime = lambda row: (row['decode'], row['use_cache'])
  for ours in _by(rows, regime).values():
    fastest = max(ours, key=lambda row: row['speedup'])
    name = _name(fastest) + ', measured'
    point = [(fastest['speedup'], fastest['m'])]
    series.append(_over_c(name, slots[_name(fastest)], [fastest['c']], point))
  plain = {'name': 'greedy', 'slot': '5', 'x': [0.0, 1.0], 'y': [1.0, 1.0]}
  return {
    'title': 'Which decoder wins at which cost',
    'unit': '',
    'x': 'c, a compressed call in calls of the model',
    'note': (
      f'speed-up against greedy decoding; p = {agreement[compression]:.3f} of '
      f'{compression}, and the best m of those tried'
    ),
    'series': [*series, plain | {'dash': True}],
  }


def _tokens(
  rows: Sequence[Row], compression: str, slots: Mapping[str, str]
) -> dict[str, Any]:
  """Measured tokens a round, and for each kind of decoder the law, dashed."""
  series = []
  for name, ours in _by(rows, _name).items():
    known = {r['m']: r['tokens_per_round'] for r in ours}
    series.append(
      _over_m(name, slots[name], {m: y for m, y in known.items() if y})
    )
  for decode, ours in _by(rows, lambda row: row['decode']).items():
    law = {row['m']: row['predicted_tokens'] for row in ours}
    series.append(
      _over_m(f'law of {decode}', _law_slot(ours, slots), law) | {'dash': True}
    )
  return {
    'title': f'Tokens a round, {compression}',
    'unit': '',
    'x': 'm',
    'note': 'against m, the compressed calls of a round; dashed: the law',
    'series': [s for s in series if s['x']],
  }


def _histogram(
  rows: Sequence[Row], compression: str, slots: Mapping[str, str]
) -> dict[str, Any]:
  """Shares of rounds by their tokens, for the largest m of fractal."""
  rows = [row for row in rows if row['decode'] == 'fractal']
  most = max((row['m'] for row in rows), default=0)
  series = []
  for row in rows:
    counts = row['histogram'][1:]  # no round is without a token
    total = sum(counts)
    if row['m'] == most and total:
      shares = {i: n / total for i, n in enumerate(counts, 1)}
      series.append(_over_m(_name(row), slots[_name(row)], shares))
  return {
    'title': f'Rounds by their tokens, fractal {compression}, m = {most}',
    'unit': 'share',
    'x': 'tokens of a round',
    'note': 'share of the rounds, against their tokens',
    'series': series,
  }


def _speedup(row: Row, c: float) -> float:
  """Tokens of a round over its cost, both by the law."""
  return row['predicted_tokens'] / (OWN_CALLS[row['decode']] + row['m'] * c)


def _name(row: Row) -> str:
  """The decoder, but for its compression and m."""
  name = row['decode']
  if row['num_placeholders'] is not None:
    name += f', D = {row["num_placeholders"]}'
  return name if row['use_cache'] else f'{name}, no cache'


def _slots(rows: Iterable[Row]) -> dict[str, str]:
  """A colour for each decoder, the same in all charts."""
  names = dict.fromkeys(map(_name, rows))
  return {name: str(i % NUM_SLOTS) for i, name in enumerate(names)}


def _law_slot(rows: Sequence[Row], slots: Mapping[str, str]) -> str:
  """The colour of the law's decoder: no placeholders, and with a cache."""
  plain = lambda row: (row['num_placeholders'] or 0, not row['use_cache'])
  return slots[_name(min(rows, key=plain))]


def _by(rows: Iterable[Row], key) -> dict[Any, list[Row]]:
  """Rows in groups, in the order of the file."""
  groups: dict[Any, list[Row]] = {}
  for row in rows:
    groups.setdefault(key(row), []).append(row)
  return groups


def _over_m(
  name: str, slot: str, points: Mapping[int, float]
) -> dict[str, Any]:
  x = sorted(points)
  return _line(name, slot, x, [points[m] for m in x])


def _over_c(
  name: str, slot: str, x: Sequence[float], best: Sequence[tuple[float, int]]
) -> dict[str, Any]:
  """(speed-up, m) over c."""
  line = _line(name, slot, x, [speedup for speedup, _ in best])
  return line | {'labels': [f'm = {m}' for _, m in best]}


def _line(
  name: str, slot: str, x: Sequence[int | float], y: Sequence[float]
) -> dict[str, Any]:
  return {
    'name': name,
    'slot': slot,
    'x': charts.rounded(np.array(x, float)),
    'y': charts.rounded(np.array(y, float)),
  }


def _cells(row: Row, num: int) -> list[tuple[str, str]]:
  """A row of the table."""
  head, *rest = _name(row).split(', ')
  tokens = row['tokens_per_round']
  return [
    (', '.join([f'{head} {row["compression"]}', *rest]), ''),
    (str(row['m']), ''),
    (f'{row["identical"]}/{num}', ''),
    (
      '–' if tokens is None else f'{tokens:.2f}',
      f'{row["predicted_tokens"]:.2f}',
    ),
    (f'{row["calls_per_token"]:.2f}', ''),
    (f'{row["compressed_calls_per_token"]:.2f}', ''),
    (f'{row["cost"]:.2f}', f'{row["predicted_cost"]:.2f}'),
    (f'{row["c"]:.2f}', ''),
    (f'{row["tokens_per_second"]:.0f}', ''),
    (f'{row["speedup"]:.2f}', ''),
  ]
