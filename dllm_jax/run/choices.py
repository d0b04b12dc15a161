"""Settings that are chosen on validation rows."""

from collections.abc import Mapping
from typing import Any

from dllm_jax import types
from dllm_jax.eval import accuracy, frontier
from dllm_jax.run import setup
from dllm_jax.tasks import task as task_lib


def choose_setting(
  run: setup.Run, base: types.Params
) -> tuple[int | str, float]:
  """The plain decoder with which the base is best on validation rows.

  Returns:
    Its key in `Settings.plain_decoders`, and the accuracy of the base on these
    rows, in 0..1; NaN where there was no choice.
  """
  decoders = run.cfg.plain_decoders()
  is_open_ended = isinstance(run.ctx.task, task_lib.OpenEnded)
  # Of causal models there is but one, and no gate to compare it with.
  if run.cfg.is_causal or is_open_ended:
    return next(iter(decoders)), float('nan')
  evaluations = _validate(run, base, decoders)
  setting = max(evaluations, key=lambda key: evaluations[key].accuracy)
  return setting, evaluations[setting].accuracy


def choose_threshold(
  run: setup.Run, params: types.Params, wanted: float
) -> float:
  """The threshold of fewest steps that keeps `wanted` on validation rows."""
  evaluations = _validate(run, params, run.cfg.gated_decoders())
  return frontier.fewest_steps(evaluations, wanted)


def _validate(
  run: setup.Run,
  params: types.Params,
  decoders: Mapping[Any, types.Decoder],
) -> dict[Any, accuracy.Evaluation]:
  run.watch.beat('validation')
  return accuracy.sweep(
    run.ctx,
    params,
    run.rows.validation,
    decoders,
    batch_size=run.cfg.eval.batch_size,
    advance=lambda count: run.beat('validation'),
  )
