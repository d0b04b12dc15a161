"""Measures decoding and updates.

Our code and the PyTorch reference take turns in one process, with the same
weights and inputs, and a row reports whether their results agree. Weights are
random: the number of steps of a fixed schedule does not depend on them.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dllm_jax.bench import (
  capacity,
  cases,
  flops,
  hardware,
  kernels,
  programs,
)
from dllm_jax.rollout import prompts
from dllm_jax.train import optim
from dllm_jax.train import state as state_lib


class Timing(NamedTuple):
  """Seconds of one call.

  Attributes:
    wall: least wall time of all rounds.
    cpu: least processor time, over all threads of the process.
    spread: median wall time over the least, minus 1.
  """

  wall: float
  cpu: float
  spread: float


def in_turns(
  calls: Mapping[str, Callable[[], object]],
  rounds: int,
  *,
  warm_up: bool = True,
) -> dict[str, Timing]:
  """Calls each function once as a warm-up, then all in turn, `rounds` times.

  Args:
    calls: functions by name, which return when their work is done.
    rounds: number of measured calls of each.
    warm_up: False for calls of minutes, which are compiled already.
  """
  walls = {name: [] for name in calls}
  cpus = {name: [] for name in calls}
  for call in calls.values() if warm_up else ():
    call()
  for _ in range(rounds):
    for name, call in calls.items():
      wall, cpu = time.perf_counter(), time.process_time()
      call()
      cpus[name].append(time.process_time() - cpu)
      walls[name].append(time.perf_counter() - wall)
  return {
    name: Timing(
      wall=min(walls[name]),
      cpu=min(cpus[name]),
      spread=statistics.median(walls[name]) / min(walls[name]) - 1,
    )
    for name in calls
  }


def _facts(cost: capacity.Cost) -> dict[str, Any]:
  """What is known of a program without running it."""
  return {
    'compile_seconds': cost.compile_seconds,
    'flops': cost.flops,
    'flops_over_minimum': cost.flops / cost.minimum,
    'peak_bytes': cost.compiled,
  }


def rates(
  case: programs.Case,
  taken: dict[str, Timing],
  *,
  steps: int,
  minimum: int,
  facts: dict[str, Any],
) -> dict[str, Any]:
  """A row of a table.

  Args:
    case: the case that was measured; a call decodes or trains its completions.
    taken: times of 'ours', and of others to compare with.
    steps: number of denoising or optimizer steps of a call.
    minimum: operations that a call needs.
    facts: more entries of the row.
  """
  ours, tokens = taken['ours'], case.rows * case.decoder.gen_length
  device = jax.devices()[0]
  peak = hardware.peak_of(device.device_kind)
  return {
    'case': case.name,
    'params': flops.num_params(case.model),
    'device': device.device_kind,
    'tokens_per_second': tokens / ours.wall,
    'steps_per_second': steps / ours.wall,
    'mfu': minimum / ours.wall / peak if peak else None,
    'seconds': {name: time._asdict() for name, time in taken.items()},
    'speedup': {
      name: {
        'wall': time.wall / ours.wall,
        'cpu': time.cpu / ours.cpu,
      }
      for name, time in taken.items()
      if name != 'ours'
    },
    **facts,
  }


def reference_calls(
  reference: Any, make: Callable[[str, bool], Callable[[], None]]
) -> dict[str, Callable[[], None]]:
  """The calls of the PyTorch loops by name; none without PyTorch.

  Args:
    reference: the module `torch_reference`, or None.
    make: from 'published' or 'tuned', and whether it is tuned, to the call.
  """
  if reference is None:
    return {}
  return {
    f'torch_{name}': make(name, name == 'tuned')
    for name in ('published', 'tuned')
  }


def decode(
  case: programs.Case,
  mesh: Mesh,
  *,
  reference: Any,
  rounds: int,
  profiled: bool = False,
) -> dict[str, Any]:
  """Greedy decoding of a batch under the fixed schedule.

  Args:
    case: the model and its rollout.
    mesh: a mesh of one device.
    reference: the module `torch_reference`, or None.
    rounds: number of measured calls.
    profiled: whether to record the operations of our program.
  """
  params, ids = cases.weights(case.model), cases.prompts(case)
  compiled, cost = capacity.cost(case, mesh, 'rollout')
  args = (
    params,
    jax.random.key(0),
    prompts.RowPrompts(
      jnp.asarray(ids),
      jnp.ones(ids.shape, bool),
      jnp.arange(case.rows, dtype=jnp.int32),
    ),
    case.decoder,
  )
  completions = {}

  def ours():
    completions['ours'] = np.asarray(compiled(*args).tokens)

  if reference is not None:
    model = reference.Model(cfg=case.model, params=reference.leaves(params))

  def theirs(name, tuned):
    def call():
      completions[name] = reference.decode(model, case, ids, tuned=tuned)

    return call

  calls = {'ours': ours} | reference_calls(reference, theirs)
  taken = in_turns(calls, rounds)
  steps = case.decoder.num_steps
  row = rates(
    case,
    taken,
    steps=steps,
    minimum=steps * case.minimum()['rollout'],
    facts=_facts(cost),
  )
  if profiled:
    row['kernels'] = kernels.profile(ours, compiled)
  own = completions.pop('ours')
  for name, tokens in completions.items():
    row[f'same_as_{name}'] = float(np.mean(tokens == own))
  return row


def update(
  case: programs.Case,
  mesh: Mesh,
  *,
  reference: Any,
  rounds: int,
  profiled: bool = False,
) -> dict[str, Any]:
  """One inner step: all views forward and backward, and AdamW.

  Arguments are those of `decode`.
  """
  batch, key = cases.rollouts(case), jax.random.key(2)
  params = cases.weights(case.model)
  compiled, cost = capacity.cost(case, mesh, 'inner_step')
  optimizer = optim.make(case.optimizer)
  start = state_lib.copy_trained(params)
  state, frozen = state_lib.without_frozen(state_lib.create(start, optimizer))
  held = {'state': state, 'norms': []}
  shape = case.rows, *case.views
  old = jnp.full(shape, -3.0, jnp.float32)

  def ours():
    held['state'], metrics = compiled(
      held['state'], frozen, batch, old, None, key
    )
    held['norms'].append(float(metrics['policy/grad_norm']))

  norms = {}
  if reference is not None:
    views = jax.tree.map(np.asarray, case.estimator()(key, batch, case.vocab))
    inputs = jax.tree.map(
      np.asarray, (old[:, 0], batch.advantage, batch.completion_mask)
    )
    leaves = reference.leaves(params)

  def theirs(name, tuned):
    own = reference.copy_trained(leaves)
    model = reference.Model(cfg=case.model, params=own)
    trainer = reference.Trainer(model, case)

    def call():
      norms.setdefault(name, trainer.step(views, *inputs, tuned=tuned))

    return call

  calls = {'ours': ours} | reference_calls(reference, theirs)
  taken = in_turns(calls, rounds)
  row = rates(
    case,
    taken,
    steps=1,
    minimum=case.minimum()['inner_step'],
    facts=_facts(cost),
  )
  if profiled:
    row['kernels'] = kernels.profile(ours, compiled)
  for name, norm in norms.items():
    row[f'same_as_{name}'] = norm / held['norms'][0]
  return row


SUITES = {'decode': decode, 'update': update}
