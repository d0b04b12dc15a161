"""Bytes of a device, from the shapes of what lies on it.

What a run holds is exact: every leaf's shard. What a program makes beside that
is an estimate of its largest arrays, as an accelerator would keep them
(bfloat16 stays bfloat16): the saved inputs of the blocks, the work of one
block, gathered weights, and a chunk of logits. Norms and indices are left out.
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

_WIDE = 4  # bytes of a float32


def shard_bytes(tree: Any) -> int:
  """Of one device's part of every leaf."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
    if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
  )


def held(case: programs.Case, mesh: Mesh) -> int:
  """Of training state and reference: what a run always has.

  A reference shares the frozen leaves, and has trained ones of its own.
  """
  reference = shard_bytes(_trained(case, mesh)) if case.policy.has_kl else 0
  return shard_bytes(programs.state(case, mesh)) + reference


def beside(case: programs.Case, mesh: Mesh, program: str) -> int:
  """What a run holds that is no argument of the program."""
  if program == 'inner_step':
    return held(case, mesh) - shard_bytes(programs.state(case, mesh))
  return held(case, mesh) - shard_bytes(programs.params(case, mesh))


def _trained(case: programs.Case, mesh: Mesh) -> Any:
  return state_lib.split(programs.params(case, mesh))[0]


def peak(case: programs.Case, mesh: Mesh, program: str) -> int:
  """Estimated peak of a program of `programs.PROGRAMS`, arguments included."""
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
  """One block at work, the weights that it and the unembedding gather."""
  cfg, tensor = case.model, mesh.shape['tensor']
  width = np.dtype(jax.numpy.dtype(cfg.dtype)).itemsize
  rows = rows // (mesh.shape['data'] * mesh.shape['fsdp'])
  columns, weights = case.columns, flops.size(cfg)
  scores = _scores(cfg, rows, columns, _WIDE + width)
  mlp = 3 * rows * columns * cfg.mlp_size * width
  stream = 3 * rows * columns * cfg.hidden_size * width
  logits = 3 * rows * queries * cfg.vocab_size * _WIDE
  gathered = 0
  if mesh.shape['fsdp'] > 1:  # one layer in use and one on its way
    gathered = 2 * weights.layer + 2 * weights.unembedding
  split = max(scores, mlp) + logits + gathered * width
  return stream + split // tensor


def _scores(
  cfg: config.ModelConfig, rows: int, columns: int, width: int
) -> int:
  """Tables of attention, which cuDNN does without."""
  if cfg.attention == 'cudnn':
    return 0
  return rows * cfg.num_heads * columns**2 * width


def _backward(case: programs.Case, mesh: Mesh, rows: int, queries: int) -> int:
  """Saved activations, gradients, and the work of one block's backward."""
  cfg, tensor = case.model, mesh.shape['tensor']
  width = np.dtype(jax.numpy.dtype(cfg.dtype)).itemsize
  rows = rows // (mesh.shape['data'] * mesh.shape['fsdp'])
  columns = case.columns
  stream = rows * columns * cfg.hidden_size * width
  scores = _scores(cfg, rows, columns, 2 * _WIDE + width)
  hidden = rows * columns * cfg.mlp_size * width
  saved = cfg.num_layers * stream
  if cfg.remat != 'block':  # products with weights are kept, too
    saved += cfg.num_layers * (6 * stream + 3 * hidden // tensor)
  if cfg.remat == 'none':  # and scores
    saved += cfg.num_layers * scores // tensor
  work = 4 * stream + max(scores, 3 * hidden) // tensor
  logits = 2 * rows * queries * cfg.vocab_size * _WIDE // tensor
  # A micro-batch's gradients and their sum, in float32; whole, before they are
  # divided, those of one layer and of both tables.
  trained = _trained(case, mesh)
  sums = 2 * sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * _WIDE
    for leaf in jax.tree.leaves(trained)
  )
  if not cfg.lora_rank:
    weights = flops.size(cfg)
    sums += (weights.layer + 2 * weights.unembedding) * _WIDE // tensor
  return saved + work + logits + sums
