"""Memory of a device, estimated from shapes.

The state of a run is exact: one shard of every leaf. The temporaries of a
program are an estimate of its largest arrays as an accelerator would keep them
(bfloat16 stays bfloat16): the saved inputs of the blocks, the work of one
block, gathered weights and a chunk of logits. Norms and indices are left out.
"""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dllm_jax.bench import flops, programs
from dllm_jax.models import config
from dllm_jax.rl import logprobs
from dllm_jax.train import state as state_lib

_FLOAT32 = 4  # bytes


def shard_bytes(tree: Any) -> int:
  """Bytes of one device's shard of every leaf, except for PRNG keys."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
    if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
  )


def held(case: programs.Case, mesh: Mesh) -> int:
  """Bytes of training state and reference, which a run always holds.

  The reference shares the frozen leaves and has its own trained ones.
  """
  reference = shard_bytes(_trained(case, mesh)) if case.policy.has_kl else 0
  return shard_bytes(programs.state(case, mesh)) + reference


def beside(case: programs.Case, mesh: Mesh, program: str) -> int:
  """Bytes that a run holds besides the arguments of the program."""
  if program == 'inner_step':
    return held(case, mesh) - shard_bytes(programs.state(case, mesh))
  return held(case, mesh) - shard_bytes(programs.params(case, mesh))


def _trained(case: programs.Case, mesh: Mesh) -> Any:
  return state_lib.split(programs.params(case, mesh))[0]


def peak(case: programs.Case, mesh: Mesh, program: str) -> int:
  """Estimated peak of a program of `programs.PROGRAMS`, with its arguments."""
  if program == 'rollout':
    arguments = shard_bytes(programs.params(case, mesh))
    return arguments + _forward(
      case, mesh, case.rows, case.decoder.block_length
    )
  views, slots = case.views
  rows = case.rows * views // case.policy.num_micro
  work = _forward(case, mesh, rows, min(slots, logprobs.CHUNK))
  if program == 'read':
    return shard_bytes(programs.params(case, mesh)) + work
  return (
    shard_bytes(programs.state(case, mesh))
    + work
    + _backward(case, mesh, rows, min(slots, logprobs.CHUNK))
  )


def _forward(case: programs.Case, mesh: Mesh, rows: int, queries: int) -> int:
  """The work of one block, and the weights that are gathered.

  Args:
    case: the step.
    mesh: its devices.
    rows: on all devices together.
    queries: columns of a row that are unembedded at a time.
  """
  cfg, tensor = case.model, mesh.shape['tensor']
  width = np.dtype(jax.numpy.dtype(cfg.dtype)).itemsize
  rows = rows // (mesh.shape['data'] * mesh.shape['fsdp'])
  columns, weights = case.columns, flops.size(cfg)
  scores = _scores(cfg, rows, columns, _FLOAT32 + width)
  mlp = 3 * rows * columns * cfg.mlp_size * width
  stream = 3 * rows * columns * cfg.hidden_size * width
  logits = 3 * rows * queries * cfg.vocab_size * _FLOAT32
  gathered = 0
  if mesh.shape['fsdp'] > 1:  # one layer in use, and the next
    gathered = 2 * weights.layer + 2 * weights.unembedding
  split = max(scores, mlp) + logits + gathered * width
  return stream + split // tensor


def _scores(
  cfg: config.ModelConfig, rows: int, columns: int, width: int
) -> int:
  """Attention scores of one layer, which cuDNN does not store."""
  if cfg.attention == 'cudnn':
    return 0
  return rows * cfg.num_heads * columns**2 * width


def _backward(case: programs.Case, mesh: Mesh, rows: int, queries: int) -> int:
  """Saved activations, gradients and the backward work of one block.

  Arguments are those of `_forward`.
  """
  cfg, tensor = case.model, mesh.shape['tensor']
  width = np.dtype(jax.numpy.dtype(cfg.dtype)).itemsize
  rows = rows // (mesh.shape['data'] * mesh.shape['fsdp'])
  columns = case.columns
  stream = rows * columns * cfg.hidden_size * width
  scores = _scores(cfg, rows, columns, 2 * _FLOAT32 + width)
  hidden = rows * columns * cfg.mlp_size * width
  saved = cfg.num_layers * stream
  if cfg.remat != 'block':  # products with weights are saved too
    saved += cfg.num_layers * (6 * stream + 3 * hidden // tensor)
  if cfg.remat == 'none':  # and scores
    saved += cfg.num_layers * scores // tensor
  work = 4 * stream + max(scores, 3 * hidden) // tensor
  logits = 2 * rows * queries * cfg.vocab_size * _FLOAT32 // tensor
  # The float32 gradients of a micro-batch and their sum. Those of one layer and
  # of both embedding tables are whole before they are sharded.
  trained = _trained(case, mesh)
  sums = 2 * sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * _FLOAT32
    for leaf in jax.tree.leaves(trained)
  )
  if not cfg.lora_rank:
    weights = flops.size(cfg)
    sums += (weights.layer + 2 * weights.unembedding) * _FLOAT32 // tensor
  return saved + work + logits + sums
