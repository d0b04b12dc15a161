"""What an evaluation of kept models starts from."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from dllm_jax import errors
from dllm_jax import model as model_lib
from dllm_jax.eval import few_shot
from dllm_jax.rollout import context
from dllm_jax.run import base_model, checks, eval_files, settings, setup
from dllm_jax.runtime import processes, sharding
from dllm_jax.state import provenance, workdir
from dllm_jax.tasks import task as task_lib

# Config keys that say how models are judged and run, not what they are.
_NOT_OF_MODEL = (
  'task.parity',
  'task.sandbox_',
  'model.attention',
  'model.remat',
)


def start(
  config: Mapping[str, Any],
  cfg: settings.Settings,
  directory: pathlib.Path,
  models: Mapping[str, model_lib.Model],
  out: pathlib.Path | None,
  shots: few_shot.FewShot,
  *,
  generates: bool = True,
) -> tuple[context.Context, Sequence[task_lib.Row], Sequence[task_lib.Row]]:
  """The models' context, the held-out rows, and the rows of the examples.

  All checks have passed, and the context shows the examples.
  """
  if isinstance(cfg.task, task_lib.OpenEnded):
    raise errors.UserError(
      f'task {cfg.task_name!r} has no right answers, and so no accuracy: '
      'launch/train.py measures the agreement of its phrasings'
    )
  _check_same_model(config, directory)
  first = next(iter(models.values()))
  ctx = setup.make_context(cfg, first, adapters=first.overrides is not None)
  for model in models.values():
    base_model.check_params(model.folder, ctx)
  sharding.check_divides(cfg.eval.batch_size, ctx.mesh, 'eval.batch_size')
  given = {'--out': 'given' if out is not None else 'not given'}
  processes.check_same(workdir.flatten(config) | provenance.code() | given)
  if out is not None:
    processes.from_first(
      'the results', lambda: eval_files.check_writable(out, directory)
    )
  rows, examples = setup.after_first(setup.load_test, cfg), []
  if shots.num:
    train = setup.after_first(setup.load_examples, cfg)
    examples = few_shot.choose(cfg.task, train, rows, shots)
  if generates:
    text = few_shot.text(cfg.task, examples)
    template = dataclasses.replace(ctx.template, examples=text)
    ctx = dataclasses.replace(ctx, template=template)
    ctx.encode(rows)
    checks.check_verifier(ctx, rows)
  return ctx, rows, examples


def told(
  shots: few_shot.FewShot, examples: Sequence[task_lib.Row]
) -> dict[str, Any]:
  """What the results file says of the examples."""
  return dataclasses.asdict(shots) | {'ids': [row['id'] for row in examples]}


def _check_same_model(
  config: Mapping[str, Any], directory: pathlib.Path
) -> None:
  """Refuses a config of another task, model or prefill than the run's.

  Models with a pretrained tokenizer read any task, and have their own shape.
  """
  own = workdir.read_config(directory)
  if own is None:
    return
  given, groups = workdir.flatten(config), ('task.', 'model.')
  if own['base']['path']:
    groups = ('model.lora_', 'model.param_dtype')
  groups += ('rollout.prefill',)
  # Another task is the reason for what follows of it.
  first = lambda item: item[0] != 'task.name'
  for key, value in sorted(workdir.flatten(own).items(), key=first):
    if key.startswith(groups) and not key.startswith(_NOT_OF_MODEL):
      if given.get(key) != value:
        raise errors.UserError(
          f'{directory} was trained with {key}={value}, the config says '
          f'{given.get(key)}; give the config, preset and overrides of the run'
        )
