"""The comparison of decoders that ends a run of a causal model.

It writes speculation.json, what `eval.speculation.study` returns, and instead
of base and final policy trajectories.jsonl has the first problems as greedy,
drafted and fractal decoding complete them.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dllm_jax import errors, types
from dllm_jax.eval import speculation
from dllm_jax.rollout import score
from dllm_jax.run import replay, setup, trajectories
from dllm_jax.runtime import console, processes
from dllm_jax.state import workdir
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import loop

FILE = 'speculation.json'
KIND = 'drafted'  # of the problems in trajectories.jsonl


def check(cfg: speculation.StudyConfig, denoiser: types.Denoiser) -> None:
  """Refuses what cannot be compared with the run's model.

  Raises:
    errors.UserError: the model has no layers that can be compressed, or fewer
      than modules are wanted.
  """
  if not cfg.num_prompts:
    return
  if not isinstance(denoiser, types.LayeredLM):
    raise errors.UserError(
      f'config key speculation.num_prompts is {cfg.num_prompts}, but the model '
      'is no causal transformer: use 0'
    )
  for decoder in cfg.decoders():
    decoder.check(denoiser)


def run_study(run: setup.Run, params: types.Params) -> None:
  """Compares the decoders on the first held-out problems, and keeps it all."""
  cfg, ctx = run.cfg.speculation, run.ctx
  rows = run.rows.test[: cfg.num_prompts]
  encoded = ctx.encode(rows)
  ids = [i[m].tolist() for i, m in zip(encoded.ids, encoded.mask, strict=True)]
  decoders = cfg.decoders()
  with run.screen.stage('speculative decoding', len(decoders)) as bar:
    study = speculation.Study(
      ctx.denoiser, params, ids, cfg, vocab=ctx.vocab, mesh=ctx.mesh
    )
    table, shown = [], {'greedy': study.greedy}
    for decoder in decoders:
      run.watch.beat('speculative decoding')
      loop.check_stop(run.stop)
      row, made = study.compare(decoder)
      table.append(row)
      if row['use_cache'] and row['num_placeholders'] != 0:
        shown[f'{row["decode"]} {row["compression"]}, m = {row["m"]}'] = made
      bar.step()
  if processes.is_first():
    result = study.summary() | {'rows': table}
    workdir.write_json(run.directory / FILE, result)
    _keep_completions(run, rows, shown)


def _keep_completions(
  run: setup.Run,
  rows: Sequence[task_lib.Row],
  shown: Mapping[str, types.Trajectory],
) -> None:
  """Writes problems, each under greedy, drafted and fractal decoding."""
  names = ['greedy']
  for decode in ('draft', 'fractal'):
    names += [name for name in shown if name.startswith(decode)][1:2]
  with (run.directory / trajectories.FILE).open('w', encoding='utf-8') as file:
    for i, row in enumerate(rows[: 2 * trajectories.NUM_EACH]):
      record = {
        'id': row['id'],
        'kind': KIND,
        'prompt': run.ctx.task.prompt(row) + run.ctx.prefill,
        'gold': run.ctx.task.gold(row),
        'block_length': run.cfg.rollout.decoder.gen_length,
        'samples': [_sample(run, row, name, shown[name], i) for name in names],
      }
      file.write(json.dumps(record) + '\n')


def _sample(
  run: setup.Run, row: task_lib.Row, name: str, made: types.Trajectory, i: int
) -> dict[str, Any]:
  ctx = run.ctx
  length = score.completion_mask(made.tokens[i : i + 1], ctx.vocab.stop_tokens)
  scored = score.score(
    ctx.task,
    ctx.tokenizer,
    [row],
    made.tokens[i : i + 1],
    score.RewardConfig(weights=()),
    prefill=ctx.prefill,
  )
  sample = {
    'policy': 'final',
    'decoding': name,
    'pieces': replay.pieces(ctx.tokenizer, made.tokens[i].tolist()),
    'commit_step': made.commit_step[i].tolist(),
    'confidence': np.exp(made.logp[i]).round(4).tolist(),
    'num_steps': int(made.num_steps[i]),
    'length': int(length.sum()),
    'correct': bool(scored.correct[0]),
    'steps': [],
    'rewards': [],
  }
  drafted = [-1] * len(sample['pieces'])
  if made.drafted is not None:
    drafted = made.drafted[i].tolist()
  spell = lambda token: None if token < 0 else ctx.tokenizer.decode([token])
  return sample | {'drafted': [spell(token) for token in drafted]}


def show(directory: pathlib.Path, screen: console.Console) -> None:
  """The closing table, if the run compared decoders."""
  if not (directory / FILE).exists():
    return
  result = json.loads((directory / FILE).read_text())
  show_result(result, screen)


def show_result(result: Mapping[str, Any], screen: console.Console) -> None:
  """The table of a study, and its outcome in words."""
  screen.table(*table(result))
  for line in outcome(result):
    screen.line(line)


def outcome(result: Mapping[str, Any]) -> list[str]:
  """The speeds of greedy decoding, and whether all decoders gave its tokens."""
  speeds = [
    f'{value["tokens_per_second"]:.0f} tokens/s {_WITH[regime]}'
    for regime, value in result['greedy'].items()
  ]
  rows, num = result['rows'], result['num']
  right = sum(row['identical'] for row in rows)
  same = (
    f'{right} of {len(rows) * num} completions of {len(rows)} decoders are '
    'those of greedy decoding'
  )
  gaps = [row['worst_gap'] for row in rows if row['worst_gap'] is not None]
  if gaps:
    same += (
      '; where others first differ, the two best logits are at most '
      f'{max(gaps):.1e} apart'
    )
  return [f'greedy decoding: {", ".join(speeds)}', same]


_WITH = {'cache': 'with a cache', 'no_cache': 'without'}


def table(
  result: Mapping[str, Any],
) -> tuple[str, list[str], list[list[Any]]]:
  """A study as a table: its title, its headings, and a row a decoder."""
  agreement = ', '.join(
    f'{how} {100 * p:.1f} %' for how, p in result['agreement'].items()
  )
  title = (
    f'speculative decoding of {result["num"]} prompts; the compressed model '
    f'agrees in {agreement}'
  )
  headings = ['decoder', 'same', 'tokens (law)', 'cost (law)', 'c', 'speed-up']
  rows = []
  for row in result['rows']:
    name = f'{row["decode"]} {row["compression"]} m={row["m"]}'
    if row['num_placeholders'] is not None:
      name += f' D={row["num_placeholders"]}'
    mean = row['tokens_per_round']
    rows.append(
      [
        name if row['use_cache'] else f'{name} no cache',
        f'{row["identical"]}/{result["num"]}',
        f'{mean:.2f} ({row["predicted_tokens"]:.2f})' if mean else '-',
        f'{row["cost"]:.2f} ({row["predicted_cost"]:.2f})',
        f'{row["c"]:.2f}',
        f'{row["speedup"]:.2f}',
      ]
    )
  return title, headings, rows
