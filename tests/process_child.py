"""One of the processes of tests/runtime/test_processes.py.

  python tests/process_child.py MODE PROCESS PORT OUT

A mode is a function below; what it returns goes to OUT.PROCESS.npz.
"""

import dataclasses
import os
import pathlib
import signal
import sys
import tempfile
import time

import numpy as np

from dllm_jax import errors
from dllm_jax.runtime import (
  distributed,
  process_rows,
  processes,
  sharding,
  watchdog,
)
from dllm_jax.tasks import countdown

COUNT, DEVICES = 2, 4  # processes, and devices of each
HEARTBEAT = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unjudged(countdown.Countdown):
  """Its verifier fails on the last row: the reward is NaN."""

  def score(self, row, completion):
    score = super().score(row, completion)
    if row['id'] != 'row3':
      return score
    nan = dict.fromkeys(score.terms, float('nan'))
    return score._replace(terms=nan, judged=False)


def updates(arg: str, **changes) -> dict[str, np.ndarray]:
  """Tokens, metrics and parameters of three updates of the tiny run."""
  import jax
  from jax.experimental import multihost_utils

  from dllm_jax.train import progress
  from tests import tiny_run

  cfg, ctx = tiny_run.parts(arg, **changes)
  if arg == 'cpc_grpo':
    tasks = [ctx.task.rows('train')[i] for i in range(4)]
  else:
    task = Unjudged(**dataclasses.asdict(ctx.task))
    ctx = dataclasses.replace(ctx, task=task)
    tasks = tiny_run.rows(*['5 + 3 - 1', '3 + 5 - 1', '5 - 1 + 3', '5'])
  method, state = tiny_run.start(cfg, ctx)
  layout = jax.tree.map(lambda leaf: leaf.sharding, state)
  found, count = {}, cfg.rollout.num_prompts * cfg.rollout.group_size
  count *= cfg.method.rows_per_rollout
  for step in range(3):
    batch, metrics = method.collect(state, tasks, step)
    own = process_rows.share(ctx.mesh, count)
    tokens = process_rows.fetch(batch.tokens)
    found[f'tokens/{step}'] = process_rows.gather(tokens, own, count)
    state, device = method.update(state, batch, step)
    state = jax.device_put(state, layout)
    metrics |= {k: float(v) for k, v in jax.device_get(device)[-1].items()}
    found |= {f'metric/{step}/{k}': np.float64(v) for k, v in metrics.items()}
  leaves = jax.tree.leaves(progress.on_one_mesh(state).params)
  whole = multihost_utils.process_allgather(leaves, tiled=True)
  return found | {f'leaf/{i}': np.asarray(x) for i, x in enumerate(whole)}


def message(call, *args, **kwargs) -> np.ndarray:
  """What the UserError of a call says."""
  try:
    call(*args, **kwargs)
  except errors.UserError as e:
    return np.array(str(e))
  return np.array('')


def agree(process: int) -> dict[str, np.ndarray]:
  """Everything that processes settle between them."""
  found = {}
  processes.barrier('a meeting')
  found['is_first'] = processes.is_first()
  # Flags of (none, one, none, both, the other), round by round.
  flags = [(0, 0), (0, 1), (0, 0), (1, 1), (1, 0)]
  found['any_of'] = [processes.any_of(bool(f[process])) for f in flags]
  processes.SLICE_SECONDS = 0.2  # process 0 takes several of them
  found['from_first'] = processes.from_first(
    'a value', lambda: time.sleep(1) or process + 5
  )
  found['from_first_error'] = message(processes.from_first, 'it', _refuse)
  found['exchanged'] = [
    value['x'] for value in processes.exchange('values', {'x': 7 * process})
  ]
  same = {'config.seed': 3, 'code': None}
  found['same'] = message(processes.check_same, same)
  other = same | {'config.seed': 3 + process}
  found['other'] = message(processes.check_same, other)
  found['absent'] = message(processes.check_same, {'key': 1} if process else {})

  mesh = sharding.make_mesh(sharding.MeshConfig())
  own = process_rows.share(mesh, 16)
  found['own'] = own
  found['own_of_padded'] = process_rows.share(mesh, 3, 8)
  square = process_rows.place(own**2, mesh, 16)
  found['sum'] = np.asarray(square.sum())
  found['fetched'] = process_rows.fetch(square)
  # Process 0 has three rows, process 1 two; one of them both have.
  index = np.array([[4, 0, 2], [3, 1, 2]])[process][: 3 - process]
  tree = {'x': index * 1.5, 'y': index[:, None] > np.arange(2)}
  gathered = process_rows.gather(tree, index, 5)
  found |= {f'gathered_{k}': v for k, v in gathered.items()}

  if process == 1:
    time.sleep(4)  # too late
  found['missing'] = message(processes.barrier, 'the feast', seconds=1)
  found['met'] = message(processes.barrier, 'the end')
  return found


def _refuse():
  raise errors.UserError('process 0 refuses')


def train(process: int) -> dict[str, np.ndarray]:
  """AG-GRPO, whose last prompt falls back to answer-free rows."""
  return updates(
    'ag_grpo', devices=COUNT * DEVICES, method__guided__max_anchor=6
  )


def train_failed(process: int) -> dict[str, np.ndarray]:
  """AG-GRPO that guides failed groups, with fewer and fewer rows."""
  return updates(
    'ag_grpo',
    devices=COUNT * DEVICES,
    method__guided__groups='failed',
    method__guided__credit='reasoning',
    method__guided__anneal_steps=2,
  )


def train_gated(process: int) -> dict[str, np.ndarray]:
  """TA-GRPO-d: gated rollouts, with the rewards of their steps."""
  return updates('ta_grpo_d', devices=COUNT * DEVICES)


def train_fsdp(process: int) -> dict[str, np.ndarray]:
  """Parameters in parts, of which a process holds half."""
  return updates('diffu_grpo', devices=1, mesh__fsdp=COUNT * DEVICES)


def train_tensor(process: int) -> dict[str, np.ndarray]:
  """All three axes; the processes differ in `data`."""
  return updates('diffu_grpo', devices=2, mesh__fsdp=2, mesh__tensor=2)


def train_consensus(process: int) -> dict[str, np.ndarray]:
  """CPC-GRPO: sets of paraphrases, whose pairs are spread over processes."""
  return updates('cpc_grpo', devices=COUNT * DEVICES)


def train_majority(process: int) -> dict[str, np.ndarray]:
  """Votes over sets, of which a process has read a part of the answers."""
  return updates('cpc_grpo', devices=COUNT * DEVICES, method__signal='majority')


def die(process: int) -> dict[str, np.ndarray]:
  """Process 1 dies while the other waits for it."""
  processes.barrier('a meeting')
  if process == 1:
    os.kill(os.getpid(), signal.SIGKILL)
  processes.barrier('what never comes')
  return {}


def stop(process: int) -> dict[str, np.ndarray]:
  """Process 1 is stopped, as a debugger or a hung file system would."""
  processes.barrier('a meeting')
  if process == 1:
    os.kill(os.getpid(), signal.SIGSTOP)
  processes.barrier('what never comes')
  return {}


def stick(process: int) -> dict[str, np.ndarray]:
  """Process 1 lives, and does nothing; the other's watchdog has 4 s."""
  processes.barrier('a meeting')
  if process == 1:
    time.sleep(6)
    return {}
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'watchdog.txt'
    with watchdog.Watchdog(path, seconds=4) as watch:
      watch.beat('a step')
      watch.beat('a step')
      return {'missing': message(processes.barrier, 'the step')}


MODES = {
  f.__name__: f
  for f in (
    agree,
    train,
    train_failed,
    train_gated,
    train_fsdp,
    train_tensor,
    train_consensus,
    train_majority,
    die,
    stop,
    stick,
  )
}


def main(mode: str, process: int, port: str, out: pathlib.Path) -> None:
  distributed.start(
    distributed.ProcessConfig(
      coordinator=f'localhost:{port}',
      num_processes=COUNT,
      process_id=process,
      heartbeat_seconds=HEARTBEAT,
      barrier_seconds=120,
    )
  )
  np.savez(out.with_suffix(f'.{process}.npz'), **MODES[mode](process))


if __name__ == '__main__':
  main(sys.argv[1], int(sys.argv[2]), sys.argv[3], pathlib.Path(sys.argv[4]))
