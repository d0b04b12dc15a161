"""Random keys: every draw is a function of (seed, stream, step, row).

A run has one root key. `step_key` folds in the stream and the step, `row_keys`
the global number of each row, and loops fold in their own step. So no draw
depends on the order of computation, the batch or the number of devices, and a
run that resumes at step s needs only s.
"""

from typing import Literal

import jax
import numpy as np
from jaxtyping import Array, Int, Key

Stream = Literal[
  'init', 'sft', 'rollout', 'estimator', 'eval', 'control', 'reward'
]
STREAMS = {
  'init': 0,
  'sft': 1,
  'rollout': 2,
  'estimator': 3,
  'eval': 4,
  'control': 5,
  'reward': 6,
}


def step_key(root: Key[Array, ''], stream: Stream, step: int) -> Key[Array, '']:
  """The key of a stream at a step of the run."""
  return jax.random.fold_in(jax.random.fold_in(root, STREAMS[stream]), step)


def host_seed(seed: int, stream: Stream) -> int:
  """A seed for draws on the host, independent across seeds and streams."""
  words = np.random.SeedSequence([seed, STREAMS[stream]]).generate_state(1)
  return int(words[0])


def row_keys(key: Key[Array, ''], row_id: Int[Array, ' B']) -> Key[Array, ' B']:
  """One key per row, from the row's global number."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, row_id)
