"""The same work in eager PyTorch, as public code for these models does it.

The loops are our own, after LLaDA's `generate.py` and d1's trainer. `published`
runs the canvas without a mask, unembeds every column, takes confidences from a
float64 softmax over the vocabulary and selects columns in a Python loop over
rows; its update unembeds every column too. `tuned` has those of our
optimisations that eager PyTorch allows: only queried columns are unembedded, in
float32, and all rows select together. Attention is
`scaled_dot_product_attention`; gradients and AdamW are PyTorch's. Decoding is
greedy. If a model has adapters, only they are trained; they are float32, but
multiplied in the dtype of the activations, as under PyTorch's autocast. Models
have no biases and no query or key norms. This is the only module that may
import torch, and it is imported only on request.

Dims: B rows, S columns, P prompt columns, L completion columns, D model.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch.nn import functional as F

from dllm_jax import types
from dllm_jax.bench import programs
from dllm_jax.models import config
from dllm_jax.rl import logprobs
from dllm_jax.train import state


def device() -> str:
  """The device that JAX uses: the GPU or the CPU."""
  on_gpu = jax.default_backend() == 'gpu' and torch.cuda.is_available()
  return 'cuda' if on_gpu else 'cpu'


def leaves(params: types.Params) -> Any:
  """Our parameters as tensors; trained ones require gradients."""
  trained, frozen = state.split(params)
  tensors = {k: _tensor(v).requires_grad_() for k, v in trained.items()}
  return state.merge(tensors, {k: _tensor(v) for k, v in frozen.items()})


def copy_trained(params: Any) -> Any:
  """The same parameters with a copy of the trained ones."""
  trained, frozen = state.split(params)
  copied = {k: v.detach().clone() for k, v in trained.items()}
  return state.merge({k: v.requires_grad_() for k, v in copied.items()}, frozen)


def _tensor(leaf: Any) -> torch.Tensor:
  leaf = np.asarray(leaf)
  if leaf.dtype == jnp.bfloat16:  # PyTorch does not know NumPy's
    bits = torch.tensor(leaf.view(np.int16), device=device())
    return bits.view(torch.bfloat16)
  return torch.tensor(leaf, device=device())


def _norm(x, weight, eps):
  return F.rms_norm(x, (x.shape[-1],), weight, eps)


def _rotate(x, cos, sin):
  left, right = x.chunk(2, dim=-1)
  rotated = x * cos + torch.cat([-right, left], -1) * sin
  return rotated.to(x.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """The transformer of `models.network`, bidirectional, without a mask."""

  cfg: config.ModelConfig
  params: Any

  def hidden(self, tokens: Any) -> Any:
    """Hidden states [B, S, D] after the final norm, of tokens [B, S]."""
    cfg, half = self.cfg, self.cfg.head_dim // 2
    arange = lambda n: torch.arange(
      n, device=tokens.device, dtype=torch.float32
    )
    frequencies = cfg.rope_theta ** (-arange(half) / half)
    angles = torch.outer(arange(tokens.shape[1]), frequencies).repeat(1, 2)
    rotation = angles.cos(), angles.sin()
    x = F.embedding(tokens, self.params['embed_tokens'])
    for i in range(cfg.num_layers):
      x = self._block(x, i, rotation)
    return _norm(x, self.params['norm']['weight'], cfg.norm_eps)

  def _block(self, x: Any, i: int, rotation: tuple[Any, Any]) -> Any:
    cfg, layer = self.cfg, self.params['layers']
    rows, size, _ = x.shape
    mix, mlp = layer['self_attn'], layer['mlp']
    y = _norm(x, layer['input_layernorm']['weight'][i], cfg.norm_eps)

    def heads(name, count):
      z = self._linear(y, mix[name], i)
      return z.view(rows, size, count, cfg.head_dim).transpose(1, 2)

    q = _rotate(heads('q_proj', cfg.num_heads), *rotation)
    k = _rotate(heads('k_proj', cfg.num_kv_heads), *rotation)
    v = heads('v_proj', cfg.num_kv_heads)
    mixed = F.scaled_dot_product_attention(
      q, k, v, enable_gqa=cfg.num_heads > cfg.num_kv_heads
    )
    mixed = mixed.transpose(1, 2).reshape(rows, size, -1)
    x = x + self._linear(mixed, mix['o_proj'], i)
    y = _norm(x, layer['post_attention_layernorm']['weight'][i], cfg.norm_eps)
    gate = F.silu(self._linear(y, mlp['gate_proj'], i))
    up = self._linear(y, mlp['up_proj'], i)
    return x + self._linear(gate * up, mlp['down_proj'], i)

  def _linear(self, x: Any, linear: Any, i: int) -> Any:
    y = x @ linear['kernel'][i]
    if not self.cfg.lora_rank:
      return y
    a, b = (linear[f'lora_{part}'][i].to(x.dtype) for part in 'ab')
    return y + self.cfg.lora_alpha / self.cfg.lora_rank * (x @ a @ b)

  def logits(self, hidden: Any) -> Any:
    """Logits [B, S, V] of hidden states [B, S, D]."""
    return hidden @ self.params['lm_head']['kernel']


@torch.inference_mode()
def decode(
  model: Model,
  case: programs.Case,
  prompts: Int[np.ndarray, 'B P'],
  *,
  tuned: bool,
) -> Int[np.ndarray, 'B L']:
  """Greedy completions, block by block, with as many tokens per step as ours.

  Args:
    model: the model with its weights.
    case: its decoder gives lengths and number of steps.
    prompts: token ids without padding.
    tuned: whether to use our optimisations; see the module's docstring.
  """
  cfg, mask = case.decoder, case.vocab.mask_token
  device = model.params['embed_tokens'].device
  blank = np.full((len(prompts), cfg.gen_length), mask, prompts.dtype)
  tokens = torch.tensor(np.concatenate([prompts, blank], 1), device=device)
  tokens = tokens.long()
  steps = cfg.block_steps()
  for begin in range(prompts.shape[1], tokens.shape[1], cfg.block_length):
    block = slice(begin, begin + cfg.block_length)
    for step in range(steps):
      left = int((tokens[0, block] == mask).sum())  # equal in all rows
      quota = -(-left // (steps - step))
      (_tuned_step if tuned else _published_step)(
        model, tokens, block, quota, mask
      )
  return tokens[:, prompts.shape[1] :].cpu().numpy().astype(np.int32)


def _published_step(model, tokens, block, quota, mask) -> None:
  """Unembeds all columns; confidences in float64; loops over rows."""
  logits = model.logits(model.hidden(tokens))
  logits[..., mask] = -torch.inf
  proposal = logits.argmax(-1)
  share = F.softmax(logits.to(torch.float64), dim=-1)
  confidence = share.gather(-1, proposal[..., None])[..., 0]
  confidence[:, block.stop :] = -torch.inf
  confidence[tokens != mask] = -torch.inf
  chosen = torch.zeros_like(tokens, dtype=torch.bool)
  for row in range(len(tokens)):
    chosen[row, confidence[row].topk(quota).indices] = True
  tokens[chosen] = proposal[chosen]


def _tuned_step(model, tokens, block, quota, mask) -> None:
  """Unembeds the block; confidences in float32; all rows at once."""
  logits = model.logits(model.hidden(tokens)[:, block]).float()
  logits[..., mask] = -torch.inf
  best, proposal = logits.max(-1)
  confidence = best - logits.logsumexp(-1)
  confidence = confidence.where(tokens[:, block] == mask, -torch.inf)
  at = confidence.topk(quota, dim=-1).indices
  tokens[:, block].scatter_(1, at, proposal.gather(1, at))


class Trainer:
  """An inner step of diffu-GRPO with AdamW and micro-batches."""

  def __init__(self, model: Model, case: programs.Case):
    self._model, self._case = model, case
    cfg = case.optimizer
    self._weights = list(state.split(model.params)[0].values())
    self._optimizer = torch.optim.AdamW(
      self._weights,
      lr=cfg.learning_rate,
      betas=(cfg.b1, cfg.b2),
      eps=cfg.eps,
      weight_decay=cfg.weight_decay,
    )

  def step(
    self,
    views: logprobs.Views,
    old_logp: Float[np.ndarray, 'B L'],
    advantage: Float[np.ndarray, 'B L'],
    mask: Bool[np.ndarray, 'B L'],
    *,
    tuned: bool,
  ) -> float:
    """One optimizer step on the clipped surrogate; the gradient norm.

    Args:
      views: one view per row with all L slots, as NumPy arrays.
      old_logp: log-probabilities under the rollout policy, in nats.
      advantage: advantage of every token.
      mask: True for tokens that count.
      tuned: whether to unembed the completion only instead of every column.
    """
    case = self._case
    size, eps = case.decoder.gen_length, case.policy.eps
    device = self._weights[0].device
    tensor = lambda x: torch.tensor(np.asarray(x), device=device)
    canvas, target = tensor(views.tokens[:, 0]), tensor(views.target[:, 0])
    old, signal, counted = map(tensor, (old_logp, advantage, mask))
    total = counted.sum()
    for part in torch.arange(len(canvas)).chunk(case.policy.num_micro):
      hidden = self._model.hidden(canvas[part].long())
      if tuned:
        logits = self._model.logits(hidden[:, -size:])
      else:
        logits = self._model.logits(hidden)[:, -size:]
      logits = logits.float()
      logits[..., case.vocab.mask_token] = -torch.inf
      logp = -F.cross_entropy(
        logits.flatten(0, 1),
        target[part].flatten().long(),
        reduction='none',
      ).view(len(part), size)
      ratio = torch.exp(logp - old[part])
      gain = torch.minimum(
        ratio * signal[part],
        ratio.clamp(1 - eps, 1 + eps) * signal[part],
      )
      loss = -(gain * counted[part]).sum() / total
      loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(
      self._weights, case.optimizer.max_grad_norm
    )
    self._optimizer.step()
    self._optimizer.zero_grad(set_to_none=True)
    return float(norm)
