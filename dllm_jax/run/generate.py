"""Completions of given prompts: everything that `launch/generate.py` does.

Rows are decoded in batches, in their order; a row's completion depends neither
on its batch nor on the padding. Dims: B rows, P prompt columns, L completion
columns.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key

from dllm_jax import errors, types
from dllm_jax import model as model_lib
from dllm_jax.decoding import guidance
from dllm_jax.ops import streams
from dllm_jax.rollout import answer_free, prompts
from dllm_jax.run import prompt_file, replay, row_file
from dllm_jax.runtime import console, sharding
from dllm_jax.text import chat
from dllm_jax.text import tokenizer as tokenizer_lib

# Prompts are padded to a multiple of this, so that few shapes are compiled.
WIDTH = 32
# Of `Decoding.changes`, those that the other decoder would not read.
_IDLE = {
  'fixed': (('threshold', 'gate', 'top_p'), 'gated'),
  'gated': (('num_steps', 'order', 'schedule'), 'fixed'),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
  """How to decode, as far as the user says.

  Attributes:
    changes: fields of `RolloutConfig`, over those of the model.
    seed: of the draws; a row's are those of its place in the file.
    batch_size: rows decoded together.
  """

  changes: Mapping[str, Any]
  seed: int = 0
  batch_size: int = 8


class _Decoder(NamedTuple):
  """What a batch is decoded with."""

  denoiser: types.Denoiser
  params: types.Params
  vocab: types.Vocabulary
  cfg: answer_free.RolloutConfig
  key: Key[Array, '']
  mesh: Mesh


def generate(
  name: str | pathlib.Path,
  requests: Sequence[prompt_file.Request],
  decoding: Decoding,
  *,
  mesh: Mesh,
  screen: console.Console,
  params: str | None = None,
  use_chat: bool | None = None,
  out: pathlib.Path | None = None,
  watch: bool = False,
) -> None:
  """Decodes prompts, and writes or shows their completions.

  Args:
    name: of the model, as `Model.open` takes it.
    requests: the prompts.
    decoding: how.
    mesh: `data` and `fsdp` split the rows of a batch.
    screen: where progress, and the canvas, go.
    params: which model of a run; None is 'final'.
    use_chat: whether text gets the chat template; see
      `Model.prompt_template`.
    out: a new file of rows; None: rows go to the standard output, unless the
      canvas is watched.
    watch: shows how each row was unmasked, step by step.

  Raises:
    errors.UserError: a model, a row, a flag or a file that is not as it must
      be; but for the disk, before any weight is read.
  """
  source = model_lib.Model.describe(name, params=params)
  source.check_masked()
  cfg = settle(source.decoding, decoding.changes)
  template = chat.PLAIN
  if any(request.text is not None for request in requests):
    template = source.prompt_template(use_chat, str(name))
    if template != chat.PLAIN:
      screen.line('prompts are put into the chat template (--nochat: not)')
  rows = [encode(request, source, template) for request in requests]
  with _outlet(out, watch) as write:
    found = _completions(
      _open(source, cfg, decoding, mesh, screen),
      requests,
      rows,
      decoding.batch_size,
      source.tokenizer,
    )
    if watch:
      for row in found:
        write(row)
        replay.play(row, source.tokenizer, screen)
    else:
      with screen.stage('generating', len(rows)) as bar:
        for row in found:
          write(row)
          bar.step()
  if out is not None:
    screen.line(f'written: {out}')


def settle(
  cfg: answer_free.RolloutConfig, changes: Mapping[str, Any]
) -> answer_free.RolloutConfig:
  """The decoding of a model with the user's changes.

  A completion of another length has as many tokens a step as the model's, and
  its block is no longer than itself.

  Raises:
    errors.UsageError: a change that the decoder would not read, or a wrong one.
  """
  decode = changes.get('decode', cfg.decode)
  idle, other = _IDLE[decode]
  for field in idle:
    if field in changes:
      flag = 'steps' if field == 'num_steps' else field
      raise errors.UsageError(
        f'--{flag} is not read by the {decode} decoder; give --decode {other}'
      )
  length = changes.get('gen_length', cfg.gen_length)
  if changes.get('num_steps', 0) > length:
    raise errors.UsageError(
      f'--steps {changes["num_steps"]} is more than the {length} tokens of a '
      'completion; each step commits one at least'
    )
  derived = {
    'block_length': min(cfg.block_length, length),
    'num_steps': max(1, length * cfg.num_steps // cfg.gen_length),
  }
  try:
    return dataclasses.replace(cfg, **derived | dict(changes))
  except ValueError as e:
    raise errors.UsageError(f'{e}; see --help') from e


def encode(
  request: prompt_file.Request,
  source: model_lib.Model,
  template: chat.ChatTemplate,
) -> list[int]:
  """The ids of a prompt.

  Raises:
    errors.UserError: names the row's place, and what is wrong with it.
  """
  if request.text is None:
    rows = source.denoiser.cfg.vocab_size
    if max(request.ids) >= rows:
      raise errors.UserError(
        f'{request.where}: prompt_ids has {max(request.ids)}, and the model '
        f'has ids up to {rows - 1}'
      )
    return list(request.ids)
  if source.tokenizer is None:
    raise errors.UserError(
      f'{request.where}: the prompt is text, and the model has no tokenizer; '
      'give prompt_ids, or put the tokenizer into its folder'
    )
  try:
    pieces = template.render(request.text, source.prefill)
    ids = source.tokenizer.encode_pieces([pieces])[0].ids
  except ValueError as e:
    hint = ''
    if source.overrides is not None:
      hint = (
        '; the model of a run knows the words of its task alone, most with the '
        "space before them (' 3', not '3'): write the prompt as the task does"
      )
    raise errors.UserError(f'{request.where}: {e}{hint}') from e
  if not ids:
    raise errors.UserError(f'{request.where}: the prompt has no tokens')
  return ids


@contextlib.contextmanager
def _outlet(
  out: pathlib.Path | None, watch: bool
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
  """A function that takes a row."""
  if out is not None:
    with row_file.new(out) as write:
      yield write
  elif watch:
    yield lambda row: None
  else:
    yield _print_row


def _print_row(row: Mapping[str, Any]) -> None:
  try:
    print(json.dumps(row), flush=True)
  except OSError as e:
    raise errors.UserError(f'rows cannot be printed: {e.strerror}') from e


def _open(
  source: model_lib.Model,
  cfg: answer_free.RolloutConfig,
  decoding: Decoding,
  mesh: Mesh,
  screen: console.Console,
) -> _Decoder:
  model = source.load(mesh, console=screen)
  denoiser, params = guidance.guided(
    model.denoiser,
    model.params,
    cfg.cfg_scale,
    gen_length=cfg.gen_length,
    vocab=source.vocab,
  )
  return _Decoder(
    denoiser=denoiser,
    params=params,
    vocab=source.vocab,
    cfg=cfg,
    # As `eval.accuracy` draws, so that the same rows are decoded alike.
    key=streams.step_key(jax.random.key(decoding.seed), 'eval', 0),
    mesh=mesh,
  )


def _completions(
  decoder: _Decoder,
  requests: Sequence[prompt_file.Request],
  rows: Sequence[list[int]],
  batch_size: int,
  tokenizer: tokenizer_lib.Tokenizer | None,
) -> Iterator[dict[str, Any]]:
  """The rows that are written, in order."""
  shards = sharding.num_row_shards(decoder.mesh)
  num_rows = -(-min(batch_size, len(rows)) // shards) * shards
  for start in range(0, len(rows), num_rows):
    chunk = slice(start, start + num_rows)
    found = _decode(decoder, rows[chunk], start, num_rows)
    for i, ids in enumerate(rows[chunk]):
      tokens = found.tokens[i].tolist()
      yield {
        'id': requests[start + i].id,
        'prompt_ids': ids,
        'completion_ids': tokens,
        'text': None if tokenizer is None else replay.text(tokenizer, tokens),
        'commit_step': found.commit_step[i].tolist(),
        'num_steps': int(found.num_steps[i]),
        'logp': found.logp[i].tolist(),
      }


def _decode(
  decoder: _Decoder, rows: Sequence[list[int]], start: int, num_rows: int
) -> types.Trajectory:
  """One batch, padded to `num_rows`; the result is on the host."""
  width = -(-max(map(len, rows)) // WIDTH) * WIDTH
  padded = prompts.pad_left(rows, width, decoder.vocab.eos_token)
  row_id = np.arange(start, start + len(rows), dtype=np.int32)
  trajectory = answer_free.sample(
    decoder.denoiser,
    decoder.params,
    decoder.key,
    prompts.pad_rows(padded.ids, num_rows),
    prompts.pad_rows(padded.mask, num_rows),
    prompts.pad_rows(row_id, num_rows),
    decoder.cfg.dials(),
    mesh=decoder.mesh,
    vocab=decoder.vocab,
    decoder=decoder.cfg.decoder(),
  )
  return jax.device_get(trajectory)
