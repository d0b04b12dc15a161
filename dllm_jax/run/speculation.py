"""The comparison of decoders that ends a run of a causal model.

It writes speculation.json, the summary and rows of `eval.speculation.Study`,
and replaces trajectories.jsonl: the first problems as greedy, drafted and
fractal decoding complete them.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from dllm_jax import errors, types
from dllm_jax.analysis import speculation_charts
from dllm_jax.eval import speculation
from dllm_jax.rollout import score
from dllm_jax.run import setup, trajectories
from dllm_jax.runtime import console, processes, sharding
from dllm_jax.state import workdir
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import loop

FILE = 'speculation.json'
KIND = 'drafted'  # of the problems in trajectories.jsonl
# Of the columns of the report's table, what the console has room for.
SHOWN = (
  'decoder',
  'm',
  'identical',
  'tokens a round',
  'cost of a round',
  'c',
  'speed-up',
)


def check(
  cfg: speculation.StudyConfig, denoiser: types.Denoiser, mesh: Mesh
) -> None:
  """Refuses what cannot be compared with a model, before any work.

  Raises:
    errors.UserError: the model has no layers that can be compressed, or fewer
      than modules are wanted; the mesh does not divide the prompts or the
      compressed layers; or there are several processes.
  """
  if not cfg.num_prompts:
    return
  if not isinstance(denoiser, types.LayeredLM):
    raise errors.UserError(
      'speculative decoding is compared for causal transformers, and the model '
      'is none: set speculation.num_prompts=0, or take a causal model'
    )
  if processes.several():
    raise errors.UserError(
      'speculative decoding is compared by one process, and this run has '
      'several: set speculation.num_prompts=0'
    )
  sharding.check_divides(cfg.num_prompts, mesh, 'speculation.num_prompts')
  for decoder in cfg.decoders():
    decoder.check(denoiser)
  for how in cfg.compressions:
    shapes = jax.eval_shape(
      lambda: denoiser.compress(denoiser.init(jax.random.key(0)), how)  # noqa: B023
    )
    sharding.param_shardings(shapes, mesh, sharding.rules_of(denoiser))


def run_study(run: setup.Run, params: types.Params) -> None:
  """Compares the decoders on the first held-out problems, and keeps it all."""
  run.watch.pause()  # Decoders compile for long, and it can be run again.
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
    m = cfg.modules[len(cfg.modules) // 2]
    for decoder in decoders:
      loop.check_stop(run.stop)
      row, made = study.compare(decoder)
      table.append(row)
      name = f'{row["decode"]} {row["compression"]}, m = {row["m"]}'
      if row['compression'] == cfg.compressions[0] and row['m'] == m:
        shown.setdefault(name, made)  # with a cache: those come first
      bar.add()
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
  length = run.cfg.rollout.decoder.gen_length
  with (run.directory / trajectories.FILE).open('w', encoding='utf-8') as file:
    for i, row in enumerate(rows[: 2 * trajectories.NUM_EACH]):
      samples = [
        _sample(run, row, name, made, i) for name, made in shown.items()
      ]
      file.write(trajectories.line(run.ctx, row, KIND, length, samples))


def _sample(
  run: setup.Run, row: task_lib.Row, name: str, made: types.Trajectory, i: int
) -> dict[str, Any]:
  ctx = run.ctx
  scored = score.score(ctx, [row], made.tokens[i : i + 1])
  correct = bool(scored.correct[0])
  sample = trajectories.sample(ctx, 'final', name, made, i, correct)
  drafted = [-1] * len(sample['pieces'])
  if made.drafted is not None:
    drafted = made.drafted[i].tolist()

  def spell(draft, token, piece):
    if draft < 0 or draft == token:
      return None if draft < 0 else piece
    text = ctx.tokenizer.decode([draft])
    return text if text != piece else f'{text} ({draft})'

  tokens = made.tokens[i].tolist()
  spelled = map(spell, drafted, tokens, sample['pieces'])
  return sample | {'drafted': list(spelled)}


def show(directory: pathlib.Path, screen: console.Console) -> None:
  """The closing table, if the run compared decoders."""
  if not (directory / FILE).exists():
    return
  result = json.loads((directory / FILE).read_text())
  show_result(result, screen)


def show_result(result: Mapping[str, Any], screen: console.Console) -> None:
  """The table of a study, and its outcome in words."""
  summary = speculation_charts.summary(result)
  percent = [f'{how} {100 * p:.1f} %' for how, p in summary.agreement]
  places = [summary.headings.index(name) for name in SHOWN]
  cells = lambda row: [
    f'{value} ({law})' if law else value
    for value, law in (row[i] for i in places)
  ]
  screen.table(
    f'speculative decoding of {result["num"]} prompts; the compressed model '
    f'agrees in {", ".join(percent)}',
    list(SHOWN),
    [cells(row) for row in summary.rows],
  )
  speeds = [
    f'{speed:.0f} tokens/s {"with a" if regime == "cache" else "without"} cache'
    for regime, speed in summary.greedy.items()
  ]
  screen.line(f'greedy decoding: {", ".join(speeds)}. {summary.outcome}')
  screen.line(
    'in brackets the laws: tokens a round 2 + p + ... + p^m of fractal at '
    'D = 0 (1 + ... of draft), with p the agreement; cost of a round in greedy '
    'tokens, the sum of its calls timed alone'
  )
