"""Results of measurements and plans as tables for the console."""

from typing import Any

import rich.table

from dllm_jax.bench import kernels, programs


def measured(rows: list[dict[str, Any]], title: str) -> rich.table.Table:
  """The rows of a suite; speed-ups are PyTorch's time over ours."""
  table = rich.table.Table(title=title)
  for name in (
    'case',
    'tokens/s',
    'steps/s',
    'compile s',
    'FLOPs / min.',
    'peak MB',
    'MFU',
    'wall s (spread)',
    'CPU s',
    'over published, wall (CPU)',
    'over tuned, wall (CPU)',
    'same',
  ):
    table.add_column(name, justify='left' if name == 'case' else 'right')
  for row in rows:
    ours = row['seconds']['ours']
    ratios = [
      f'{row["speedup"][name]["wall"]:.2f} ({row["speedup"][name]["cpu"]:.2f})'
      if name in row['speedup']
      else '-'
      for name in ('torch_published', 'torch_tuned')
    ]
    table.add_row(
      row['case'],
      f'{row["tokens_per_second"]:.0f}',
      f'{row["steps_per_second"]:.2f}',
      _number(row.get('compile_seconds'), '.1f'),
      _number(row.get('flops_over_minimum'), '.3f'),
      _number(row.get('peak_bytes'), '.1f', 1e6),
      _number(row['mfu'], '.3f'),
      f'{ours["wall"]:.4f} ({100 * ours["spread"]:.0f} %)',
      f'{ours["cpu"]:.4f}',
      *ratios,
      _number(row.get('same_as_published'), '.6f'),
    )
  return table


def profiled(row: dict[str, Any], most: int) -> rich.table.Table:
  """The costliest operations of a row of a suite; see `kernels.profile`."""
  found = row['kernels']
  total = sum(kernel.seconds for kernel in found)
  share = lambda seconds: f'{100 * seconds / total:.1f}'
  kinds = kernels.by_kind(found)
  table = rich.table.Table(
    title=f'{row["case"]}: {1000 * total:.2f} ms of operations a call',
    caption=', '.join(f'{kind} {share(s)} %' for kind, s in kinds.items()),
  )
  for name in ('operation', 'kind', 'ms', '%', 'runs', 'traced from'):
    is_text = name in ('operation', 'kind', 'traced from')
    table.add_column(name, justify='left' if is_text else 'right')
  for kernel in found[:most]:
    table.add_row(
      kernel.name,
      kernel.kind,
      f'{1000 * kernel.seconds:.3f}',
      share(kernel.seconds),
      f'{kernel.runs:g}',
      kernel.source,
    )
  return table


def cached(rows: list[dict[str, Any]], title: str) -> rich.table.Table:
  """The rows of `caches.compare`; speed-ups are other times over these."""
  table = rich.table.Table(title=title)
  others = [name for name in rows[0]['speedup'] if name != 'none']
  for name in (
    'cache',
    'tokens/s',
    *(f'over {name}, wall (CPU)' for name in ('none', *others)),
    'FLOPs / none',
    'calls: whole + window',
    'cache MB',
    'same tokens',
    'KL, nats',
    'wall s (spread)',
  ):
    table.add_column(name, justify='left' if name == 'cache' else 'right')
  for row in rows:
    calls, time = row['calls'], row['seconds']
    ratios = [row['speedup'][name] for name in ('none', *others)]
    table.add_row(
      row['cache'],
      f'{row["tokens_per_second"]:.1f}',
      *(f'{each["wall"]:.2f} ({each["cpu"]:.2f})' for each in ratios),
      f'{row["flops_over_none"]:.3f}',
      f'{calls["whole"]} + {sum(calls["windows"].values())}',
      f'{row["cache_bytes"] / 1e6:.2f}',
      f'{row["same_as_none"]:.4f}',
      _number(row['kl'], '.2e'),
      f'{time["wall"]:.3f} ({100 * time["spread"]:.0f} %)',
    )
  return table


def _number(value: float | None, form: str, unit: float = 1.0) -> str:
  return '-' if value is None else format(value / unit, form)


def planned(plan: dict[str, Any]) -> rich.table.Table:
  """The costs of one device of a mesh, one program per line.

  `peak` is the compiler's and `estimate` that of `memory`; `beside` is what a
  run holds besides the arguments of the program. Bytes are in GB (10^9).
  """
  axes = ', '.join(f'{axis} {size}' for axis, size in plan['mesh'].items())
  table = rich.table.Table(
    title=f'{plan["preset"]} on {plan["devices"]} devices ({axes}), '
    f'{plan["rows"]} rows, LoRA rank {plan["lora_rank"]}, compiled for '
    f'{plan["compiler"]}; per device, bytes in GB (10^9)',
    caption=verdict(plan),
  )
  for name in (
    'program',
    'arguments',
    'outputs',
    'temporaries',
    'in place',
    'peak',
    'estimate',
    'beside',
    'TFLOP',
    'x minimum',
    'collectives',
    'compile s',
  ):
    table.add_column(name, justify='left' if name == 'program' else 'right')
  for row in plan['programs']:
    sent = '\n'.join(
      f'{kind} {nbytes / 1e9:.2f}'
      for kind, nbytes in sorted(row['collectives'].items())
      if nbytes >= 1e7
    )
    table.add_row(
      programs.TITLES[row['program']],
      *(
        f'{row[name] / 1e9:.2f}'
        for name in (
          'arguments',
          'outputs',
          'temporaries',
          'aliases',
          'compiled',
          'estimate',
          'resident',
        )
      ),
      f'{row["flops"] / 1e12:.2f}',
      f'{row["flops"] / row["minimum"]:.2f}',
      sent or '-',
      f'{row["compile_seconds"]:.0f}',
    )
  return table


def verdict(plan: dict[str, Any]) -> str:
  """One sentence: whether the step fits, and according to what."""
  by = 'the compiler' if plan['compiler'] == 'tpu' else 'the estimate'
  return (
    f'{"fits" if plan["fits"] else "DOES NOT FIT"} {plan["device"]}: '
    f'{plan["needed_bytes"] / 1e9:.2f} GB by {by}, of '
    f'{plan["device_bytes"] / 1e9:.0f} GB'
  )
